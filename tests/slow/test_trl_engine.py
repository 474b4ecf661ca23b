"""`trainer.engine=trl` beside our own loop, and pairs exported for TRL."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest

from ponder.training.session import Session
from ponder.training.trainer import Progress
from support.questions import file_of, save_language_model
from support.small import Door

pytestmark = pytest.mark.nightly

pytest.importorskip("trl", reason="trl is not installed (pip install '.[peers]')")
PAIRS = 20
TINY = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=hf", "model.name=model", "task.data=questions.csv", "task.test_questions=4",
        "task.answer=generated", "thinker.tokens=24", "rollout.samples=4", "trainer.lr=1e-3",
        "trainer.warmup=2", "trainer.threads=1", "trainer.internal_epochs=3"]
PRELOADED = "trainer.preload_data_for_training=generated.csv"


@pytest.fixture
def run(door: Door) -> Door:
    """The door, with a model, questions, and four texts about each: two of them right."""
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


def test_dpo_by_trl_compares_one_distribution_with_itself(run: Door) -> None:
    """Before the first step policy and reference are one model, so the loss is log 2."""
    for own, peer in both(run, "strategy=dpo", PRELOADED, "rollout.temperature=0.5",
                          "rollout.top_p=0.9")[:1]:
        assert own["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert peer["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_a_round_without_pairs_is_left_out(run: Door) -> None:
    code, out, err = run("strategy=dpo", "trainer.engine=trl", "trainer.max_epochs=1",
                         "thinker.tokens=2")
    assert (code, err) == (0, "") and "warning: nothing can be learnt from a round" in out


@pytest.mark.parametrize("word", ["top_p=0.9", "top_k=5", "epsilon=0.1"])
def test_grpo_by_trl_refuses_what_it_does_not_score_by(word: str, run: Door) -> None:
    code, _, err = run("strategy=grpo", "trainer.engine=trl", f"rollout.{word}")
    assert code == 2 and err.startswith(f"error: rollout.{word}: found trainer.engine=trl, whose ")


def test_trl_leaves_the_tokenizer_as_it_was(run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in Path("model").glob("*token*.json"):  # a tokenizer without padding
        known = json.loads(file.read_text())
        known.pop("pad_token", None)
        file.write_text(json.dumps(known))
    before, padding = Session.close, []

    def close(session: Session) -> None:
        padding.append(session.policy.vocabulary.tokenizer.pad_token)
        before(session)

    monkeypatch.setattr(Session, "close", close)
    assert run("strategy=dpo", PRELOADED, "trainer.engine=trl")[0] == 0
    assert padding == [None]


@pytest.mark.parametrize("words", [
    "", "strategy.normalise=sequences", "strategy.scale=none strategy.normalise=constant",
    "strategy.clip=0.01 strategy.scale=none", "rollout.temperature=0.7 model.lora_r=4"])
def test_grpo_by_trl_is_ours(words: str, run: Door) -> None:
    """Off policy from the second step on: ratios are to what was sampled. TRL adds 1e-4 to the
    deviations it divides by, so that a ratio may be clipped on one side alone, unless nothing is
    divided.
    """
    for own, peer in both(run, "strategy=grpo", "strategy.entropy=0", "reward=repetition",
                          "reward.repetition=10",
                          *words.split()):
        assert own["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        for name in ("lr", "grad_norm"):
            assert own[name] == pytest.approx(peer[name], rel=1e-3, abs=1e-4), name
    assert own["grad_norm"] > 0


def test_exported_pairs_are_the_same_tokens_to_trl(run: Door, tmp_path: Path) -> None:
    """TRL's own preparation of the file finds our prompts and texts, and ends the texts."""
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, out, err = run("action=export", "out=pairs.jsonl", "strategy=dpo", PRELOADED)
    assert (code, err) == (0, "") and f"{PAIRS} pairs" in out and "written to pairs.jsonl" in out
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    names = ["chosen", "prompt", "rejected", "same_tokens"]
    assert [sorted(row) for row in rows] == [names] * PAIRS
    for row in rows:  # one text of the question is right, the other wrong
        number = int(row["prompt"].split("Question ")[-1].split("?")[0])
        assert row["chosen"].removesuffix("<end>").endswith("AB"[number % 2])
        assert row["rejected"].removesuffix("<end>").endswith("BA"[number % 2])
    tokenizer = AutoTokenizer.from_pretrained("model")
    data = load_dataset("json", data_files="pairs.jsonl", split="train", cache_dir="datasets")
    peer = trl.DPOTrainer(model=AutoModelForCausalLM.from_pretrained("model"), train_dataset=data,
                          processing_class=tokenizer,
                          args=trl.DPOConfig(output_dir="trl", use_cpu=True, report_to=[],
                                             bf16=False))
    for row, found in zip(rows, peer.train_dataset, strict=True):
        assert found["prompt_ids"] == tokenizer.encode(row["prompt"], add_special_tokens=False)
        assert found["chosen_ids"] == tokenizer.encode(row["chosen"], add_special_tokens=False)
        assert found["chosen_ids"][-1] == tokenizer.eos_token_id
        assert row["same_tokens"] == (row["chosen"].endswith("<end>")
                                      and row["rejected"].endswith("<end>"))


def test_a_round_cut_off_under_trl_begins_again(run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the second round: the end is that of a run nobody stopped."""
    words = ["strategy=grpo", "strategy.entropy=0", "reward=repetition", "reward.repetition=10",
             "trainer.engine=trl", "model.lora_r=4", "trainer.max_epochs=2",
             "trainer.train_batch_size=4", "trainer.train_gradient_accumulation_steps=1"]
    assert run(*words, "hydra.run.dir=whole")[0] == 0
    end = json.loads(Path("whole/summary.json").read_text())
    first = next(line["step"] for line in lines("whole") if "loss" in line and line["epoch"] == 1)
    before = Session.log_metrics

    def log(self: Session, progress: Progress, metrics: dict[str, float]) -> None:
        before(self, progress, metrics)
        if progress.step == first + 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "log_metrics", log)
        assert run(*words, "hydra.run.dir=cut")[0] == 130
    assert not Path("cut/summary.json").exists()
    assert run(*words, "hydra.run.dir=cut")[0] == 0
    assert json.loads(Path("cut/summary.json").read_text())["weights_sha256"] == end[
        "weights_sha256"]
    assert [line["step"] for line in lines("cut")] == [line["step"] for line in lines("whole")]
