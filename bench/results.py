"""Every training claim of docs/results.md: run each setting with three seeds, write the tables.

    python bench/results.py                  run what is missing, two at a time, write the tables
    python bench/results.py --only invent    settings whose name contains a word
    python bench/results.py --table          write the tables from the runs there are

A run is kept in scratch/results/<setting>/<seed>; one that has a summary is not run again. Each
run uses one CPU thread, so seconds are those of one core beside one other run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from paths import ROOT, fill

RUNS = ROOT / "scratch" / "results"
PAGE = ROOT / "docs" / "results.md"
SEEDS = (0, 1, 2)
THREADS = 1  # of a run

RL = ["strategy=grpo", "trainer.weight_decay=0.1", "trainer.train_batch_size=64",
      "rollout.samples=16", "rollout.epsilon=linear(0.3,0,1500)", "trainer.max_steps=2000",
      "trainer.val_every_n_steps=250"]
BIG = ["task.max=1000", "task.order=least", "trainer.train_batch_size=128",
       "trainer.max_steps=2500"]
SOFTMAX = ["reward=softmax", "strategy.scale=none", "rollout.samples=32",
           "rollout.epsilon=linear(0.5,0,1500)"]
SEARCH = ["trainer.max_steps=1500", "trainer.weight_decay=0.1"]
FREE = "experiment=add_think_fixed_blind"
SUPER = "experiment=add_think_fixed_blind_super"

# name -> (what it is, overrides)
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "default": ("**the default run**: think + fixed + blind + search, max 100", []),
    "invent_digits": ("**the same at max 1000**", ["experiment=invent_digits"]),
    "normal_100": ("no thoughts, max 100", ["experiment=add_normal"]),
    "clean_100": ("think + fixed + blind + super + clean, max 100", [f"{SUPER}_clean", *RL]),
    "clean_1000": ("the same, max 1000; clean pays for every right token",
                   [f"{SUPER}_clean", "reward=gold_tokens", *RL, *BIG]),
    "softmax_100": ("without clean: reward softmax, max 100", [SUPER, *RL, *SOFTMAX]),
    "search_100": ("with super and exhaustive search, max 100", [f"{SUPER}_search", *SEARCH]),
    "star_100": ("without super: best of 16 samples (star), max 100",
                 [FREE, *RL, "strategy=star"]),
    "grpo_100": ("without super: grpo, max 100", [FREE, *RL]),
    "reinforce_100": ("without super: reinforce, max 100", [FREE, *RL, "strategy=reinforce"]),
    "normal_1000": ("no thoughts, max 1000, as many steps as invent_digits or more",
                    ["experiment=add_normal", "task.max=1000", "trainer.train_batch_size=512",
                     "trainer.max_steps=6000", "trainer.val_every_n_steps=500"]),
    "softmax_1000": ("without clean: reward softmax, max 1000",
                     [SUPER, *RL, *SOFTMAX, *BIG, "rollout.samples=16"]),
    "search_1000": ("with super and exhaustive search, max 1000",
                    [f"{SUPER}_search", *SEARCH, "task.max=1000", "task.order=least"]),
}

# The same work by every strategy: gold thoughts are paid for, the answerer is taught.
PPO = ["strategy=ppo", "strategy.entropy=0.05"]  # beside whitened advantages 0.01 is little
STRATEGIES: dict[str, tuple[str, list[str]]] = {
    f"strategy_{name}": (title, [f"{SUPER}_clean", *RL, *more]) for name, title, more in (
        ("reinforce", "reinforce, group mean", ["strategy=reinforce"]),
        ("grpo", "grpo", []),
        ("rloo", "rloo", ["strategy=rloo"]),
        ("ppo_shared", "ppo, value head on the thinker", [*PPO, "strategy.value=shared"]),
        ("ppo_separate", "ppo, a value network of its own", [
            *PPO, "rollout.epsilon=linear(0.5,0,1500)"]),
        ("star", "star, best of the group", ["strategy=star"]),
        ("dpo", "dpo", ["strategy=dpo"]),
        ("exact", "exact: every thought, no sampling noise", ["strategy=exact"]))}

# Thoughts that gradients flow through, beside what rewards reach without a search or a teacher.
FLOWS = ["think=true", "blind=true"]
LATENT: dict[str, tuple[str, list[str]]] = {
    "continuous_100": ("continuous thoughts", [*FLOWS, "thinker.kind=continuous"]),
    "stages_100": ("the same, gold tokens first (a curriculum)", [
        *FLOWS, "thinker.kind=continuous", "thinker.stage_steps=300", "trainer.max_steps=1500"]),
    "gumbel_100": ("tokens by straight-through Gumbel-softmax", [
        *FLOWS, "thinker.kind=gumbel", "trainer.weight_decay=0.1", "trainer.val_every_n_steps=200",
        "trainer.cooldown=300", "rollout.samples=1", "model.head_std=0.3", "rollout.temperature=4",
        "trainer.max_steps=1200"]),
}
BESIDE = ["normal_100", "star_100", "grpo_100", "reinforce_100"]
ALL = {**SETTINGS, **STRATEGIES, **LATENT}


def command(overrides: list[str], seed: int, directory: Path) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *last_words(overrides), f"seed={seed}",
            f"trainer.threads={THREADS}", f"hydra.run.dir={directory}"]


def run(job: tuple[str, int]) -> str:
    """Run one seed of one setting unless its summary is there."""
    name, seed = job
    directory = RUNS / name / str(seed)
    if not (directory / "summary.json").is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "output.txt").open("w") as output:
            subprocess.run(command(ALL[name][1], seed, directory), stdout=output,
                           stderr=subprocess.STDOUT, check=False)
    summary = load(name, seed)
    return f"{name} seed {seed}: " + (f"accuracy {summary['accuracy']:.4f}, "
                                      f"{summary['seconds']:.0f} s" if summary else "FAILED")


def last_words(overrides: list[str]) -> list[str]:
    """Each key once, as said last."""
    said = {word.partition("=")[0]: word for word in overrides}
    return list(said.values())


def load(name: str, seed: int) -> dict | None:
    path = RUNS / name / str(seed) / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def row(name: str) -> str:
    """A line of the table: accuracy of each seed, shuffled thoughts, steps and seconds."""
    found = [summary for seed in SEEDS if (summary := load(name, seed))]
    title, overrides = ALL[name]
    if 0 < len(found) < len(SEEDS):
        title += f" ({len(found)} of {len(SEEDS)} seeds run so far)"
    if not found:
        return f"| {title} | not run yet | | | | | |"
    accuracies = " / ".join(f"{s['accuracy']:.3f}" for s in found)
    mean = statistics.mean(s["accuracy"] for s in found)
    thinks = not name.startswith("normal")
    shuffled = f"{max(s['necessity']['shuffled'] for s in found):.3f}" if thinks else "-"
    steps = " / ".join(str(s["steps"]) for s in found)
    seconds = " / ".join(f"{s['seconds']:.0f}" for s in found)
    line = " ".join(last_words(overrides)) or "(nothing)"
    return f"| {title} | {mean:.3f} | {accuracies} | {shuffled} | {steps} | {seconds} |" \
           + f" `{line}` |"


def write_table() -> None:
    """Replace the tables between the markers of docs/results.md."""
    head = ("| setting | mean accuracy | seeds 0 / 1 / 2 | highest with shuffled thoughts | steps "
            "| seconds | overrides |\n|---|---|---|---|---|---|---|\n")
    for name, settings in (("training", SETTINGS), ("strategies", STRATEGIES),
                           ("latent", [*LATENT, *BESIDE])):
        fill(PAGE, name, head + "\n".join(row(setting) for setting in settings) + "\n")


def run_what_is_asked(about: str | None, work: Callable[[Any], str],
                      jobs: Callable[[str], Iterable[Any]]) -> None:
    """Read the command line, and do the jobs whose name contains a word, some at a time; each
    says a line.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--only", default="", help="what has a name that contains this")
    parser.add_argument("--table", action="store_true", help="write the tables, run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    arguments = parser.parse_args()
    if not arguments.table:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for line in pool.map(work, jobs(arguments.only)):
                print(line, flush=True)


def main() -> None:
    run_what_is_asked(__doc__, run, lambda word: [
        (name, seed) for name in ALL if word in name for seed in SEEDS])
    write_table()


if __name__ == "__main__":
    main()
