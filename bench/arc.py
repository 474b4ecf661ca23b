"""STaR, its control and DPO on SmolLM2 and ARC-Easy: the table `arc` of docs/results.md.

    PONDER_DATA=<folder with qa/arc_easy_*.csv> python bench/arc.py [--jobs 2 --threads 1]
    python bench/arc.py --table     write from the runs there are

Every run looks at the same 500 held-out questions before and after. A rise is the mean over
questions of what was right after (mean of the seeds) less what was right before; its standard error
is that of this mean.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import results
from language import evaluations
from paths import fill

SETTINGS = {
    "arc_star": ("STaR: rationales that led to the right answer", ["experiment=star_smollm2"]),
    "arc_sft": ("control: as many steps on all rationales", ["experiment=sft_smollm2"]),
    "arc_dpo": ("DPO: right against wrong rationales", ["experiment=dpo_smollm2"]),
}
DATA = Path(os.environ.get("PONDER_DATA", "data")) / "qa"
QUESTIONS = [f"task.{key}={DATA}/arc_easy_{part}.csv"
             for key, part in (("data", "train"), ("test_data", "test"))]
KINDS = {"own": "its own rationale", "shuffled": "that about another question",
         "dropped": "no rationale"}


def right(directory: Path, step: int) -> dict[str, float]:
    """Question -> share of its samples that were right at a step."""
    with (directory / f"val_{step}" / "generated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(int(row["correct"]))
    return {key: statistics.mean(values) for key, values in found.items()}


def rise(name: str, seeds: list[int]) -> tuple[float, float]:
    """(mean, standard error) over questions of what the seeds gained."""
    gained: dict[str, list[float]] = {}
    for seed in seeds:
        directory = results.RUNS / name / str(seed)
        before = right(directory, 0)
        after = right(directory, results.load(name, seed)["steps"])  # type: ignore[index]
        for key, value in after.items():
            gained.setdefault(key, []).append(value - before[key])
    means = [statistics.mean(values) for values in gained.values()]
    return statistics.mean(means), statistics.stdev(means) / len(means) ** 0.5


def row(name: str) -> str:
    """A line of the table."""
    title, overrides = SETTINGS[name]
    seeds = [seed for seed in results.SEEDS if results.load(name, seed)]
    if not seeds:
        return f"| {title} | not run yet | | | | | | |"
    if len(seeds) < len(results.SEEDS):
        title += f" ({len(seeds)} of {len(results.SEEDS)} seeds run so far)"
    found = [evaluations(results.RUNS / name / str(seed)) for seed in seeds]
    cells = []
    for kind in KINDS:
        before = statistics.mean(lines[0][f"necessity/{kind}"] for lines in found)
        after = " / ".join(f"{lines[-1][f'necessity/{kind}']:.3f}" for lines in found)
        cells.append(f"{before:.3f} → {after}")
    mean, error = rise(name, seeds)
    cells.insert(1, f"{mean:+.3f} ({error:.3f})")
    summaries = [results.load(name, seed) for seed in seeds]
    steps = " / ".join(str(summary["steps"]) for summary in summaries if summary)
    seconds = " / ".join(f"{summary['seconds']:.0f}" for summary in summaries if summary)
    return f"| {title} | {' | '.join(cells)} | {steps} | {seconds} | `{' '.join(overrides)}` |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a run")
    arguments = parser.parse_args()
    results.ALL.update({name: (title, [*overrides, *QUESTIONS])
                        for name, (title, overrides) in SETTINGS.items()})
    results.THREADS = arguments.threads
    jobs = [] if arguments.table else [(name, seed) for seed in results.SEEDS for name in SETTINGS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for line in pool.map(results.run, jobs):
            print(line, flush=True)
    titles = " | ".join(KINDS.values()).replace(" | ", " | rise (standard error) | ", 1)
    head = (f"| learnt from | right with {titles} | steps | seconds of training | overrides |\n"
            + "|---" * 8 + "|\n")
    fill(results.PAGE, "arc", head + "\n".join(map(row, SETTINGS)) + "\n")


if __name__ == "__main__":
    main()
