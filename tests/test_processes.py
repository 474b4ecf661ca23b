"""An optimizer step of two processes is that of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from players import STRATEGIES, gradients, trainer_of
from ponder.types import Rollouts

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
