"""Warnings come once, for what is wrong, and not for what is well."""

from __future__ import annotations

from ponder.training.watch import Watch

STEP = {"thought_entropy": 1.5, "flat_groups": 0.3}
EVALUATION = {"accuracy": 0.5, "necessity/own": 0.5, "necessity/shuffled": 0.1,
              "necessity/random": 0.1, "necessity/dropped": 0.1, "thought/length": 4.0,
              "thought/repetition": 0.2}


def heard(*lines: dict[str, float], explores: bool = True, vocabulary: int = 10) -> list[str]:
    said: list[str] = []
    watch = Watch(vocabulary, explores, said.append)
    for line in lines:
        watch.hear(line)
    return [text.split(":")[1].strip()[:20] for text in said]


def test_a_healthy_run_is_left_alone() -> None:
    assert heard(*[STEP, EVALUATION] * 20) == []


def test_collapsed_entropy_is_said_once_and_only_where_answers_are_poor() -> None:
    silent = {**STEP, "thought_entropy": 0.01}
    assert heard(EVALUATION, silent, silent) == ["thought entropy has "]
    assert heard({**EVALUATION, "accuracy": 0.99}, silent) == []
    assert heard(EVALUATION, silent, explores=False) == []


def test_flat_groups_must_last() -> None:
    flat = {**STEP, "flat_groups": 1.0}
    assert heard(EVALUATION, *[flat] * 9, STEP, *[flat] * 9) == []
    assert heard(EVALUATION, *[flat] * 10) == ["in nearly all groups"]


def test_needless_thoughts() -> None:
    needless = {**EVALUATION, "necessity/shuffled": 0.49}
    assert heard(needless, needless) == ["nobody needs the tho"]
    assert heard(needless, vocabulary=0) == []
    assert heard({**needless, "necessity/own": 0.1, "necessity/shuffled": 0.1}) == []


def test_repetition() -> None:
    assert heard({**EVALUATION, "thought/repetition": 0.95}) == ["95% of thought token"]
    assert heard({**EVALUATION, "thought/repetition": 0.95, "thought/length": 2.0}) == []
