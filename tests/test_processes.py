"""An optimizer step of two processes is that of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from players import STRATEGIES, gradients, trainer_of
from ponder.types import Rollouts

RUN = str(Path(__file__).resolve().parents[1] / "run.py")
Found = dict[str, tuple[float, dict[str, Tensor]]]


def steps(rank: int, world: int) -> Found:
    """{strategy: (loss, gradients)} of one step; each process takes its part of the questions."""
    found = {}
    for name in STRATEGIES:
        trainer = trainer_of(name, grad_clip=0.0)
        rollouts: Rollouts = trainer.collect()
        share = torch.arange(len(rollouts.problems)).tensor_split([5])[rank] if world > 1 else \
            torch.arange(len(rollouts.problems))
        gradient = gradients(trainer, [rollouts[share]])
        losses = trainer.learner.step([rollouts[share]], 0, 0.0, trainer.source.sampling(0),
                                      lambda *_: None)
        found[name] = float(losses["loss"]), gradient
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(steps(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """Shares of 5 and 11 questions: means of means would differ."""
    mp.spawn(work, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    alone = steps(0, 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (loss, gradient) in alone.items():
            assert abs(found[name][0] - loss) < 1e-9, name
            for key, value in gradient.items():
                assert torch.allclose(value, found[name][1][key], atol=1e-9), (name, key)


# --- through the door -----------------------------------------------------------------------------

TINY = ["task.max=20", "task.answer=digits", "task.gold=digits", "think=true",
        "rollout=sample", "rollout.samples=4", "reward=exact_match", "trainer.train_batch_size=8",
        "trainer.train_gradient_accumulation_steps=2", "trainer.max_steps=20",
        "trainer.log_every_n_steps=1", "trainer.val_every_n_steps=10", "trainer.device=cpu",
        "trainer.threads=1"]


def through(folder: Path, count: int, *words: str) -> tuple[list[dict], dict]:
    """The log and the summary of a run of so many processes."""
    launch = [sys.executable, RUN] if count == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={count}", RUN]
    done = subprocess.run([*launch, *TINY, *words, f"hydra.run.dir={folder}"], text=True,
                          capture_output=True, timeout=300, check=False, cwd=folder.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["reinforce", "ppo trainer.internal_epochs=2", "dpo"])
def test_a_run_of_two_processes_is_that_of_one(strategy: str, tmp_path: Path) -> None:
    words = f"strategy={strategy}".split()
    alone, summary = through(tmp_path / "alone", 1, *words)
    both, second = through(tmp_path / "both", 2, *words)
    assert [line["step"] for line in alone] == [line["step"] for line in both]
    assert sum("loss" in line for line in alone) == 20
    for one, other in zip(alone, both, strict=True):
        for name in ("loss", "grad_norm", "reward", "accuracy", "thought_entropy"):
            assert one.get(name) == pytest.approx(other.get(name), abs=1e-5), (one["step"], name)
    assert second["accuracy"] == summary["accuracy"] and second["status"] == "done"
    own, shared = (sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                          if path.is_file() and ".hydra" not in path.parts)
                   for folder in (tmp_path / "alone", tmp_path / "both"))
    assert own == shared


@pytest.mark.slow
def test_an_uneven_step_of_three_processes(tmp_path: Path) -> None:
    """Two questions a step: one process has nothing to do."""
    words = ["strategy=grpo", "trainer.train_batch_size=1"]
    alone, _ = through(tmp_path / "alone", 1, *words)
    three, _ = through(tmp_path / "three", 3, *words)
    assert [line.get("loss") for line in three] == pytest.approx(
        [line.get("loss") for line in alone], abs=1e-5)
