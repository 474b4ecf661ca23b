"""CPU/GPU agreement, and rollouts and updates per second on a CUDA GPU, in one call.

    python bench/gpu.py [--json] [--write] [--seconds S] [--device cuda|cpu]

Needs PyTorch and nothing else. Rows: eager, compiled, and as a CUDA graph; float32 and bfloat16; a
tiny thinker and one of GPT-2's size; beside the card's measured matmul and copy limits. A row that
fails says so and stops no other. Without a CUDA GPU it says so and ends (`--device cpu` runs all
but the graphs, to test the script). `--write` puts the table into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from paths import ROOT, fill  # first: makes ponder importable where it is not installed
from ponder.config.tasks import AddTask
from ponder.maths import Sampling
from ponder.models.layers import Shape
from ponder.models.policy import Policy, Rules
from ponder.models.transformer import Init, Transformer
from ponder.rollout import sample
from ponder.tasks.add import Add
from ponder.types import Problems, Rollouts

SIZES = {"tiny (2 x 64)": (64, 2, 4, 512), "GPT-2 (12 x 768)": (768, 12, 12, 64)}
TOKENS, SAMPLES = 4, 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Work = Callable[[], object]


# --- the work -----------------------------------------------------------------------------------

def build(size: str, device: torch.device, questions: int | None = None) -> tuple[Policy, Problems]:
    """A thinker with fixed thoughts, and a batch of questions on the device."""
    width, layers, heads, count = SIZES[size]
    task = Add(AddTask(max=10_000, answer="digits", seed=0, thought_length=TOKENS), 10)
    shape = Shape(len(task.vocabulary), task.question_length + TOKENS + 2 + task.answer_length,
                  width, layers, heads, tied=False)
    torch.manual_seed(0)
    policy = Policy(Transformer(shape, Init(*[0.05] * 5)), None, task.vocabulary,
                    Rules(TOKENS, stops=False))
    problems = task.sample(questions or count, torch.Generator().manual_seed(0))
    return policy.to(device), problems.to(device)


def loss_of(policy: Policy, rollouts: Rollouts, credit: Tensor) -> Tensor:
    return -(credit * policy.think(rollouts, Sampling())[0]).mean()


def update_work(policy: Policy, rollouts: Rollouts, dtype: torch.dtype, loss=loss_of) -> Work:
    """One optimizer step: forward, backward, clip, AdamW; nothing in it looks at the host."""
    device = rollouts.thought.device
    credit = torch.randn(rollouts.logprobs.shape, device=device)
    parameters = list(policy.thinker.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True,
                                  capturable=device.type == "cuda")

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, dtype != torch.float32, cache_enabled=False):
            value = loss(policy, rollouts, credit)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return update


def sample_work(policy: Policy, problems: Problems, dtype: torch.dtype) -> Work:
    device = problems.question.device

    def rollout() -> Rollouts:
        with torch.autocast(device.type, dtype, dtype != torch.float32, cache_enabled=False):
            return sample(policy, problems, SAMPLES, Sampling())

    return rollout


def graphed(work: Work) -> Work:
    """The work captured once as a CUDA graph; calling it replays the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


# --- measuring ----------------------------------------------------------------------------------

def rate(work: Work, device: torch.device, seconds: float) -> float:
    """Calls per second, after three warm-up calls; the device is waited for at both ends."""
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    wait()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            work()
        wait()
        count += 5
    return count / (time.perf_counter() - started)


def limits(device: torch.device, seconds: float) -> dict[str, float]:
    """Measured matmul TFLOP/s in both precisions and copy GB/s (read + written)."""
    n = 8192 if device.type == "cuda" else 1024
    found = {}
    for name, dtype in DTYPES.items():
        a = torch.randn(n, n, device=device, dtype=dtype)
        found[f"matmul {name}, TFLOP/s"] = 2 * n**3 * rate(lambda a=a: a @ a, device,
                                                           seconds) / 1e12
    source = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    found["copy, GB/s"] = 8 * len(source) * rate(lambda: target.copy_(source), device,
                                                 seconds) / 1e9
    return found


def agreement(device: torch.device) -> dict[str, float]:
    """Largest differences between CPU and device, float32: log-probabilities and gradients."""
    cpu, problems = build("tiny (2 x 64)", torch.device("cpu"), 32)
    rollouts = sample(cpu, problems, SAMPLES, Sampling(), torch.Generator().manual_seed(0))
    credit = torch.randn(rollouts.logprobs.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for place in (torch.device("cpu"), device):
        policy = build("tiny (2 x 64)", place, 32)[0]
        there = Rollouts(problems.to(place), SAMPLES, *(value.to(place) for value in (
            rollouts.thought, rollouts.chosen, rollouts.logprobs, rollouts.learn)))
        logprobs = policy.think(there, Sampling())[0]
        (credit.to(place) * logprobs).mean().backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in policy.thinker.parameters()
                              if p.grad is not None])
        results.append((logprobs.detach().cpu(), gradient))
    (a, ga), (b, gb) = results
    return {"log-probabilities differ by at most": float((a - b).abs().max()),
            "gradients differ by at most (relative)": float((ga - gb).abs().max() / ga.abs().max())}


def modes(work: Work, compiled: Callable[[], Work], device: torch.device,
          ) -> dict[str, Callable[[], Work]]:
    found = {"eager": lambda: work, "compiled": compiled}
    if device.type == "cuda":
        found["graph"] = lambda: graphed(work)
    return found


def speeds(device: torch.device, seconds: float) -> list[dict[str, object]]:
    """A row for every size, precision and mode: rollouts/s when sampling, and when updating."""
    rows = []
    for size in SIZES:
        for name, dtype in DTYPES.items():
            policy, problems = build(size, device)
            rollouts = sample(policy, problems, SAMPLES, Sampling())
            works = {
                "sample": modes(sample_work(policy, problems, dtype), lambda p=policy, q=problems,
                                d=dtype: torch.compile(sample_work(p, q, d)), device),
                "update": modes(update_work(policy, rollouts, dtype), lambda p=policy, r=rollouts,
                                d=dtype: update_work(p, r, d, torch.compile(loss_of)), device)}
            for kind, choices in works.items():
                for mode, make in choices.items():
                    row: dict[str, object] = {"size": size, "dtype": name, "work": kind,
                                              "mode": mode}
                    try:
                        row["rollouts_per_s"] = rate(make(), device, seconds) * len(rollouts)
                    except Exception as error:  # one row's failure is a row's result
                        row["failed"] = f"{type(error).__name__}: {error}".split("\n")[0][:100]
                    rows.append(row)
    return rows


# --- output -------------------------------------------------------------------------------------

def markdown(card: str, facts: dict[str, float], rows: list[dict[str, object]]) -> str:
    lines = [f"{card}, torch {torch.__version__}; " + "; ".join(
        f"{name} {value:.3g}" for name, value in facts.items()), "",
        "| size | dtype | work | mode | rollouts/s |", "|---|---|---|---|---|"]
    for row in rows:
        value = row.get("rollouts_per_s")
        shown = f"{value:,.0f}" if isinstance(value, float) else str(row.get("failed"))
        lines.append(f"| {row['size']} | {row['dtype']} | {row['work']} | {row['mode']} "
                     f"| {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py skipped: this machine has no CUDA GPU")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(arguments.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    facts = {**agreement(device), **limits(device, arguments.seconds)}
    rows = speeds(device, arguments.seconds)
    table = markdown(card, facts, rows)
    print(table)
    if arguments.write:
        fill(ROOT / "docs" / "results.md", "gpu", table)
    if arguments.json:
        print(json.dumps({"card": card, "facts": facts, "rows": rows}))


if __name__ == "__main__":
    main()
