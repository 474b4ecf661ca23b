"""docs/invent_digits.svg: what each token came to mean, beside the direct answer at more compute.

    python bench/language.py        reads the runs of bench/results.py in scratch/results
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from results import ROOT, RUNS, SEEDS

PICTURE = ROOT / "docs" / "invent_digits.svg"
PLACES = {"units": "tab:blue", "tens": "tab:orange", "hundreds": "tab:green"}


def evaluations(directory: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that hold an accuracy."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "accuracy" in line]


def draw_meanings(axes, seed: int) -> None:
    """Mutual information of three tokens with three digits, and accuracy, over training."""
    found = evaluations(RUNS / "invent_digits" / str(seed))
    steps = [line["step"] for line in found]
    for position, axis in enumerate(axes[:3], start=1):
        for place, colour in PLACES.items():
            values = [line[f"meaning/t{position}/{place}"] for line in found]
            axis.plot(steps, values, color=colour, label=place)
        axis.axhline(math.log(10), color="grey", linestyle=":", linewidth=0.8)
        axis.set_title(f"seed {seed}: token {position}", fontsize=9)
        axis.set_ylim(0, 2.5)
    axes[0].set_ylabel("nats about the digit")
    axes[3].plot(steps, [line["accuracy"] for line in found], color="black", label="with thoughts")


def draw_direct(axis, seed: int) -> None:
    """Accuracy of the network that answers without thoughts."""
    directory = RUNS / "normal_1000" / str(seed)
    if (directory / "metrics.jsonl").is_file():
        found = evaluations(directory)
        axis.plot([line["step"] for line in found], [line["accuracy"] for line in found],
                  color="tab:red", label="direct answer")
    axis.set_title(f"seed {seed}: accuracy", fontsize=9)
    axis.set_ylim(0, 1.02)


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "ponder"
    figure, rows = plt.subplots(len(SEEDS), 4, figsize=(11, 2.3 * len(SEEDS)), squeeze=False)
    for seed, axes in zip(SEEDS, rows, strict=True):
        if (RUNS / "invent_digits" / str(seed) / "metrics.jsonl").is_file():
            draw_meanings(axes, seed)
        draw_direct(axes[3], seed)
    for axis in rows[-1]:
        axis.set_xlabel("steps")
    rows[0][0].legend(fontsize=7)
    rows[0][3].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE)


if __name__ == "__main__":
    main()
