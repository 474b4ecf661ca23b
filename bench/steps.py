"""Where thoughts are needed: docs/steps.svg, docs/lengths.svg and a table of docs/results.md.

    python bench/steps.py                    run what is missing, two at a time, then draw
    python bench/steps.py --only cups        settings whose name contains a word
    python bench/steps.py --table            draw and write from the runs there are

Runs are those of bench/results.py: one thread, a directory a seed. Those of tasks of steps are
asked for questions of every length besides (`action=evaluate`), in the directory <seed>_lengths.
What they found is kept in bench/records/steps.jsonl, and is not run again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import records
import results
from paths import ROOT

RECORDS = records.Records("steps")
COLOURS = ("tab:blue", "tab:orange", "tab:red", "tab:green")
NETWORK = ["model.init_std=0.07", "model.query_key_std=0.07", "model.embedding_std=0.05",
           "model.position_std=0.05", "model.head_std=0.07"]  # those of invent_steps
LOOP = ["trainer.train_batch_size=192", "trainer.lr=0.0005", "trainer.weight_decay=0",
        "trainer.warmup=0", "trainer.cooldown=300", "trainer.val_every_n_steps=1000000"]
GROW = ["experiment=invent_steps"]
ANSWERS = [*NETWORK, *LOOP, "trainer.max_steps=2000"]  # what learns from answers alone
SUPER = ["variant=[think,super]", "strategy=sft", *NETWORK, *LOOP, "trainer.lr=0.001",
         "trainer.train_batch_size=64", "trainer.max_steps=1000"]


class Serial(NamedTuple):
    """title: with the size. words: overrides. chance: the accuracy of guessing. lengths: overrides
    that ask for questions of all lengths, which what learns from answers alone is trained on.
    """

    title: str
    words: list[str]
    chance: float
    lengths: list[str]


ALL_LENGTHS = ["task.min_steps=1"]
TASKS = {
    "cups": Serial("cups, 16 swaps", ["task=cups"], 0.2, ALL_LENGTHS),
    "parity": Serial("parity, 24 bits", ["task=parity", "task.steps=24"], 0.5, ALL_LENGTHS),
    "chain": Serial("chain, 8 operations mod 7", ["task=chain", "task.steps=8"], 1 / 7,
                    ALL_LENGTHS),
    "chase": Serial("chase, 6 hops of 12", ["task=chase"], 1 / 12, ALL_LENGTHS),
    "half": Serial("half: which group of cups, 16 swaps", ["task=half"], 0.6, ALL_LENGTHS),
    "equation": Serial("equation, 3 unknowns mod 7", ["task=equation"], 1 / 7, []),
    "graph": Serial("graph, 4 hops", ["task=graph"], 0.5, []),
    "sort": Serial("sort, 8 numbers below 20", ["task=sort"], 0, []),
}
# way -> (title, overrides); of what is trained on answers alone, questions of all lengths
WAYS = {
    "grow": ("thoughts that nobody taught", GROW),
    "super": ("gold thoughts learnt", SUPER),
    "direct": ("direct answer", ["variant=[]", *ANSWERS]),
    "deep": ("direct, twice as deep", ["variant=[]", *ANSWERS, "model.layers=4"]),
    "filler": ("filler tokens", ["variant=[think]", "thinker.filler=true", *ANSWERS]),
    "continuous": ("continuous thoughts", ["variant=[think]", "thinker.kind=continuous",
                                           *ANSWERS]),
}
DRAWN = ("grow", "direct", "deep", "filler")  # in the picture
WITHOUT_GROWTH = ("equation", "graph", "sort")  # their state is more than one token holds
PARTICULAR = {"steps_parity_grow": ["thinker.vocabulary=4"],
              "steps_chain_grow": ["thinker.vocabulary=10"],
              "steps_chase_grow": ["thinker.vocabulary=16"],
              "steps_half_grow": ["thinker.asked=4"],
              "steps_chase_super": ["trainer.lr=0.0005", "trainer.max_steps=1500"],
              "steps_graph_super": ["trainer.max_steps=2500"]}
ASKED = (0, 1, 2, 11)  # questions about each thought of task=half, beside 4
AUTOMATA = ((3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0), (7, 0), (8, 0),
            (8, 1))  # states, and the seed that each is drawn with
LONGER = ["task=cups", "task.train_steps=16", "task.steps=32"]
LONGEST = {  # trained on up to 16 swaps, asked for up to 32
    "grow": ("invented, a token for each swap", [*GROW, *LONGER]),
    "fixed": ("gold, a token for each swap", [*SUPER, "variant=[think,fixed,super]",
                                              "thinker.pace=1", *LONGER, *ALL_LENGTHS]),
    "stops": ("gold, the thinker ends its thoughts", [*SUPER, *LONGER, *ALL_LENGTHS]),
}
SUMS = {"4": ["task.steps=4"], "6": ["task.steps=6"], "10": ["task.steps=10"],
        "4_systematic": ["task.steps=4", "task.split=systematic"],
        "6_systematic": ["task.steps=6", "task.split=systematic"]}
OTHERS = {"carry": ["task=carry", "thinker.asked=4", "thinker.vocabulary=24"],
          "registers": ["task=registers", "task.registers=2", "thinker.asked=2",
                        "thinker.vocabulary=24"]}


class Setting(NamedTuple):
    """What it is; its overrides; those that ask for questions of all lengths, if any."""

    title: str
    words: list[str]
    lengths: Sequence[str] = ()


def settings() -> dict[str, Setting]:
    """Every task in every way, by name."""
    found = {}
    for task, (about, words, _, lengths) in TASKS.items():
        for way, (title, more) in WAYS.items():
            name = f"steps_{task}_{way}"
            mixed = [] if way in ("grow", "super") else lengths
            if way != "grow" or task not in WITHOUT_GROWTH:
                found[name] = Setting(f"{about}: {title}", results.last_words(
                    [*more, *words, *mixed, *PARTICULAR.get(name, [])]), lengths)
    about, words, _, _ = TASKS["half"]
    for count in ASKED:
        found[f"steps_half_asked{count}"] = Setting(
            f"{about}: asked {count or 'the plain question'}",
            [*GROW, *words, f"thinker.asked={count}", "trainer.max_steps=1500"], ALL_LENGTHS)
    for states, machine in AUTOMATA:
        found[f"steps_automaton_{states}_{machine}"] = Setting(
            f"automaton of {states} states, drawn with {machine}, 16 letters",
            [*GROW, "task=automaton", f"task.states={states}", f"task.machine={machine}",
             "thinker.asked=4", "thinker.vocabulary=12"])
    for name, words in OTHERS.items():
        found[f"steps_{name}_grow"] = Setting(f"{name}, 16 moves: {WAYS['grow'][0]}",
                                              [*GROW, *words])
    for name, (title, words) in LONGEST.items():
        found[f"steps_length_{name}"] = Setting(f"cups, 32 swaps, trained to 16: {title}",
                                                results.last_words(words), ALL_LENGTHS)
    for name, words in SUMS.items():
        digits, _, split = name.partition("_")
        found[f"steps_columns_{name}"] = Setting(
            f"columns, sums of {digits} digits: {WAYS['grow'][0]}" + f", {split} hold-out" * bool(
                split), [*GROW, "task=columns", "thinker.vocabulary=16", *words])
    return found


SETTINGS = settings()
results.ALL.update({name: setting[:2] for name, setting in SETTINGS.items()})


def run(job: tuple[str, int]) -> str:
    """Run one seed of one setting unless it is in the records, and keep what it found."""
    return RECORDS.run(job, SETTINGS[job[0]].words, lambda folder, summary: {
        "swaps": summary["metrics"].get("swap/other_state"),
        "unasked": summary["metrics"].get("unasked/accuracy"),
        "falls": falls_of(folder), "lengths": of_lengths(job)})


def falls_of(folder: Path) -> int | None:
    """How often training went back to shorter questions; None where no curriculum decides."""
    rows = map(json.loads, (folder / "metrics.jsonl").open())
    falls = [row["curriculum/falls"] for row in rows if "curriculum/falls" in row]
    return int(falls[-1]) if falls else None


def outcomes(name: str) -> list[dict[str, Any]]:
    """What all seeds of a setting that have been run found."""
    return RECORDS.of_seeds(name, SETTINGS[name].words)


def of_lengths(job: tuple[str, int]) -> dict[str, float]:
    """Accuracy of a run for each number of steps, on held-out questions."""
    name, seed = job
    folder, kept = results.RUNS / name / str(seed), results.RUNS / name / f"{seed}_lengths"
    if not SETTINGS[name].lengths:
        return {}
    words = [sys.executable, str(ROOT / "run.py"), "action=evaluate",
             f"model.name={newest(folder)}", *SETTINGS[name].lengths, "task.test_questions=4000",
             f"hydra.run.dir={kept}", "trainer.threads=1"]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    metrics = json.loads((kept / "summary.json").read_text())["metrics"]
    found = {int(key.split("/")[1].split("_")[0]): value for key, value in metrics.items()
             if key.startswith("accuracy/") and key.endswith("_steps")}
    return {str(length): found[length] for length in sorted(found)}


def newest(run: Path) -> Path:
    """The last checkpoint of a run."""
    return max(run.glob("checkpoint_*/manifest.json"), key=lambda path: json.loads(
        path.read_text())["step"]).parent


def draw(picture: Path, curves: dict[str, str], about: str) -> None:
    """Accuracy by number of swaps, of the settings (name: title): the mean of the seeds, and each
    seed thinly. Nothing before one of them has been run.
    """
    if not any(map(outcomes, curves)):
        return
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    for colour, (name, title) in zip(COLOURS, curves.items(), strict=False):
        found = [one["lengths"] for one in outcomes(name)]
        for curve in found:
            axis.plot([*map(int, curve)], [*curve.values()], color=colour, linewidth=0.5)
        if found:
            means = [statistics.mean(curve[n] for curve in found) for n in found[0]]
            axis.plot([*map(int, found[0])], means, color=colour, linewidth=2, label=title)
    axis.axhline(TASKS["cups"].chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axis.set_xlabel(about)
    axis.set_ylabel("accuracy on held-out questions")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def row(name: str) -> str:
    """A line of the table: accuracy of each seed at the longest questions, with shuffled thoughts,
    steps and seconds.
    """
    found = outcomes(name)
    title, overrides, _ = SETTINGS[name]
    shuffled = [one["necessity"]["shuffled"] for one in found
                if one["necessity"] and "variant=[]" not in overrides]
    columns = [
        [f"{[*one['lengths'].values()][-1] if one['lengths'] else one['accuracy']:.3f}"
         for one in found],
        [f"{max(shuffled):.3f}"] if shuffled else [],
        [f"{one['swaps']:.2f}" for one in found if one["swaps"] is not None],
        [str(one["steps"]) for one in found],
        [str(one["falls"]) for one in found if one["falls"] is not None],
        [f"{one['seconds']:.0f}" for one in found]]
    cells = " | ".join(" / ".join(column) or "-" for column in columns)
    return f"| {records.titled(title, found)} | {cells} | `{' '.join(overrides)}` |"


def write_table() -> None:
    """Replace the table of docs/results.md."""
    records.write_table("steps", "| task: way | accuracy at the longest, seeds 0 / 1 / 2 | highest "
                        "with shuffled thoughts | answers that follow a swapped state | steps | "
                        "falls | seconds | overrides |",
                        {name: row(name) if outcomes(name) else None for name in SETTINGS})


def main() -> None:
    results.run_what_is_asked(__doc__, run, lambda word: [
        (name, seed) for seed in results.SEEDS for name in SETTINGS if word in name])
    write_table()
    draw(ROOT / "docs" / "steps.svg", {f"steps_cups_{way}": WAYS[way][0] for way in DRAWN},
         "swaps of five cups")
    draw(ROOT / "docs" / "lengths.svg", {f"steps_length_{way}": title for way, (title, _)
                                         in LONGEST.items()}, "swaps; trained on up to 16")


if __name__ == "__main__":
    main()
