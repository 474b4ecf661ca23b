"""What runs of the benchmarks found, kept in git: bench/records/<name>.json.

A table of hundreds of runs is made over days and on several machines; a run counts for as long as
its overrides are those that the table would use. To run one again, take it out of the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

FOLDER = Path(__file__).resolve().parent / "records"


class Records:
    """The outcomes of one benchmark: a dictionary for each name of a run."""

    def __init__(self, name: str) -> None:
        self._path = FOLDER / f"{name}.json"
        self._lock = Lock()

    def get(self, name: str, words: list[str]) -> dict[str, Any] | None:
        """What the run of these overrides found; None where it has not been run."""
        kept = self._read().get(name)
        return kept if kept and kept["words"] == words else None

    def put(self, name: str, words: list[str], found: dict[str, Any]) -> None:
        """Keep what a run found, in place of what is there of an earlier one."""
        FOLDER.mkdir(exist_ok=True)
        with self._lock:  # read again: another process may have written
            kept = self._read()
            kept[name] = {**found, "words": words}
            lines = [f" {json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept)]
            beside = self._path.with_suffix(f".{os.getpid()}")
            beside.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            beside.replace(self._path)

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self._path.read_text()) if self._path.is_file() else {}
