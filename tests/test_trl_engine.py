"""`trainer.engine=trl` beside our own loop, and pairs exported for TRL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Door
from ponder import build_text
from questions import file_of, save_language_model

pytest.importorskip("trl", reason="trl is not installed (pip install '.[peers]')")
pytestmark = pytest.mark.slow
PAIRS = 20
TINY = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=hf", "model.name=model", "task.data=questions.csv", "task.test_questions=4",
        "task.answer=generated", "thinker.tokens=24", "rollout.samples=4", "trainer.lr=1e-3",
        "trainer.warmup=2", "trainer.threads=1", "trainer.internal_epochs=3"]
PRELOADED = "trainer.preload_data_for_training=generated.csv"


@pytest.fixture
def run(door: Door, monkeypatch: pytest.MonkeyPatch) -> Door:
    """The door, with a model, questions, and four texts about each: two of them right."""
    monkeypatch.setattr(build_text, "CACHE", Path("cache"))
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), PAIRS + 4)
    Path("generated.csv").write_text("id,rationale\n" + "".join(
        f"s0/{i},{'x' * (i % 5)}{'y' * sample} Answer: {'AB'[(i + sample) % 2]}\n"
        for i in range(PAIRS + 4) for sample in range(4)))
    return lambda *words: door(*TINY, *words)


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def both(run: Door, *words: str) -> list[tuple[dict, dict]]:
    """Every step of our loop beside TRL's; a step takes all questions, so order says nothing."""
    for engine in ("ponder", "trl"):
        code, _, err = run(*words, f"trainer.engine={engine}", f"hydra.run.dir={engine}",
                           f"trainer.train_batch_size={PAIRS}",
                           "trainer.train_gradient_accumulation_steps=1")
        assert (code, err) == (0, "")
    ours, theirs = ([line for line in lines(engine) if "loss" in line]
                    for engine in ("ponder", "trl"))
    assert [line["step"] for line in theirs] == [line["step"] for line in ours] == [1, 2, 3]
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize("words", [
    "model.lora_r=4", "", "strategy.objective=ipo model.lora_r=4"])
def test_dpo_by_trl_is_ours(words: str, run: Door) -> None:
    for own, peer in both(run, "strategy=dpo", PRELOADED, *words.split()):
        assert own["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        for name in ("lr", "margin", "grad_norm", "reward_won", "reward_lost"):
            assert own[name] == pytest.approx(peer[name], rel=1e-3, abs=1e-4), name
        if own["step"] > 1:  # before the first, all margins are 0
            assert own["ranking_accuracy"] == pytest.approx(peer["ranking_accuracy"])


@pytest.mark.parametrize("words", [
    "", "strategy.normalise=sequences", "strategy.scale=none strategy.normalise=constant",
    "strategy.clip=0.01", "rollout.temperature=0.7 model.lora_r=4"])
def test_grpo_by_trl_is_ours(words: str, run: Door) -> None:
    """Off policy from the second step on: ratios are to what was sampled."""
    for own, peer in both(run, "strategy=grpo", "strategy.entropy=0", "reward=repetition",
                          "reward.repetition=10",
                          *words.split()):
        assert own["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        for name in ("lr", "grad_norm"):
            assert own[name] == pytest.approx(peer[name], rel=1e-3, abs=1e-4), name
    assert own["grad_norm"] > 0
