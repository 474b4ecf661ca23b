"""STaR's first experiment: docs/star_addition.svg and its table in docs/results.md.

    python bench/star_addition.py           run what is missing, one at a time, then draw
    python bench/star_addition.py --table   draw and write from the runs there are

Runs are kept, and found again, as those of bench/results.py: one thread, a directory a seed.
--runs keeps them in another directory.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import results
from language import evaluations
from paths import ROOT, fill

PICTURE = ROOT / "docs" / "star_addition.svg"
STAR = "experiment=star_addition"
DIGITS = range(1, 6)
SETTINGS = {
    "star_addition": ("STaR with rationalisation", [STAR]),
    "star_addition_plain": ("STaR without", [STAR, "trainer.rationalise=false"]),
    "star_addition_direct": ("answers at once, trained on every right one", [
        STAR, "think=false", "trainer.rationalise=false", "trainer.rehearse=0",
        "trainer.internal_epochs=4"]),
}


def named(digits: int) -> str:
    return f"{digits} digit{'s' * (digits > 1)}"


def rounds(name: str, seed: int) -> list[dict[str, float]]:
    """The evaluation of every round that has been run so far."""
    directory = results.RUNS / name / str(seed)
    return evaluations(directory) if (directory / "metrics.jsonl").is_file() else []


def draw(name: str, axis) -> None:
    """Accuracy of every number of digits over the rounds: the mean, and each seed thinly."""
    found = [lines for seed in results.SEEDS if (lines := rounds(name, seed))]
    for digits in DIGITS:
        colour = plt.get_cmap("viridis")((digits - 1) / len(DIGITS))
        curves = [[line[f"accuracy/{digits}_digits"] for line in lines] for lines in found]
        for lines, curve in zip(found, curves, strict=True):
            axis.plot([line["epoch"] for line in lines], curve, color=colour, linewidth=0.5)
        means = [statistics.mean(values) for values in zip(*curves, strict=False)]
        axis.plot(range(len(means)), means, color=colour, linewidth=2, label=named(digits))
    axis.set_title(SETTINGS[name][0], fontsize=9)
    axis.set_xlabel("rounds")


def row(name: str) -> str:
    """A line of the table: accuracy of each number of digits (mean of the seeds), of all, and
    of all after half of the rounds.
    """
    title, overrides = SETTINGS[name]
    found = [(rounds(name, seed), summary) for seed in results.SEEDS
             if (summary := results.load(name, seed))]
    if not found:
        return f"| {title} |" + " not run yet |" + " |" * (len(DIGITS) + 5)
    if len(found) < len(results.SEEDS):
        title += f" ({len(found)} of {len(results.SEEDS)} seeds run so far)"
    each = " | ".join(
        f"{statistics.mean(lines[-1][f'accuracy/{digits}_digits'] for lines, _ in found):.3f}"
        for digits in DIGITS)
    half = " / ".join(f"{lines[len(lines) // 2]['accuracy']:.3f}" for lines, _ in found)
    mean = statistics.mean(summary["accuracy"] for _, summary in found)
    every = " / ".join(f"{summary['accuracy']:.3f}" for _, summary in found)
    steps = " / ".join(str(summary["steps"]) for _, summary in found)
    seconds = " / ".join(f"{summary['seconds']:.0f}" for _, summary in found)
    return (f"| {title} | {each} | {mean:.3f} | {every} | {half} | {steps} | {seconds} | "
            f"`{' '.join(overrides)}` |")


def write() -> None:
    """The picture and the table, of the runs there are."""
    plt.rcParams["svg.hashsalt"] = "ponder"
    figure, axes = plt.subplots(1, len(SETTINGS), figsize=(11, 3.2), sharey=True)
    for name, axis in zip(SETTINGS, axes, strict=True):
        draw(name, axis)
    axes[0].set_ylabel("held-out questions answered right")
    axes[0].set_ylim(0, 1.02)
    axes[0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    names = " | ".join(map(named, DIGITS))
    head = (f"| setting | {names} | all | seeds 0 / 1 / 2 | the same after half of the rounds "
            "| steps | seconds | overrides |\n")
    head += "|---" * (len(DIGITS) + 7) + "|\n"
    fill(results.PAGE, "star_addition", head + "\n".join(map(row, SETTINGS)) + "\n")
    print(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="draw and write, run nothing")
    parser.add_argument("--runs", type=Path, default=results.RUNS, help="where runs are kept")
    arguments = parser.parse_args()
    results.RUNS = arguments.runs.resolve()
    results.ALL.update(SETTINGS)
    for job in [] if arguments.table else [(name, seed) for seed in results.SEEDS
                                           for name in SETTINGS]:
        print(results.run(job), flush=True)
    write()


if __name__ == "__main__":
    main()
