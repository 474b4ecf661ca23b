"""The map: which training finds thoughts on which task. docs/map.md and docs/map.html.

    python bench/map.py                   run what is missing, two sweeps at a time, then draw
    python bench/map.py --only cups       cells whose name contains a word
    python bench/map.py --table           draw from the runs there are

A cell is a sweep over three seeds (`python run.py -m ...`) in scratch/map/<cell>, small enough for
90 seconds on one core. What it found is kept in bench/records/map.jsonl, and not run again; a sweep
that was interrupted goes on. A cell that makes no sense shows the line that says so.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

from paths import ROOT
from records import Records, began_with
from results import SEEDS, last_words, run_what_is_asked

RECORDS = Records("map")
SWEEPS = ROOT / "scratch" / "map"
MARKDOWN, PAGE = ROOT / "docs" / "map.md", ROOT / "docs" / "map.html"
# task -> (title, words, accuracy of guessing)
TASKS = {
    "add": ("add, sums modulo 10", ["task=add", "task.max=10"], 0.1),
    "cups": ("cups, 4 swaps of 5", ["task=cups", "task.steps=4"], 0.2),
    "parity": ("parity, 10 bits", ["task=parity", "task.steps=10"], 0.5),
    "chain": ("chain, 4 operations mod 5", ["task=chain", "task.steps=4", "task.modulus=5"], 0.2),
    "chase": ("chase, 3 hops of 6", ["task=chase", "task.steps=3", "task.nodes=6"], 1 / 6),
    "graph": ("graph, 2 hops", ["task=graph", "task.hops=2", "task.branches=1"], 0.5),
    "equation": ("equation, 2 unknowns mod 5", ["task=equation", "task.unknowns=2",
                                                "task.modulus=5"], 0.2),
    "multiply": ("multiply, 2 digits", ["task=multiply", "task.digits=2"], 0.0),
    "sort": ("sort, 4 of 10", ["task=sort", "task.numbers=4", "task.max=10"], 0.0),
    "sat": ("sat, 3 variables", ["task=sat", "task.variables=3", "task.clauses=8"], 0.5),
    "many": ("many, 3 sums", ["task=many", "task.sums=3"], 0.0),
    "threesum": ("threesum, 4 vectors", ["task=threesum", "task.vectors=4"], 0.5),
}
LOOP = ["trainer=steps", "trainer.max_steps=500", "trainer.cooldown=150",
        "trainer.val_every_n_steps=1000000", "trainer.save_every_n_steps=0",
        "task.test_questions=500", "trainer.threads=1"]
RL = ["rollout=sample", "rollout.samples=8", "trainer.train_batch_size=16",
      "rollout.epsilon=linear(0.3,0,350)"]
GROW = ["rollout.method=grow", "trainer.curriculum=accuracy", "answerer.positions=from_end",
        "thinker.pace=1", "thinker.vocabulary=16", "trainer.lr=0.0005"]
# way -> (title, words)
WAYS = {
    "super": ("gold thoughts learnt", ["variant=[think,super]", "strategy=sft"]),
    "clean": ("paid for gold thoughts", ["variant=[think,fixed,super,clean]", "strategy=grpo",
                                         *RL]),
    "softmax": ("super, reward softmax", ["variant=[think,fixed,super]", "strategy=grpo",
                                          "reward=softmax", "strategy.scale=none", *RL]),
    "grpo": ("grpo", ["variant=[think,fixed,blind]", "strategy=grpo", *RL]),
    "star": ("star, best of 8", ["variant=[think,fixed,blind]", "strategy=star", *RL]),
    "ppo": ("ppo", ["variant=[think,fixed,blind]", "strategy=ppo", *RL]),
    "search": ("search", ["variant=[think,fixed,blind,search]"]),
    "grow": ("growing thoughts", ["variant=[think,fixed,blind,search]", *GROW]),
    "continuous": ("continuous", ["variant=[think,blind]", "thinker.kind=continuous",
                                  "rollout=sample"]),
    "gumbel": ("gumbel", ["variant=[think,blind]", "thinker.kind=gumbel", "rollout=sample",
                          "rollout.samples=1"]),
    "filler": ("filler tokens", ["variant=[think]", "thinker.filler=true", "rollout=sample"]),
    "direct": ("no thought", ["variant=[]", "rollout=sample"]),
}
FLAGS = ("think", "fixed", "blind", "super", "clean", "search")


@dataclass(frozen=True)
class Cell:
    """name: its directory. row, column: where it stands. words: of its command."""

    name: str
    row: str
    column: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        return " ".join(["python run.py -m", *map(_quoted, self.words), "seed=0,1,2"])

    @property
    def folder(self) -> Path:
        return SWEEPS / self.name

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What it found: accuracy and seconds of each seed and the highest accuracy with shuffled
        thoughts, or the line that says why it makes no sense (refused); None where it was not run.
        """
        return RECORDS.get(self.name, [*self.words])

    def summaries(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.rglob("summary.json"))]


def _quoted(word: str) -> str:
    return f"'{word}'" if any(sign in word for sign in "[](,") else word


def cells() -> Iterator[Cell]:
    """Every task in every way; and every subset of the variants on add and cups."""
    for task, (_, small, _) in TASKS.items():
        for way, (_, words) in WAYS.items():
            yield Cell(f"{task}/{way}", way, task, tuple(last_words(LOOP + small + words)))
    for task in ("add", "cups"):
        for size in range(len(FLAGS) + 1):
            for flags in combinations(FLAGS, size):
                named = "_".join(flags) or "none"
                yield Cell(f"variants_{task}/{named}", named, f"variants_{task}", tuple(
                    last_words([*LOOP, *TASKS[task][1], f"variant=[{','.join(flags)}]"])))


def run(cell: Cell) -> str:
    """Run the sweep of a cell unless it is in the records, and keep what it found."""
    if cell.outcome is None:
        if not all(began_with(path.parent, [*cell.words])
                   for path in cell.folder.rglob("words.json")):
            shutil.rmtree(cell.folder)  # a sweep of an earlier setting
        words = [sys.executable, str(ROOT / "run.py"), "-m", *cell.words,
                 f"seed={','.join(map(str, SEEDS))}", f"hydra.sweep.dir={cell.folder}",
                 "hydra/launcher=here"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        found = cell.summaries()
        if done.returncode == 2 and said:
            RECORDS.put(cell.name, [*cell.words], {"refused": said[-1].removeprefix("error: ")})
        elif done.returncode or len(found) < len(SEEDS):
            return f"{cell.name}: FAILED\n{done.stderr[-1000:]}"
        else:
            shuffled = [one["necessity"]["shuffled"] for one in found if one["necessity"]]
            RECORDS.put(cell.name, [*cell.words], {
                "accuracy": [one["accuracy"] for one in found],
                "shuffled": max(shuffled) if shuffled else None,
                "seconds": [one["seconds"] for one in found]})
    return f"{cell.name}: {told(cell)}"


# --- the pages ------------------------------------------------------------------------------------

def shown(cell: Cell) -> tuple[str, str]:
    """(what a cell says: the mean accuracy; its colour)."""
    found = cell.outcome
    if not found or "refused" in found:
        return ("-" if found else "?"), "#eeeeee"
    mean = statistics.mean(found["accuracy"])
    light = 96 - 50 * mean
    return f"{mean:.2f}", f"hsl(205 70% {light:.0f}%)"


def tables() -> Iterator[tuple[str, list[str], dict[tuple[str, str], Cell]]]:
    """(title, columns, the cells by row and column) of both maps."""
    every = list(cells())
    for title, columns in (("Tasks and ways of training", [*TASKS]),
                           ("All variants", ["variants_add", "variants_cups"])):
        yield title, columns, {(one.row, one.column): one for one in every
                               if one.column in columns}


def heading(column: str) -> str:
    task = column.removeprefix("variants_")
    return f"{TASKS[task][0]} (guessing {TASKS[task][2]:.2f})"


def html() -> str:
    parts = ["<!doctype html><meta charset=utf-8><title>The map</title><style>"
             "body{font:14px system-ui;margin:2em}td,th{padding:.3em .6em;text-align:center;"
             "font-weight:normal}td a{color:inherit;text-decoration:none}td:first-child,"
             "dd{text-align:left}code{font-size:12px}dt{margin-top:.8em}:target{background:#ffd}"
             "</style><h1>The map</h1><p>Mean accuracy of three seeds on held-out questions. "
             f"A cell leads to its command. {escape(total())}</p>"]
    for title, columns, found in tables():
        rows = list(dict.fromkeys(row for row, _ in found))
        parts.append(f"<h2>{title}</h2><table><tr><td>" + "".join(
            f"<th>{escape(heading(column))}" for column in columns))
        for row in rows:
            label = WAYS[row][0] if row in WAYS else row.replace("_", " + ")
            parts.append(f"<tr><td>{escape(label)}")
            for column in columns:
                text, colour = shown(found[row, column])
                parts.append(f'<td style="background:{colour}">'
                             f'<a href="#{found[row, column].name}">{text}</a>')
        parts.append("</table>")
    parts.append("<h2>Commands</h2><dl>")
    for _, _, found in tables():
        parts += [f'<dt id="{one.name}">{one.name}<dd><code>{escape(one.command)}</code><br>'
                  f"{escape(told(one))}" for one in found.values()]
    return "\n".join([*parts, "</dl>"])


def told(cell: Cell) -> str:
    """The accuracies of a cell, those with shuffled thoughts, and seconds; or why it is empty."""
    found = cell.outcome
    if not found or "refused" in found:
        return found["refused"] if found else "not run yet"
    line = "accuracy " + " / ".join(f"{one:.3f}" for one in found["accuracy"])
    if found["shuffled"] is not None:
        line += f"; shuffled thoughts {found['shuffled']:.3f} at most"
    return f"{line}; {sum(found['seconds']):.0f} s"


def total() -> str:
    """How many cells were run, make no sense and are missing, and how long all took."""
    outcomes = [cell.outcome for cell in cells()]
    ran = [found for found in outcomes if found and "accuracy" in found]
    minutes = sum(sum(found["seconds"]) for found in ran) / 60
    refused = sum(found is not None for found in outcomes) - len(ran)
    missing = sum(found is None for found in outcomes)
    return (f"{len(ran)} cells were run, in {minutes:.0f} minutes of training on one core; "
            f"{refused} make no sense" + (f"; {missing} are not run yet." if missing else "."))


def markdown() -> str:
    parts = ["# The map", "", "Which training finds thoughts on which task: mean accuracy of three "
             "seeds on held-out questions, small enough for 90 s a cell on one core. Written by "
             "`python bench/map.py`; [map.html](map.html) has the same as a heat map whose cells "
             "lead to their commands. `-`: makes no sense, the line below says why. " + total()]
    for title, columns, found in tables():
        rows = list(dict.fromkeys(row for row, _ in found))
        parts += ["", f"## {title}", "", "| | " + " | ".join(map(heading, columns)) + " |",
                  "|---" * (len(columns) + 1) + "|"]
        for row in rows:
            label = WAYS[row][0] if row in WAYS else row.replace("_", " + ")
            parts.append(f"| {label} | " + " | ".join(
                shown(found[row, column])[0] for column in columns) + " |")
        parts += ["", *(f"- **{one.name}**: `{one.command}`: {told(one)}"
                        for one in found.values())]
    return "\n".join(parts) + "\n"


def main() -> None:
    run_what_is_asked(__doc__, run, lambda word: [
        cell for cell in cells() if word in cell.name])
    MARKDOWN.write_text(markdown())
    PAGE.write_text(html())


if __name__ == "__main__":
    main()
