"""Warnings come once, and only where something is wrong. The last lines of a run.."""

from __future__ import annotations

from ponder.evaluation.question import Evaluation
from ponder.training.diagnostics import RunWarnings, verdict

STEP = {"thought_entropy": 1.5, "flat_groups": 0.3}
EVALUATION = {"accuracy": 0.5, "necessity/own": 0.5, "necessity/shuffled": 0.1,
              "necessity/random": 0.1, "necessity/dropped": 0.1, "thought/length": 4.0,
              "thought/repetition": 0.2}


def heard(*lines: dict[str, float], explores: bool = True, vocabulary: int = 10) -> list[str]:
    said: list[str] = []
    warnings = RunWarnings(vocabulary, explores, said.append)
    for line in lines:
        warnings.update(line)
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
    assert heard(needless, needless) == ["answers do not need "]
    assert heard(needless, vocabulary=0) == []
    assert heard({**needless, "necessity/own": 0.1, "necessity/shuffled": 0.1}) == []


def test_repetition() -> None:
    assert heard({**EVALUATION, "thought/repetition": 0.95}) == ["95% of thought token"]
    assert heard({**EVALUATION, "thought/repetition": 0.95, "thought/length": 2.0}) == []


def test_accuracy_at_chance_after_many_steps() -> None:
    """0.03 of guessing 0.01 with a standard error of 0.01 may be luck; 0.04 is not."""
    said: list[str] = []
    warnings = RunWarnings(10, True, said.append, chance=0.01)
    found = {**EVALUATION, "necessity/own": 0.04, "accuracy_stderr": 0.01}
    warnings.update({**found, "accuracy": 0.03}, 299)
    warnings.update({**found, "accuracy": 0.04}, 300)
    assert said == []
    for step in (300, 600):
        warnings.update({**found, "accuracy": 0.03}, step)
    assert len(said) == 1 and "accuracy 0.030" in said[0] and "(0.010) after 300 steps" in said[0]


TABLE = {"necessity/own": 0.5, "necessity/shuffled": 0.25, "necessity/random": float("nan"),
         "necessity/dropped": 0.0}


def test_the_accuracy_has_its_standard_error_and_thoughts_their_table() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "thought/length": 2.0, **TABLE},
                       [])
    first, second = verdict(found).splitlines()
    assert second == "accuracy 0.5000 ± 0.1000"
    assert first.endswith("own 0.500  shuffled 0.250  dropped 0.000")


def test_other_questions_stand_above_the_accuracy() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "thought/length": 2.0, **TABLE,
                        "asked/accuracy": 0.75, "unasked/accuracy": 0.625}, [])
    _, asked, last = verdict(found).splitlines()
    assert asked == "other questions about the same thoughts asked in training 0.750  " \
                    "never asked 0.625"
    assert last == "accuracy 0.5000 ± 0.1000"


def test_none_right_of_four_is_not_certain() -> None:
    """Wilson's upper end is z^2 / (n + z^2) = 3.8416 / 7.8416 = 0.4899."""
    found = Evaluation({"accuracy": 0.0, "accuracy_stderr": 0.0}, [{}] * 4)
    assert "0.0000 to 0.4899" in verdict(found)


def test_a_run_without_thoughts_has_no_table_of_them() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "thought/length": 0.0, **TABLE},
                       [])
    assert verdict(found) == "accuracy 0.5000 ± 0.1000"


def test_a_reward_is_said_first() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "val/reward": -2.0,
                        "val/reward_stderr": 0.25}, [])
    assert verdict(found) == "reward -2.0000 ± 0.2500, accuracy 0.5000 ± 0.1000"
