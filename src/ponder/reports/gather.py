"""Runs on disk, found and read: what each was told, and how it ended.

A thousand runs are read in about a second, as only summaries and configurations are; metrics are
read of the runs whose curves are drawn. What is missing or broken never ends a comparison.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, shown
from ponder.reports.figures import Curve, natural
from ponder.reports.records import finite
from ponder.reports.settings import Settings, settings

LEGAL = "legal: directories or globs that hold runs, as in runs=[star_runs/a,star_runs/b*]"


@dataclass(frozen=True)
class Result:
    """A run that is done."""

    directory: Path
    settings: Settings
    summary: dict[str, Any]

    @property
    def seed(self) -> Any:
        return self.summary.get("seed", self.settings.get("seed"))

    def number(self, name: str) -> float | None:
        """A number of the summary, as `accuracy` or `necessity/shuffled`; None where none is."""
        value: Any = self.summary
        for word in name.split("/"):
            value = value.get(word) if isinstance(value, dict) else None
        return value if finite(value) else None


@dataclass
class Gathered:
    """The runs that are done, those that are not, and the files that could not be read."""

    results: list[Result] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def gather(runs: Any) -> Gathered:
    """Every run below directories and globs.

    Raises `UserError` where one of them leads nowhere, or none of them to a run.
    """
    patterns = [runs] if isinstance(runs, str) else runs
    if not isinstance(patterns, list) or not patterns or not all(
            isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError(f"runs={shown(runs)}: found no directory; {LEGAL}")
    found = Gathered()
    for directory, done in sorted(_walk(patterns, found), key=lambda run: natural(str(run[0]))):
        if not done:
            found.unfinished.append(directory)
            continue
        summary = _summary(directory, found)
        if summary is not None:
            found.results.append(Result(directory, settings(directory), summary))
    if not any((found.results, found.unfinished, found.unreadable)):
        raise UserError(f"runs={shown(runs)}: found no run there; {LEGAL}")
    return found


def _walk(patterns: list[str], found: Gathered) -> Iterator[tuple[Path, bool]]:
    """(directory, whether it is done) of every run, each once, also behind links."""
    folders: list[str] = []
    for pattern in patterns:
        matches = [pattern] if os.path.isdir(pattern) else [
            path for path in glob.glob(pattern, recursive=True) if os.path.isdir(path)]
        if not matches:
            raise UserError(f"runs={pattern}: found no such directory; {LEGAL}")
        folders += matches
    seen: set[tuple[int, int]] = set()
    while folders:
        folder = folders.pop()
        try:
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                inside = {entry.name: entry for entry in entries}
            if "summary.json" in inside or "metrics.jsonl" in inside:
                yield Path(folder), "summary.json" in inside
                continue
            folders += [entry.path for entry in inside.values() if entry.is_dir()]
        except OSError as error:
            found.unreadable.append(f"{folder} ({error.strerror})")


def _summary(directory: Path, found: Gathered) -> dict[str, Any] | None:
    """The summary of a run; None where it cannot be read, which is noted."""
    path = directory / "summary.json"
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
        reason = "no JSON object"
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, RecursionError):
        reason = "no JSON"
    found.unreadable.append(f"{path} ({reason})")
    return None


def curve(directory: Path) -> Curve:
    """Accuracy over the steps, from metrics.jsonl; of a step that came twice, the last."""
    points: dict[float, float] = {}
    try:
        with (directory / "metrics.jsonl").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"accuracy"' not in line:
                    continue
                try:
                    content = json.loads(line)
                    step, value = content["step"], content["accuracy"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
                if finite(step) and finite(value):
                    points[step] = value
    except OSError:
        pass
    steps = sorted(points)
    return list(steps), [points[step] for step in steps]
