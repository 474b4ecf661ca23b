"""What processes tell each other in a step: every message counted, and held against the formulas of
docs/clusters.md.

    python bench/network.py [--model tiny|smollm2] [--processes N] [--steps S] [--json] [words ...]

Runs the framework's own loop in N processes on the CPU (gloo), with every collective wrapped: its
bytes are those of the tensor it is called with, its seconds those until it returns, waiting for the
slowest process included. Words such as `trainer.train_batch_size=8` are those of any run. The bytes
that the machine's loopback carried meanwhile are shown beside; they hold those of other programs
too, unless it runs in a network of its own (`unshare --net`, then `ip link set lo up`).
Exit code 1: what was counted is not what the formulas say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paths import ROOT  # makes ponder importable where it is not installed
from sizes import gathered, gradients, ring

MODELS = {
    "tiny": ["think=true", "rollout=sample", "rollout.samples=4", "reward=exact_match",
             "strategy=grpo", "task.max=20", "trainer.train_batch_size=16"],
    "smollm2": ["model=smollm2", "model.lora_r=16", "task=qa", "task.answer=letter",
                "variant=[think]", "thinker.tokens=8", "rollout=sample", "rollout.samples=2",
                "reward=exact_match", "strategy=reinforce", "trainer=text",
                "trainer.train_batch_size=2", "trainer.train_gradient_accumulation_steps=2",
                "trainer.gen_batch_size=2", "trainer.do_eval=false"]}
QUIET = ["trainer.device=cpu", "trainer.threads=1", "trainer.log_every_n_steps=100000",
         "trainer.val_every_n_steps=100000", "trainer.save_every_n_steps=0", "resume=never"]
QUESTIONS = 8


class Counter:
    """Messages and their bytes and seconds, by the part of the loop that sends them. A part begins
    where one of the loop's functions does.
    """

    def __init__(self) -> None:
        self.part = "other"
        self.bytes: dict[str, list[int]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.facts: dict[str, Any] = {}

    def within(self, part: str, function: Callable) -> Callable:
        """The function, as a part of the loop."""
        def counted(*words: Any, **more: Any) -> Any:
            before, self.part = self.part, part
            self.calls[part] += 1
            try:
                return function(*words, **more)
            finally:
                self.part = before
        return counted

    def message(self, send: Callable) -> Callable:
        """A collective that is counted."""
        def counted(value: Any, *words: Any, **more: Any) -> Any:
            began = time.perf_counter()
            result = send(value, *words, **more)
            self.seconds[self.part] += time.perf_counter() - began
            self.bytes[self.part].append(value.numel() * value.element_size())
            return result
        return counted


def watched(counter: Counter) -> None:
    """Wrap the collectives, and the parts of the loop that speak of them."""
    import torch.distributed as dist

    from ponder.training import learner
    from ponder.training.trainer import Trainer

    dist.all_reduce = counter.message(dist.all_reduce)
    collect = Trainer.collect

    def collected(trainer: Any) -> Any:
        rollouts = collect(trainer)
        weights = [p for p in trainer.policy.parameters() if p.requires_grad]
        counter.facts |= {
            "rows": len(rollouts), "tokens": rollouts.thought.shape[1] - 1,
            "text": rollouts.answered is not None,
            "trained": sum(p.numel() for p in weights), "weight_bytes": weights[0].element_size(),
            "parameters": sum(p.numel() for p in trainer.policy.parameters())}
        return rollouts

    Trainer.step = counter.within("step", Trainer.step)
    Trainer.collect = counter.within("round", collected)
    learner.sum_gradients = counter.within("gradients", learner.sum_gradients)


def formulas(facts: dict[str, Any]) -> dict[str, int]:
    """Bytes of all messages of a round, and of the gradients of a step. (The rest of a step is
    three denominators and the losses, a number each.)
    """
    return {"round": gathered(facts["rows"], facts["tokens"], facts["text"]),
            "gradients": gradients(facts["trained"], facts["weight_bytes"])}


def loopback() -> int:
    """Bytes that have gone over this machine's loopback."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if " lo:" in line)
    return int(line.split(":")[1].split()[0])


def work(words: list[str], out: Path) -> int:
    """One of the processes: a run whose messages are counted."""
    counter = Counter()
    watched(counter)
    from ponder.cli.main import main as door

    code = door(words)
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps({
            "facts": counter.facts, "calls": counter.calls,
            "parts": {part: {"messages": len(sizes), "bytes": sum(sizes), "largest": max(sizes),
                             "seconds": counter.seconds[part]}
                      for part, sizes in counter.bytes.items()}}))
    return code


def launch(words: list[str], processes: int) -> dict[str, Any]:
    """What the first process has counted, and what the loopback carried."""
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.csv"
        questions.write_text("question,A,B,answer\n" + "".join(
            f"Which is more than {number}?,{number - 1},{number + 1},B\n"
            for number in range(2, QUESTIONS + 2)))
        if "task=qa" in words:
            words = [*words, f"task.data={questions}"]
        before, out = loopback(), Path(folder) / "counted.json"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={processes}", str(Path(__file__).resolve()), "--work", str(out),
             *words, f"hydra.run.dir={folder}/run"],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return {**json.loads(out.read_text()), "loopback": loopback() - before}


def shown(found: dict[str, Any], processes: int) -> tuple[str, bool]:
    """The table, and whether what was counted is what the formulas say."""
    facts, calls, expected = found["facts"], found["calls"], formulas(found["facts"])
    lines = [f"{processes} processes; {facts['parameters']:,} parameters, {facts['trained']:,} of "
             f"them trained; {facts['rows']} rows of up to {facts['tokens']} tokens a round; "
             f"{calls['round']} rounds, {calls['step']} steps",
             "", "| part | messages | bytes | by formula | ms |", "|---|---|---|---|---|"]
    agree = True
    for part in ("round", "gradients", "step"):
        each, times = found["parts"][part], calls[part]
        counted = each["bytes"] / times
        said = expected.get(part)
        agree &= said is None or said == counted
        lines.append(f"| {part} | {each['messages'] / times:g} | {counted:,.0f} | "
                     f"{'-' if said is None else format(said, ',')} | "
                     f"{1000 * each['seconds'] / times:.2f} |")
    total, times = sum(part["bytes"] for part in found["parts"].values()), ring(processes)
    lines += ["", f"all messages: {total:,} bytes; a ring sends {times:.2f} x as many from every "
              f"process, {times * total * processes:,.0f} in all; the loopback carried "
              f"{found['loopback']:,}"]
    return "\n".join(lines), agree


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        return work(sys.argv[3:], Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options, words = parser.parse_known_args()
    found = launch([*MODELS[options.model], *QUIET, f"trainer.max_steps={options.steps}", *words],
                   options.processes)
    table, agree = shown(found, options.processes)
    print(table)
    if options.json:
        print(json.dumps({**found, "formulas": formulas(found["facts"]), "agree": agree}))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
