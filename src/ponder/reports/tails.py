"""The ends of files that a run writes, or has left: its last numbers, and what it failed with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ponder.reports.runs import finite

TAIL_BYTES = 1 << 14  # read first from the end of a file; more if that is not enough
NUMBERS = ("step", "last_step", "steps_per_second", "accuracy")


def tail(path: Path, length: int = TAIL_BYTES) -> list[str]:
    """The lines in the last `length` bytes of a file; [] if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - length))
            return file.read().decode("utf-8", "replace").rstrip().split("\n")
    except OSError:
        return []


def last_metrics(path: Path) -> dict[str, Any]:
    """The last value of each of `NUMBERS` in a metrics.jsonl; {} if there is none.

    An accuracy may stand far from the end, so longer tails are read until all numbers are found.
    """
    found = dict[str, Any]()
    for length in (TAIL_BYTES, TAIL_BYTES * 8, TAIL_BYTES * 64):
        for line in tail(path, length):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):  # the first line of a tail may be cut
                continue
            if isinstance(content, dict):
                found |= {name: content[name] for name in NUMBERS if finite(content.get(name))}
        if len(found) == len(NUMBERS):
            break
    return found


def error_message(path: Path) -> str:
    """The message of a traceback, without its frames, in one line."""
    message: list[str] = []
    for line in reversed(tail(path)):
        if message and line.startswith((" ", "Traceback")):
            break
        message.insert(0, line.strip())
    return " ".join(message)[:300]
