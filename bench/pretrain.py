"""Learning Shakespeare character by character, beside a plain loop: the table and the picture.

    python bench/pretrain.py <tinyshakespeare.txt>     both sides, three seeds, then the table
    python bench/pretrain.py --table                   from what was measured

The plain loop is transformers' GPT-2 with AdamW, by the well-known recipe for a CPU: learning rate
1e-3, 100 steps of warm-up, cosine to 1e-4, betas 0.9 and 0.99, weight decay 0.1, gradients clipped
at 1, 12 passages of 64 a step; 2,500 steps, as after 2,000 it was at 1.92 here. Ours is
`experiment=normal`: the same shape, batch, text and held-out passages. The two take turns, 20 steps
each, so that both have the same machine, until ours ends; seconds are those of steps alone, with
one thread, at the pace of that time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from paths import ROOT, fill
from ponder.config.resolve import read
from ponder.config.spine import register
from ponder.training import build as builders
from ponder.training.trainer import Hooks

LEVEL = 1.88  # nats per character: what the plain recipe is known to reach
PEER_STEPS, TURN, LOOK = 2500, 20, 100
KEPT = ROOT / "scratch" / "results" / "pretrain"
PICTURE = ROOT / "docs" / "pretrain.svg"
Curve = list[tuple[int, float, float]]  # steps, seconds, nats per character


def composed(*words: str) -> Any:
    """The configuration of a command line."""
    from hydra import compose, initialize_config_dir

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return read(compose("config", list(words)))


@torch.no_grad()
def loss_of(forward, test) -> float:
    parts = [F.cross_entropy(forward(question).flatten(0, 1), answer.flatten(), reduction="sum")
             for question, answer in zip(test.question.split(100), test.answer.split(100),
                                         strict=True)]
    return float(sum(parts)) / test.answer.numel()


def ours(config: Any, task: Any, test: Any) -> Iterator[tuple[int, float, float]]:
    """The curve of our loop, a turn at a time."""
    torch.manual_seed(config.seed)
    policy = builders.build_policy(config, task)
    trainer = builders.build_trainer(config, task, policy, torch.device("cpu"))
    limit = [0]
    hooks = Hooks(lambda *_: None, lambda _: None, lambda _: None,
                  stopped=lambda: trainer.progress.step >= limit[0])
    while limit[0] < config.trainer.max_steps:
        limit[0] += TURN
        trainer.fit(hooks)
        look = limit[0] % LOOK == 0
        yield (trainer.progress.step, trainer.progress.seconds,
               loss_of(lambda x: policy.thinker.logits(policy.thinker(x)[0]), test)
               if look else math.nan)


def plain(config: Any, task: Any, test: Any) -> Iterator[tuple[int, float, float]]:
    """The curve of the plain loop, a turn at a time."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(config.seed)
    length, model = config.task.length, config.model
    net = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(task.vocabulary), n_positions=length, n_embd=model.d_model,
        n_layer=model.layers, n_head=model.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, use_cache=False))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    text = torch.from_numpy(task.text.train.astype("int64"))
    generator, seconds = torch.Generator().manual_seed(config.seed), 0.0
    for step in range(PEER_STEPS):
        started = time.perf_counter()
        warm, done = min(1.0, (step + 1) / 100), step / PEER_STEPS
        optimizer.param_groups[0]["lr"] = 1e-3 * warm * (
            0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
        begin = torch.randint(len(text) - length, (config.trainer.train_batch_size,),
                              generator=generator)
        x = torch.stack([text[i:i + length] for i in begin])
        y = torch.stack([text[i + 1:i + 1 + length] for i in begin])
        loss = F.cross_entropy(net(x).logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - started
        if (step + 1) % TURN == 0:
            net.eval()
            found = loss_of(lambda x: net(x).logits, test) if (step + 1) % LOOK == 0 else math.nan
            net.train()
            yield step + 1, seconds, found


def race(text: str, seed: int) -> dict[str, Curve]:
    """Both curves, measured in turns."""
    config = composed("experiment=normal", f"task.data={text}", f"seed={seed}",
                      "task.test_passages=1000", "trainer.threads=1")
    torch.set_num_threads(1)
    task = builders.build_task(config)
    test = task.test()
    runners = {"ours": ours(config, task, test), "plain": plain(config, task, test)}
    curves: dict[str, Curve] = {name: [] for name in runners}
    while runners:
        for name, runner in list(runners.items()):
            point = next(runner, None)
            if point is None:
                del runners[name]
            elif not math.isnan(point[2]):
                curves[name].append(point)
                print(f"seed {seed}: {name} step {point[0]}, {point[1]:.0f} s, {point[2]:.4f}",
                      flush=True)
    return curves


def reached(curve: Curve) -> int | None:
    """Steps until the level, between two looks by a straight line."""
    for (step, _, loss), (after, _, lower) in pairwise(curve):
        if lower <= LEVEL < loss:
            return round(step + (loss - LEVEL) / (loss - lower) * (after - step))
    return None


def pace(curve: Curve, steps: int) -> float:
    """Seconds a step over the first so many."""
    return next(second / step for step, second, _ in curve if step >= steps)


def table(found: dict[int, dict[str, Curve]]) -> str:
    lines = ["| seed | loop | ms a step | steps to 1.88 | seconds to 1.88 | last loss | ratio |",
             "|---|---|---|---|---|---|---|"]
    ratios = []
    for seed, curves in sorted(found.items()):
        both = min(curve[-1][0] for curve in curves.values())  # so long they took turns
        steps = {name: reached(curve) for name, curve in curves.items()}
        times = {name: (steps[name] or math.nan) * pace(curve, both)
                 for name, curve in curves.items()}
        for name, curve in curves.items():
            ratio = times["ours"] / times["plain"] if name == "ours" else math.nan
            ratios += [ratio] * math.isfinite(ratio)
            lines.append(f"| {seed} | {name} | {1000 * pace(curve, both):.0f} | {steps[name]:,} | "
                         f"{times[name]:.0f} | {curve[-1][2]:.3f} ({curve[-1][0]:,} steps) | "
                         f"{f'{ratio:.2f}' if math.isfinite(ratio) else ''} |")
    if ratios:
        lines += ["", f"Ratio of the times to {LEVEL}: {statistics.mean(ratios):.2f} (mean of "
                  f"{len(ratios)} seeds)."]
    return "\n".join(lines) + "\n"


def draw(found: dict[int, dict[str, Curve]]) -> None:
    figure, axis = plt.subplots(figsize=(6, 3.5))
    for number, (name, label) in enumerate({"ours": "experiment=normal", "plain":
                                            "plain transformers loop"}.items()):
        for seed, curves in sorted(found.items()):
            axis.plot([point[1] for point in curves[name]], [point[2] for point in curves[name]],
                      color=f"C{number}", linewidth=1, label=label if seed == 0 else None)
    axis.axhline(LEVEL, color="grey", linewidth=0.5)
    axis.set(xlabel="seconds of training, one thread", ylabel="held-out loss (nats per character)",
             ylim=(1.7, 2.8))
    axis.legend()
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for seed in options.seeds:
            path = KEPT / f"{seed}.json"
            path.write_text(json.dumps(race(str(Path(options.text).resolve()), seed)))
    found = {int(path.stem): json.loads(path.read_text()) for path in KEPT.glob("*.json")}
    draw(found)
    fill(ROOT / "docs" / "results.md", "pretrain", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
