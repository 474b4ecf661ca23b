"""Whole runs: every variant subset, every search and strategy, the door from end to end."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ponder.config.checker import check
from ponder.config.errors import UserError
from ponder.config.spine import VARIANTS, Config, variants
from ponder.training import build as builders
from ponder.training.trainer import Hooks
from support.processes import TIMEOUT, run
from support.runs import config_of
from support.sweeps import steps, until

RUN = Path(__file__).parents[2] / "run.py"


def two_steps(config: Config) -> float:
    """Run two steps; the last loss, which must be finite."""
    check(config)
    torch.manual_seed(config.seed)
    task = builders.build_task(config)
    policy = builders.build_policy(config, task)
    trainer = builders.build_trainer(config, task, policy, torch.device("cpu"))
    before = [p.detach().clone() for p in policy.parameters()]
    trainer.fit(Hooks(lambda *_: None, lambda _: 0.0, lambda _: None))
    assert trainer.progress.step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    loss = trainer.metrics()["loss"]
    assert loss == loss and abs(loss) != float("inf")
    return loss


SUBSETS = [pytest.param(subset, id="_".join(subset))
           for size in range(7) for subset in itertools.combinations(VARIANTS, size)]


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS)
def test_every_variant_subset_runs_two_steps_or_says_why_not(subset: tuple[str, ...]) -> None:
    config = config_of(f"variant=[{','.join(subset)}]")
    if "think" in subset or not subset:
        assert set(variants(config)) == set(subset)
        two_steps(config)
    else:
        with pytest.raises(UserError, match="together with think"):
            check(config)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["reinforce", "grpo", "star", "sft"])
@pytest.mark.parametrize("stops", ["", "fixed,"])
def test_every_strategy_runs(strategy: str, stops: str) -> None:
    two_steps(config_of(f"variant=[think,{stops}blind]", f"strategy={strategy}"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["balanced", "exhaustive", "beam", "tree"])
@pytest.mark.parametrize("stops", ["", "fixed,"])
@pytest.mark.parametrize("blind", ["", "blind,"])
def test_every_search_runs(method: str, stops: str, blind: str) -> None:
    two_steps(config_of(f"variant=[think,{stops}{blind}search]", f"rollout.method={method}",
                       "rollout.samples=2", "thinker.tokens=2", "rollout.tree.simulations=6",
                       "rollout.tree.value=model"))


@pytest.mark.slow
@pytest.mark.parametrize("override", [
    "answerer.model=shared", "answerer.model=frozen", "task.answer=digits", "task.terms=3",
    "task.modular=false", "task.order=least", "task.gold=scratchpad", "task.split=systematic",
    "model.positions=sinusoidal", "model.tie_embeddings=true", "rollout.top_k=3",
    "rollout.top_p=0.8", "rollout.epsilon=0.2", 'rollout.temperature="linear(2,1,5)"',
    "reward=[softmax,length,repetition]", "reward=gain", "reward=variance", "reward=exact_match",
    "trainer.dtype=bfloat16", "strategy.baseline=running_mean", "strategy.discount=0.9",
    "strategy.scale=group", "trainer.internal_epochs=2", "trainer.single_batch=true",
    "trainer.train_gradient_accumulation_steps=2", "task.max=100000", "trainer.lr_decay=cosine"])
def test_every_option_runs(override: str) -> None:
    extra = ["task.answer=digits", "thinker.tokens=2"] if "100000" in override else []
    two_steps(config_of("variant=[think]", *extra, override))


def only_run(directory: Path) -> Path:
    (found,) = (directory / "star_runs").glob("*/*")
    return found


QUICK = ["trainer.max_steps=30", "trainer.train_batch_size=32", "trainer.threads=1",
         "trainer.val_every_n_steps=20", "trainer.log_every_n_steps=10"]


@pytest.mark.slow
def test_a_run_leaves_the_promised_files_and_evaluates_to_the_same_accuracy(tmp_path: Path) -> None:
    run(tmp_path, *QUICK, "logger=tensorboard")
    directory = only_run(tmp_path)
    summary = json.loads((directory / "summary.json").read_text())
    assert {"accuracy", "necessity", "steps", "seconds", "rollouts_per_second", "seed", "run_name",
            "git_revision", "config_hash", "weights_sha256", "status"} <= set(summary)
    assert set(summary["necessity"]) == {"own", "shuffled", "random", "constant", "dropped"}
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 10, 20, 20, 30, 30]
    assert (directory / "val_30/generated.csv").read_text().count("\n") == 1994
    assert (directory / "report.html").stat().st_size > 500_000
    assert list((directory / "tensorboard").iterdir())
    checkpoint = directory / "checkpoint_30"
    run(tmp_path / "..", "action=evaluate", f"model.name={checkpoint}",
        f"hydra.run.dir={tmp_path}/evaluated")
    second = json.loads((tmp_path / "evaluated/summary.json").read_text())
    assert second["accuracy"] == summary["accuracy"]
    assert second["necessity"] == summary["necessity"]
    assert second["weights_sha256"] == summary["weights_sha256"]


@pytest.mark.slow
def test_interrupt_saves_a_checkpoint_and_says_where(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(RUN), "trainer.max_steps=100000", "trainer.threads=1"], cwd=tmp_path,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: any(map(steps, tmp_path.glob("star_runs/*/*"))))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "stopped at step" in out
    directory = only_run(tmp_path)
    assert list(directory.glob("checkpoint_*/model.safetensors"))
    assert not (directory / "summary.json").exists()
