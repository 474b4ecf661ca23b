"""CPU/GPU agreement, and rollouts and updates per second on a CUDA GPU, in one call.

    python bench/gpu.py [--json] [--write] [--seconds S] [--limit S] [--device cuda|cpu]

Needs PyTorch and nothing else. Checks: log-probabilities and gradients of CPU and GPU, eager,
compiled and graphed log-probabilities, the card's matmul and copy limits. Rows: eager, compiled,
and as a CUDA graph; float32 and bfloat16; a tiny thinker and one of GPT-2's size. A check or row
that fails says so and stops no other; after `--limit` seconds the rest is left out and says so.
Without a CUDA GPU it says so and ends (`--device cpu` runs all but the graphs, to test the script).
`--write` puts the table into docs/results.md. Exit code 1: results do not agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch

from common import markdown
from paths import ROOT, fill  # makes ponder importable where it is not installed
from ponder.core.math import Sampling
from ponder.rollouts.sampler import sample
from works import DTYPES, SAMPLES, SIZES, Work, build, graphed, think, think_work, to, versions

TINY = next(iter(SIZES))
TOLERANCE = 1e-4  # float32 without TF32; a gradient is measured against its largest element
Facts = dict[str, float | str]


def attempt(function: Callable[[], float], deadline: float = float("inf")) -> float | str:
    """The figure, or in a line why there is none: a failure is a row's result."""
    if time.monotonic() > deadline:
        return "left out: --limit is reached"
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0][:100]


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


# --- checks -------------------------------------------------------------------------------------

def agreement(device: torch.device, deadline: float) -> Facts:
    """Largest differences of float32 results: CPU and device, eager and compiled or graphed."""
    cpu, problems = build(TINY, torch.device("cpu"), 32)
    rollouts = sample(cpu, problems, SAMPLES, Sampling(), torch.Generator().manual_seed(0))
    there, policy = to(rollouts, device), build(TINY, device, 32)[0]
    credit = torch.randn(rollouts.logprobs.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for player, own in ((cpu, rollouts), (policy, there)):
        logprobs = think(player, own)
        (credit.to(logprobs.device) * logprobs).mean().backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in player.thinker.parameters()
                              if p.grad is not None])
        results.append((logprobs.detach().cpu(), gradient))
    (expected, gradient), (own, own_gradient) = results

    def differ(work: Callable[[], Work]) -> Callable[[], float]:
        return lambda: float((work()().cpu() - expected).abs().max())  # type: ignore[union-attr]

    facts: Facts = {
        "log-probabilities, device and CPU": float((own - expected).abs().max()),
        "gradients, device and CPU": float((own_gradient - gradient).abs().max()
                                           / gradient.abs().max()),
        "sampled and recomputed": attempt(lambda: resampled(device)),
        "compiled": attempt(
            differ(lambda: think_work(policy, there, torch.compile(think))), deadline)}
    if device.type == "cuda":
        facts["CUDA graph"] = attempt(
            differ(lambda: graphed(think_work(policy, there))), deadline)
    return facts


def resampled(device: torch.device) -> float:
    """Largest difference of the log-probabilities of sampling and those of the update."""
    policy, problems = build(TINY, device, 32)
    rollouts = sample(policy, problems, SAMPLES, Sampling())
    return float((think(policy, rollouts).detach() - rollouts.logprobs).abs().max())


def limits(device: torch.device, seconds: float) -> Facts:
    """Measured matmul TFLOP/s in both precisions and copy GB/s (read + written)."""
    n = 8192 if device.type == "cuda" else 1024
    length = 2**28 if device.type == "cuda" else 2**22

    def matmul(dtype: torch.dtype) -> float:
        a = torch.randn(n, n, device=device, dtype=dtype)
        return 2 * n**3 * rate(lambda: a @ a, device, seconds) / 1e12

    def copy() -> float:
        source = torch.empty(length, device=device)
        target = torch.empty_like(source)
        return 8 * length * rate(lambda: target.copy_(source), device, seconds) / 1e9

    found: Facts = {f"matmul {name}, TFLOP/s": attempt(lambda d=dtype: matmul(d))
                    for name, dtype in DTYPES.items()}
    return {**found, "copy, GB/s": attempt(copy)}


# --- rows ---------------------------------------------------------------------------------------

def speeds(device: torch.device, seconds: float, deadline: float) -> list[dict[str, object]]:
    """A row for every size, precision, work and mode, with its rollouts per second."""
    rows = []
    for size in SIZES:
        for dtype in DTYPES:
            for (kind, mode), make in versions(size, device, dtype).items():
                count = SIZES[size][-1] * SAMPLES
                found = attempt(lambda make=make, count=count:
                                rate(make(), device, seconds) * count, deadline)
                rows.append({"size": size, "dtype": dtype, "work": kind, "mode": mode,
                             "rollouts_per_s": found})
                print(f"{size}, {dtype}, {kind}, {mode}: {shown(found)}", file=sys.stderr)
    return rows


def shown(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def verdict(facts: Facts) -> str:
    """Of the checks that could be made; one that failed is listed with its reason."""
    agree = all(value <= TOLERANCE for value in facts.values() if isinstance(value, float))
    return f"agree to {TOLERANCE:g}" if agree else f"DO NOT AGREE to {TOLERANCE:g}"


def page(card: str, checks: Facts, tops: Facts, rows: list[dict[str, object]]) -> str:
    def said(facts: Facts) -> str:
        return "; ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name}: {value}"
                         for name, value in facts.items())

    lines = [f"{card}, torch {torch.__version__}. Limits: {said(tops)}.", "",
             f"Results {verdict(checks)} (largest differences, float32: {said(checks)}).", ""]
    cells = [[*(str(row[key]) for key in ("size", "dtype", "work", "mode")),
              shown(row["rollouts_per_s"])] for row in rows]
    table = markdown([["size", "dtype", "work", "mode", "rollouts/s"], *cells])
    return "\n".join([*lines, table]) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement")
    parser.add_argument("--limit", type=float, default=540.0, help="begin no row after this")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    return parser.parse_args()


def main() -> int:
    options = parse()
    deadline = time.monotonic() + options.limit
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py skipped: this machine has no CUDA GPU")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(options.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    checks, tops = agreement(device, deadline), limits(device, options.seconds)
    rows = speeds(device, options.seconds, deadline)
    table = page(card, checks, tops, rows)
    print(table)
    if options.write:
        fill(ROOT / "docs" / "results.md", "gpu", table)
    if options.json:
        print(json.dumps({"card": card, "verdict": verdict(checks), "checks": checks,
                          "limits": tops, "rows": rows}))
    return 0 if verdict(checks).startswith("agree") else 1


if __name__ == "__main__":
    sys.exit(main())
