"""A step of DPO beside TRL's DPOTrainer: the same model, LoRA, pairs and optimizer.

    python bench/dpo.py [--model smollm2] [--write]

Every step takes 16 new pairs, in two micro-batches, and asks the reference (the model without its
adapters) about them, as TRL does unless told otherwise. Each side is a process of its own, so that
its peak memory is its own; they take turns. The losses of every step must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch

from paths import ROOT, fill
from ponder.config.players import HfConfig
from ponder.config.running import TrainerConfig
from ponder.core.distributed import keep_freed_memory
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts import Source
from ponder.rollouts.recorded import pairs_of
from ponder.strategies.dpo import DPO
from ponder.training.learner import Learner

MICRO, MICROS, PROMPT, THOUGHT, RATE, BETA = 8, 2, (64, 112), (24, 64), 1e-4, 0.1
PAIRS = MICRO * MICROS


def policy_of(name: str, rank: int, device: torch.device, dtype: str) -> ChoicePolicy:
    config = HfConfig(name=name, lora_r=rank, dtype=dtype)
    words = load_vocabulary(config)
    torch.manual_seed(0)  # of the adapters
    net = load_text_model(config, len(words))
    net.entropy_learns = False
    return ChoicePolicy(net, words, Rules(THOUGHT[1], True), "generated",
                        compares=True).to(device)


def pairs(policy: ChoicePolicy, count: int, seed: int) -> Rollouts:
    """Prompts and thoughts of random words, the first of two thoughts being right."""
    words, random = policy.vocabulary, torch.Generator().manual_seed(seed)

    def rows(number: int, low: int, high: int, left: bool) -> torch.Tensor:
        table = torch.randint(words.end + 1, len(words), (number, high), generator=random)
        length = torch.randint(low, high + 1, (number, 1), generator=random)
        place = torch.arange(high) if not left else high - 1 - torch.arange(high)
        return table.masked_fill(place >= length, words.pad)

    question, thought = rows(count, *PROMPT, True), rows(2 * count, *THOUGHT, False)
    thought = torch.cat([thought, torch.full((2 * count, 1), words.pad)], 1)
    real = thought[:, :-1] != words.pad
    problems = Problems(question, question[:, :1], None, words.pad, padded=True)
    right = torch.tensor([1.0, 0.0]).repeat(count)
    return Rollouts(problems, 2, thought, real, torch.zeros(real.shape), learn=real, reward=right,
                    parts={"exact_match": right})


def batches(policy: ChoicePolicy, steps: int, device: torch.device) -> list[Rollouts]:
    found = []
    for step in range(steps):
        rollouts = pairs(policy, PAIRS, step)
        tensors = {name: value.to(device) for name, value in vars(rollouts).items()
                   if isinstance(value, torch.Tensor)}
        parts = {name: value.to(device) for name, value in rollouts.parts.items()}
        found.append(replace(rollouts, problems=rollouts.problems.to(device), parts=parts,
                             **tensors))
    return found


def ours(policy: ChoicePolicy, steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """(seconds, loss) of every step."""
    if device.type == "cpu":
        keep_freed_memory()
    config = TrainerConfig(lr=RATE, beta2=0.999, weight_decay=0.0)
    strategy = DPO(beta=BETA)
    learner = Learner(config, policy, strategy, lambda step: 0.0, False, device)
    seconds, losses = [], []
    for rollouts in batches(policy, steps, device):
        start = time.perf_counter()
        rollouts = strategy.credit(policy.annotate(rollouts, Sampling()))
        parts = [rollouts[part] for part in torch.arange(PAIRS, device=device).split(MICRO)]
        found = learner.step(parts, 0, RATE, Source())
        losses.append(float(found["loss"]))
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def theirs(policy: ChoicePolicy, steps: int, device: torch.device,
           ) -> tuple[list[float], list[float]]:
    """The same of TRL."""
    import trl
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    strategy, rows = DPO(beta=BETA), []
    for rollouts in batches(policy, steps, torch.device("cpu")):
        rows += pairs_of(strategy.credit(rollouts))

    class Given(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    words, clock = policy.vocabulary.tokenizer, Clock()
    words.pad_token = words.pad_token or words.eos_token
    with tempfile.TemporaryDirectory() as folder, policy.thinker.attending():
        peer = Given(model=policy.thinker.model, train_dataset=Dataset.from_list(rows),
                     processing_class=words, callbacks=[clock], args=trl.DPOConfig(
            output_dir=folder, per_device_train_batch_size=MICRO, max_steps=steps,
            gradient_accumulation_steps=MICROS, learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=1.0, beta=BETA, logging_steps=1, report_to=[],
            save_strategy="no", use_cpu=device.type == "cpu", bf16=False, disable_tqdm=True,
            gradient_checkpointing=False, max_length=None))
        peer.train()
    losses = [line["loss"] for line in peer.state.log_history if "grad_norm" in line]
    return clock.seconds, losses


def side(name: str, arguments: argparse.Namespace) -> None:
    """One side's figures, as JSON: the first step warms up."""
    device = torch.device(arguments.device)
    policy = policy_of(arguments.model, arguments.rank, device, arguments.dtype)
    seconds, losses = {"ours": ours, "trl": theirs}[name](policy, arguments.steps + 1, device)
    peak = (torch.cuda.max_memory_allocated() if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(json.dumps({"seconds": seconds[1:], "losses": losses, "peak": peak / 2**30}))


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--side", name]
    for key in ("model", "rank", "steps", "device", "dtype"):
        words += [f"--{key}", str(getattr(arguments, key))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA adapters")
    parser.add_argument("--steps", type=int, default=3, help="that are timed in each turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(arguments.side, arguments)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(arguments.rounds):
        for name, runs in found.items():
            runs.append(measured(name, arguments))
    time_of = {name: statistics.median(second for run in runs for second in run["seconds"])
               for name, runs in found.items()}
    peak = {name: max(run["peak"] for run in runs) for name, runs in found.items()}
    apart = max(abs(own - peer) for own, peer in zip(
        found["ours"][0]["losses"], found["trl"][0]["losses"], strict=True))
    table = ("```\n"
             f"a step of {PAIRS} pairs   seconds   peak memory\n"
             f"ours                 {time_of['ours']:7.2f}   {peak['ours']:6.1f} GiB\n"
             f"TRL's DPOTrainer     {time_of['trl']:7.2f}   {peak['trl']:6.1f} GiB\n"
             f"ours / TRL           {time_of['ours'] / time_of['trl']:7.2f}   "
             f"{peak['ours'] / peak['trl']:6.2f}          (target: time at most 0.67)\n"
             f"losses of {len(found['trl'][0]['losses'])} steps apart by at most {apart:.1e}\n"
             "```\n")
    print(table)
    if arguments.write:
        fill(ROOT / "docs" / "results.md", "dpo", table)


if __name__ == "__main__":
    main()
