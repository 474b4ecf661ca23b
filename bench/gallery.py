"""Reports of real runs for the gallery of the site, kept in scratch/gallery/<name>/.

    python bench/gallery.py             # the short ones, for `make docs`; what is done stays
    python bench/gallery.py --all       # the long ones too
    python bench/gallery.py hidden_state
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "scratch" / "gallery"
BOOK = FOLDER / "book.txt"
MARK = "<!-- gallery -->"


@dataclass(frozen=True)
class Entry:
    """A run of the gallery. minutes: on one core of a quiet machine; above 1 only with --all."""

    words: str
    title: str
    shows: str
    minutes: float = 0.5


ENTRIES = {
    "main": Entry("", "Sums of two numbers below 100, the main job",
                  "two networks invent a language; one heat map for each token of a thought says "
                  "which answers it stands for"),
    "text": Entry(f"experiment=normal task.data={BOOK.relative_to(ROOT)} trainer.max_steps=300",
                  "A small GPT-2 learns text",
                  "its text is the documentation that you read; held-out loss, no thoughts"),
    "ppo": Entry(f"experiment=ppo_corpus task.data={BOOK.relative_to(ROOT)} task.wanted=e "
                 "model.name=scratch/gallery/text/checkpoint_300 trainer.max_steps=100",
                 "PPO on text: more of the letter e",
                 "reward, value loss and distance from that GPT-2, which this run begins with"),
    "invent_steps": Entry("experiment=invent_steps", "Sixteen swaps of five cups",
                          "steps that nobody taught, beside the true place of the ball", 5),
    "hidden_state": Entry("experiment=hidden_state", "In which half of the cups is the ball?",
                          "four questions about each thought; the swap test", 10),
    "invent_digits": Entry("experiment=invent_digits", "Sums below 1,000",
                           "place value: which digit each token came to mean, and when", 5),
    "star_addition": Entry("experiment=star_addition", "STaR on sums with scratchpads",
                           "lengths that were never shown, learnt one after the other", 5),
    "continuous": Entry("experiment=add_continuous", "Thoughts that are vectors",
                        "the necessity table of continuous thoughts", 6),
}


def command(name: str) -> str:
    """The command line of a run, as a user types it."""
    return f"python run.py {ENTRIES[name].words}".rstrip()


def done(name: str) -> dict[str, Any] | None:
    """The summary of a run that is done; None for another."""
    try:
        return json.loads((FOLDER / name / "summary.json").read_text())
    except OSError:
        return None


def make(name: str) -> None:
    """Run what is not done; a run that was interrupted goes on."""
    if done(name):
        print(f"{name}: is there")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not BOOK.is_file():
        pages = sorted((ROOT / "docs").glob("*.md"))
        BOOK.write_text("\n\n".join(page.read_text("utf-8") for page in pages), "utf-8")
    words = shlex.split(ENTRIES[name].words)
    subprocess.run([sys.executable, "run.py", *words, f"hydra.run.dir=scratch/gallery/{name}"],
                   cwd=ROOT, check=True)


def listed(markdown: str) -> str:
    """A page with its mark replaced by a table: the reports that are there, and how to make others.
    """
    rows = ["| run | what to look at | result | command |", "|---|---|---|---|"]
    for name, entry in ENTRIES.items():
        summary = done(name)
        title = f"[{entry.title}](gallery/{name}.html)" if summary else entry.title
        rows.append(f"| {title} | {entry.shows} | {_result(name, summary)} | `{command(name)}` |")
    return markdown.replace(MARK, "\n".join(rows))


def _result(name: str, summary: dict[str, Any] | None) -> str:
    if summary is None:
        return f"not made yet: `python bench/gallery.py {name}`, {ENTRIES[name].minutes:g} minutes"
    reward = summary["metrics"].get("val/reward")
    said = f"reward {reward:.2f} a text" if reward else f"accuracy {summary['accuracy']:.3f}"
    return f"{said}, {summary['steps']} steps in {summary['seconds']:.0f} s"


def main(words: list[str]) -> None:
    short = [name for name, entry in ENTRIES.items() if entry.minutes <= 1]
    names = [*ENTRIES] if words == ["--all"] else words or short
    unknown = {*names} - {*ENTRIES}
    if unknown:
        sys.exit(f"gallery: found {', '.join(sorted(unknown))}; legal: --all, {', '.join(ENTRIES)}")
    for name in names:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
