"""What runs of the benchmarks found, kept in git: a line for each in bench/records/<name>.jsonl.

A table of hundreds of runs is made over days and on several machines; a run counts for as long as
its overrides are those that the table would use. To run one again, take its line out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import results
from paths import fill

FOLDER = Path(__file__).resolve().parent / "records"


class Records:
    """The outcomes of one benchmark: a dictionary for each name of a run, the last one counts."""

    def __init__(self, name: str) -> None:
        self._path = FOLDER / f"{name}.jsonl"

    def get(self, name: str, words: list[str]) -> dict[str, Any] | None:
        """What the run of these overrides found; None where it has not been run."""
        if not self._path.is_file():
            return None
        kept = [found for line in self._path.read_text().splitlines()
                if (found := json.loads(line))["name"] == name and found["words"] == words]
        return kept[-1] if kept else None

    def of_seeds(self, name: str, words: list[str]) -> list[dict[str, Any]]:
        """What all seeds of a setting that have been run found."""
        return [found for seed in results.SEEDS if (found := self.get(f"{name}/{seed}", words))]

    def put(self, name: str, words: list[str], found: dict[str, Any]) -> None:
        """Keep what a run found; processes that run side by side each add their lines."""
        FOLDER.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"name": name, **found, "words": words}) + "\n")

    def run(self, job: tuple[str, int], words: list[str],
            found: Callable[[Path, dict[str, Any]], dict[str, Any]] | None = None) -> str:
        """Run one seed of a setting of bench/results.py unless it is here, and keep what it found:
        accuracy, necessity, steps, seconds, and what `found` reads from its directory and summary.
        """
        name = f"{job[0]}/{job[1]}"
        if self.get(name, words):
            return f"{name}: is there"
        folder = results.RUNS / job[0] / str(job[1])
        if not began_with(folder, words):
            shutil.rmtree(folder, ignore_errors=True)  # a run of an earlier setting
        said, summary = results.run(job), results.load(*job)
        if summary:
            more = found(folder, summary) if found else {}
            self.put(name, words, {key: summary[key] for key in (
                "accuracy", "necessity", "steps", "seconds")} | more)
        return said


def began_with(folder: Path, words: list[str]) -> bool:
    """Whether the run in a folder has these overrides, whatever its seed."""
    try:
        said = json.loads((folder / "words.json").read_text())
    except OSError:
        return False
    own = ("seed=", "trainer.threads=")
    typed, wanted = ({word for word in some if not word.startswith(own)} for some in (said, words))
    return typed == wanted


def titled(title: str, found: list[dict[str, Any]]) -> str:
    """A title that says how many seeds have been run, where some have not."""
    if len(found) == len(results.SEEDS):
        return title
    return f"{title} ({len(found)} of {len(results.SEEDS)} seeds run so far)"


def write_table(mark: str, head: str, rows: dict[str, str | None]) -> None:
    """Replace a table of docs/results.md by the rows of settings (name: row); below it stand the
    names of those without one, which have not been run.
    """
    columns = head.count("|") - 1
    missing = ", ".join(f"`{name}`" for name, row in rows.items() if row is None)
    lines = [head, "|" + "---|" * columns, *filter(None, rows.values())]
    left = f"\nNot run yet: {missing}.\n" if missing else ""
    fill(results.PAGE, mark, "\n".join(lines) + f"\n{left}")
