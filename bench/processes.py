"""Memory and time of one process, and of several that have all weights each, or a share of them.

    python bench/processes.py [--processes N] [--layers L] [--width D] [--steps S] [--json]

GRPO on a GPT-2 in float32 on the CPU, one thread a process, gloo: whole steps of the framework's
own loop. Held: weights, gradients and the optimizer's state of a process between two steps. Peak:
the most memory that a process had in a step beyond what it had before there was a network. With
fewer free cores than processes the times of several say little.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.tensor import DTensor

from common import Work, build_trainer, table
from ponder.core.distributed import return_freed_memory
from ponder.training.collector import minibatches
from ponder.training.trainer import Trainer

MIB = 2**20
WAYS = {"one process": 1, "replicate": 0, "shard": 0}  # 0: as many as asked for
Found = dict[str, float]


def status(name: str) -> float:
    """A line of this process's status in the kernel, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+)", text)[0]) / 1024


def size(values: list[Tensor | None]) -> float:
    """MiB of tensors, or of this process's shares of them."""
    own = [value.to_local() if isinstance(value, DTensor) else value for value in values
           if value is not None]
    return sum(value.numel() * value.element_size() for value in own) / MIB


def step(trainer: Trainer) -> None:
    for batch in minibatches(trainer.collect(), trainer.config, trainer.generator):
        trainer.step(batch)


def measure(work: Work, steps: int, shard: bool) -> Found:
    """What a process holds, its peak, and the median seconds of a step after the first."""
    torch.set_num_threads(1)
    return_freed_memory()
    before = status("VmRSS")
    trainer = build_trainer(work, shard=shard)
    step(trainer)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step(trainer)
        times.append(time.perf_counter() - started)
    weights = list(trainer.policy.parameters())
    moments = [value for state in trainer.learner.optimizer.state.values()
               for value in state.values()]
    return {"weights": size([*weights]), "gradients": size([weight.grad for weight in weights]),
            "optimizer": size(moments), "peak": status("VmHWM") - before,
            "seconds": statistics.median(times)}


def run(rank: int, world: int, work: Work, steps: int, shard: bool, folder: str) -> None:
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(measure(work, steps, shard)))
    if world > 1:
        dist.destroy_process_group()


def found_by(work: Work, steps: int, world: int, shard: bool) -> Found:
    """The largest number of any process."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (world, work, steps, shard, folder), nprocs=world)  # type: ignore[attr-defined]
        each = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return {name: max(one[name] for one in each) for name in each[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="all numbers on the last line")
    asked = parser.parse_args()
    work = Work(questions=8, samples=4, tokens=8, d_model=asked.width, layers=asked.layers,
                heads=8)
    found = {way: found_by(work, asked.steps, world or asked.processes, way == "shard")
             for way, world in WAYS.items()}
    rows = [["per process", "weights MiB", "gradients MiB", "optimizer MiB", "held MiB",
             "peak MiB", "s/step"]]
    for way, one in found.items():
        parts = [one[name] for name in ("weights", "gradients", "optimizer")]
        name = way if way == "one process" else f"{asked.processes} processes, {way}"
        rows.append([name, *(f"{part:.0f}" for part in (*parts, sum(parts), one["peak"])),
                     f"{one['seconds']:.2f}"])
    print(table(rows))
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
