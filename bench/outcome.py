"""Outcome reward alone on `chase`: with and without easy questions, and after a share of gold
thoughts. A table of docs/results.md, and docs/gold_share.svg.

    python bench/outcome.py                  run what is missing, two at a time, then draw
    python bench/outcome.py --only share     settings whose name contains a word
    python bench/outcome.py --table          draw and write from the runs there are

The answerer is blind and learns from gold thoughts: it knows what the tokens mean, so a thought is
right where its last token is. Nothing tells the thinker what comes before. What runs found is kept
in bench/records/outcome.jsonl.
"""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import records
import results
from paths import ROOT
from steps import LOOP, NETWORK

RECORDS = records.Records("outcome")
CHASE = ["task=chase", "task.nodes=6", "task.steps=3", "variant=[think,fixed,blind,super]",
         "thinker.pace=1", "thinker.vocabulary=6", "answerer.positions=from_end",
         "reward=probability", *NETWORK, *LOOP, "trainer.lr=0.0004", "trainer.train_batch_size=96",
         "rollout.samples=8", "trainer.max_steps=3000"]
EXPLORES = ["rollout.epsilon=linear(0.2,0.02,2000)"]  # much at first, little in the end
BONUS = ["strategy.entropy=linear(0.05,0,2000)"]
STRATEGIES = {
    "star": ["strategy=star", *EXPLORES],
    "grpo": ["strategy=grpo", "strategy.scale=none", *BONUS, *EXPLORES],
    "ppo": ["strategy=ppo", *BONUS, *EXPLORES],
}
EASY = {  # which questions are trained on
    "curriculum": ("1 hop first, then one more", ["trainer.curriculum=accuracy",
                   "trainer.curriculum_known=0.95", "trainer.curriculum_forgotten=0.75"]),
    "mix": ("1 to 3 hops mixed", ["task.min_steps=1"]),
    "hard": ("3 hops alone", []),
}
SHARES = (0, 2, 5, 10, 25)  # per cent of the questions whose gold thoughts are learnt


def settings() -> dict[str, tuple[str, list[str]]]:
    """name -> (what it is, overrides)."""
    found = {f"outcome_{strategy}_{easy}": (f"{strategy}, {about}", [*CHASE, *words, *more])
             for strategy, words in STRATEGIES.items() for easy, (about, more) in EASY.items()}
    for share in SHARES:
        found[f"outcome_share_{share}"] = (
            f"grpo, 3 hops alone, gold thoughts of {share} %",
            [*CHASE, *STRATEGIES["grpo"], f"rollout.gold_share={share / 100:g}",
             "trainer.max_steps=1500"])
    return {name: (about, results.last_words(words)) for name, (about, words) in found.items()}


SETTINGS = settings()
results.ALL.update(SETTINGS)


def run(job: tuple[str, int]) -> str:
    """Run one seed of one setting unless it is in the records, and keep what it found."""
    return RECORDS.run(job, SETTINGS[job[0]][1])


def outcomes(name: str) -> list[dict[str, Any]]:
    """What all seeds of a setting that have been run found."""
    return RECORDS.of_seeds(name, SETTINGS[name][1])


def row(name: str) -> str:
    """A line of the table: accuracy of each seed at three hops, with shuffled thoughts."""
    found = outcomes(name)
    title, overrides = SETTINGS[name]
    columns = [[f"{one['accuracy']:.3f}" for one in found],
               [f"{max(one['necessity']['shuffled'] for one in found):.3f}"],
               [str(one["steps"]) for one in found], [f"{one['seconds']:.0f}" for one in found]]
    cells = " | ".join(" / ".join(column) for column in columns)
    return f"| {records.titled(title, found)} | {cells} | `{' '.join(overrides)}` |"


def draw() -> None:
    """Accuracy by the share of gold thoughts: each seed, and their mean; nothing before there are
    runs of two shares.
    """
    points = {share: [one["accuracy"] for one in outcomes(f"outcome_share_{share}")]
              for share in SHARES}
    points = {share: found for share, found in points.items() if found}
    if len(points) < 2:
        return
    figure, axis = plt.subplots(figsize=(5, 3))
    for share, found in points.items():
        axis.plot([share] * len(found), found, "o", color="tab:blue", markersize=4)
    axis.plot([*points], [*map(statistics.mean, points.values())], color="tab:blue")
    axis.axhline(1 / 6, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axis.set_xlabel("questions with gold thoughts, per cent")
    axis.set_ylabel("accuracy at 3 hops")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "gold_share.svg", metadata={"Date": None})


def write_table() -> None:
    """Replace the table of docs/results.md."""
    records.write_table("outcome", "| training | accuracy at 3 hops, seeds 0 / 1 / 2 | highest "
                        "with shuffled thoughts | steps | seconds | overrides |",
                        {name: row(name) if outcomes(name) else None for name in SETTINGS})


def main() -> None:
    results.run_what_is_asked(__doc__, run, lambda word: [
        (name, seed) for seed in results.SEEDS for name in SETTINGS if word in name])
    write_table()
    draw()


if __name__ == "__main__":
    main()
