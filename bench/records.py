"""What runs of the benchmarks found, kept in git: a line for each in bench/records/<name>.jsonl.

A table of hundreds of runs is made over days and on several machines; a run counts for as long as
its overrides are those that the table would use. To run one again, take its line out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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

    def put(self, name: str, words: list[str], found: dict[str, Any]) -> None:
        """Keep what a run found; processes that run side by side each add their lines."""
        FOLDER.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"name": name, **found, "words": words}) + "\n")
