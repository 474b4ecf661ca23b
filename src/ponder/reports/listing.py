"""Every run below some directories as a row of `action=browse`: also those that are not done.

Directories that are half written or damaged become rows that say so; nothing in them is raised.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from ponder.config.errors import ERROR, UserError, brief, shown
from ponder.config.spine import VARIANTS, WORDS
from ponder.reports.runs import (
    LEGAL,
    MARKS,
    VARIANTS_KEY,
    Settings,
    SettingsReader,
    finite,
    patterns_of,
    read_summary,
    resolve_setting,
    run_directories,
    typed_arguments,
)
from ponder.reports.tails import error_message, last_metrics

BEGUN = MARKS | {WORDS, ERROR, ".hydra", ".lock"}  # what a directory has from its first second on
STATUSES = ("running", "elsewhere", "interrupted", "failed", "damaged", "not begun", "done")
NO_RUNS = ("problems", "export", "compare")  # actions that have a directory and are no runs
SWEEP, COMPARISON = "sweep.jsonl", "compare.html"
DATED = re.compile(r"(\d{4}-\d\d-\d\d)/(\d\d)-(\d\d)-(\d\d)")  # as directories of runs are named
OF_A_DAY = re.compile(r".*_\d{4}-\d\d-\d\d")  # a directory that every sweep of a day is sent to
UNTOLD = ("seed=", "hydra", "action=", "run_type=", "sweep.", "--", "scratch=")  # not in a title


@dataclass(frozen=True)
class Entry:
    """A run. words: as typed. sweep: its name, or "". status: one of `STATUSES`. reason: what it
    failed with, or is wrong with its files. gap: accuracy that is lost with shuffled thoughts.
    """

    directory: Path
    status: str
    reason: str = ""
    date: str = ""
    sweep: str = ""
    words: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)
    seed: Any = None
    accuracy: float | None = None
    gap: float | None = None
    steps: float | None = None
    title: str = ""

    @property
    def flags(self) -> str:
        return str(self.settings.get(VARIANTS_KEY, "unknown"))

    @property
    def model(self) -> str:
        """What the network is: a model's name, or the layers and width of our own."""
        name, kind = self.settings.get("model.name"), self.settings.get("model.kind")
        if name:
            return Path(str(name)).name if kind == "hf" else "/".join(Path(str(name)).parts[-2:])
        layers, width = (resolve_setting(self.settings, f"model.{key}")
                         for key in ("layers", "d_model"))
        return f"{layers} x {width}" if layers and width else str(kind or "")


@dataclass
class Listing:
    """entries: the newest first, those of a sweep together. comparisons: pages of action=compare,
    the newest first, each with the `runs` that it was given. unreadable: messages.
    """

    entries: list[Entry] = field(default_factory=list)
    comparisons: list[tuple[Path, list[str]]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """{status: number of runs}, without zeros."""
        count = Counter(entry.status for entry in self.entries)
        return {name: count[name] for name in STATUSES if count[name]}


def list_runs(runs: Any) -> Listing:
    """Every run at any depth below directories and globs. Two thousand take a few seconds.

    Raises `UserError` where one of them does not exist, or none of them holds a run.
    """
    found, reader = Listing(), SettingsReader()
    jobs = cache(_jobs_of)
    for directory, _ in run_directories(patterns_of(runs), found.unreadable, BEGUN):
        try:
            entry = _entry(directory, reader)
        except Exception as error:  # whatever a user, or a full disk, has left there
            entry = Entry(directory, "damaged", brief(error))
        action = entry.settings.get("action", "train")
        if action == "compare" and (directory / COMPARISON).is_file():
            named = entry.settings.get("runs")
            found.comparisons.append((directory / COMPARISON, named if isinstance(
                named, list) else [str(named)]))
        if action not in NO_RUNS:
            found.entries.append(replace(entry, sweep=_sweep_of(directory, jobs)))
    if not (found.entries or found.unreadable):
        raise UserError(f"runs={shown(runs)}: found no run there; {LEGAL}")
    found.entries = _in_order(found.entries)
    found.comparisons.sort(key=lambda entry: _date(entry[0].parent), reverse=True)
    return found


def _entry(directory: Path, reader: SettingsReader) -> Entry:
    wrong: list[str] = []
    path = directory / "summary.json"
    summary = (read_summary(path, wrong) if path.exists() else None) or {}
    settings, words = reader.read(directory), tuple(typed_arguments(directory))
    status, reason = _status(directory, summary, wrong)
    last = {} if status == "done" else last_metrics(directory / "metrics.jsonl")
    necessity = summary.get("necessity")
    own, shuffled = (necessity.get(name) if isinstance(necessity, dict) else None
                     for name in ("own", "shuffled"))
    thinks = resolve_setting(settings, "thinker.tokens") != 0
    accuracy, steps = (value if finite(value) else None for value in (
        summary.get("accuracy", last.get("accuracy")), summary.get("steps", last.get("step"))))
    return Entry(directory, status, reason, _date(directory), words=words, settings=settings,
                 seed=summary.get("seed", settings.get("seed")), accuracy=accuracy, steps=steps,
                 gap=own - shuffled if thinks and finite(own) and finite(shuffled) else None)


def _date(directory: Path) -> str:
    """When a run was begun, as in its name; else when its directory was last changed."""
    named = DATED.search(directory.as_posix())
    if named:
        day, *time = named.groups()
        return f"{day} {':'.join(time)}"
    try:
        settings = directory / ".hydra" / "config.yaml"
        changed = (settings if settings.is_file() else directory).stat().st_mtime
        return f"{datetime.fromtimestamp(changed):%Y-%m-%d %H:%M:%S}"
    except (OSError, ValueError):
        return ""


# --- how a run stands ----------------------------------------------------------------------------


def _status(directory: Path, summary: dict[str, Any], wrong: list[str]) -> tuple[str, str]:
    """One of `STATUSES`, and what there is to say about it."""
    if summary:
        return "done", ""
    process = _process(directory / ".lock")
    if process == "running":
        return "running", ""
    if wrong:
        return "damaged", wrong[0].removeprefix(f"{directory}/")
    if (directory / ERROR).exists():
        return "failed", error_message(directory / ERROR)
    if process == "elsewhere":
        return "elsewhere", "its process is, or was, on another machine"
    ended = process or (directory / "metrics.jsonl").exists()
    return ("interrupted", "") if ended else ("not begun", "")


def _process(lock: Path) -> str:
    """Of the process that locked a run's directory: running, elsewhere (on another machine), ended,
    or "" where none has.
    """
    import psutil

    try:
        told = re.fullmatch(r"process (\d+) on (\S+)\s*", lock.read_text("utf-8", "replace"))
        if told is None:
            return "ended" if lock.stat().st_size else ""
        if told[2] != socket.gethostname():
            return "elsewhere"
        started = psutil.Process(int(told[1])).create_time()
        return "running" if started <= lock.stat().st_mtime + 1 else "ended"  # a number used again
    except FileNotFoundError:
        return ""
    except (OSError, OverflowError, psutil.Error):
        return "ended"


# --- sweeps --------------------------------------------------------------------------------------


def _jobs_of(folder: Path) -> frozenset[str]:
    """The directories of the jobs that were sent to `folder` as sweeps."""
    found: set[str] = set()
    try:
        for line in (folder / SWEEP).read_text("utf-8", "replace").splitlines():
            if line.startswith("{"):
                found.add(str(json.loads(line).get("directory")))
    except (OSError, ValueError, RecursionError):
        pass  # lines before a torn one count
    return frozenset(found)


def _sweep_of(directory: Path, jobs: Any) -> str:
    """The name of the sweep that a run is of: its directory, with the time it was sent at where
    every sweep of a day has that directory; "" for a run by itself.
    """
    for folder in directory.parents[:2]:
        name = directory.relative_to(folder).as_posix()
        if name in jobs(folder):
            at = f"/{name.rpartition('_')[0]}" if OF_A_DAY.fullmatch(folder.name) else ""
            return f"{folder}{at}"
    return ""


def _in_order(entries: list[Entry]) -> list[Entry]:
    """The newest first, each sweep where its newest run is; with titles."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.sweep or entry.directory, []).append(entry)
    ordered = sorted(groups.values(), key=lambda group: max(entry.date for entry in group),
                     reverse=True)
    return [replace(entry, title=_title(entry, shared_words(group))) for group in ordered
            for entry in sorted(group, key=lambda entry: (entry.date, str(entry.directory)))]


def shared_words(entries: list[Entry]) -> list[str]:
    """The words that all runs of a sweep have, in order; none of a run by itself."""
    if len(entries) < 2:
        return []
    shared = set.intersection(*(set(entry.words) for entry in entries))
    return [word for word in entries[0].words if word in shared and not word.startswith("--")]


def _title(entry: Entry, shared: Iterable[str]) -> str:
    """The words that tell a run from others of its sweep, or what was typed at all."""
    known = {*shared}
    told = [word for word in entry.words if word not in known and not word.startswith(UNTOLD)]
    if told:
        return " ".join(told)
    return f"seed={shown(entry.seed)}" if known else "default run" if entry.settings.get(
        VARIANTS_KEY) else "words unknown"


def filter_words(entry: Entry, keys: Iterable[str]) -> list[str]:
    """What a filter finds a run by, each as `key=value`: `keys` with the values that they had in
    it, typed or not, and the columns.
    """
    on = entry.flags.split(",")
    found = {key: resolve_setting(entry.settings, key) for key in keys if key in entry.settings}
    found |= {"action": entry.settings.get("action"), "task": entry.settings.get("task.name"),
              "strategy": entry.settings.get("strategy.name"), "model": entry.model,
              "seed": entry.seed, "status": entry.status, "sweep": entry.sweep or None,
              "accuracy": entry.accuracy, "gap": entry.gap, "steps": entry.steps,
              "date": entry.date.partition(" ")[0]}
    if entry.flags != "unknown":
        found |= {flag: flag in on for flag in VARIANTS}
    told = [f"{key}={shown(value)}" for key, value in found.items() if value is not None]
    others = (word.lstrip("+") for word in entry.words)
    return [*told, *(word for word in others if word.partition("=")[0] not in found)]


def typed_keys(entries: Iterable[Entry]) -> list[str]:
    """The keys that were typed for any of the runs."""
    words = (word.lstrip("+") for entry in entries for word in entry.words)
    return sorted({word.partition("=")[0] for word in words if "." in word.partition("=")[0]})
