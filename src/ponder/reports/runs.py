"""Reads runs from disk: where they are, their settings, and how they ended.

The settings of a run are in `.hydra/config.yaml`, else in a checkpoint, else in the arguments that
were typed. Missing or broken files are skipped and named, never raised.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeGuard, cast

import yaml

from ponder.config.errors import UserError, shown
from ponder.config.inputs import PROMPTS
from ponder.config.registry import TASKS, discover
from ponder.config.spine import GROUPS, THOUGHT_TOKENS, WORDS, Config, schemas, variants
from ponder.reports.figures import Curve, natural_order

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
REFERENCE = re.compile(r"\$\{(\.?)([A-Za-z_][\w.]*)\}")
COMPUTED = re.compile(r"\$\{ponder\.\w+:.*\}")  # by the task, from its keys
KNOWN = "configuration"  # a key of ours: how much is known of a run, `whole`, `words` or `nothing`
CONTENT = " (content)"  # after a key: the settings of ours that say what was in its files
VARIANTS_KEY = "variants"  # a key of ours: the flags in force, as in think,fixed,blind
LEGAL = "legal: directories or globs that hold runs, as in runs=[star_runs/a,star_runs/b*]"
MARKS = frozenset({"summary.json", "metrics.jsonl"})  # files that only a run's directory has
Settings = dict[str, Any]  # `group.key` -> value, `${references}` as they were written


def finite(value: object) -> TypeGuard[float]:
    """Whether a value is a number other than infinity and NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class RunResult:
    """A run that is done."""

    directory: Path
    settings: Settings
    summary: dict[str, Any]

    @property
    def seed(self) -> Any:
        return self.summary.get("seed", self.settings.get("seed"))

    @property
    def thinks(self) -> bool:
        """False only where it is known that the run has no thoughts."""
        return _followed(self.settings, "thinker.tokens") != 0

    def number(self, name: str) -> float | None:
        """A number of the summary, such as `accuracy` or `necessity/shuffled`, or None."""
        value: Any = self.summary
        for word in name.split("/"):
            value = value.get(word) if isinstance(value, dict) else None
        return value if finite(value) else None


@dataclass
class FoundRuns:
    """Runs that are done, directories of runs that are not, and messages about unreadable files."""

    results: list[RunResult] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_runs(runs: Any) -> FoundRuns:
    """Every run at any depth below directories and globs. A thousand take about a second.

    Raises `UserError` where one of them does not exist, or none of them holds a run.
    """
    found, reader = FoundRuns(), SettingsReader()
    directories = sorted(run_directories(patterns_of(runs), found.unreadable),
                         key=lambda entry: natural_order(str(entry[0])))
    for directory, done in directories:
        if not done:
            found.unfinished.append(directory)
            continue
        summary = read_summary(directory / "summary.json", found.unreadable)
        if summary is not None:
            settings = reader.read(directory)
            settings |= contents(summary, settings.get("action") == "evaluate")
            found.results.append(RunResult(directory, settings, summary))
    if not any((found.results, found.unfinished, found.unreadable)):
        raise UserError(f"runs={shown(runs)}: found no run there; {LEGAL}")
    return found


def patterns_of(runs: Any) -> list[str]:
    """The directories and globs in the key `runs`. Raises `UserError` where it names none."""
    patterns = [runs] if isinstance(runs, str) else runs
    if not isinstance(patterns, list) or not patterns or not all(
            isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError(f"runs={shown(runs)}: found no directory; {LEGAL}")
    return patterns


def contents(summary: dict[str, Any], evaluation: bool = False) -> Settings:
    """A hash of the content of all files that a key named, as a setting of its own. Of an
    evaluation without its model: each seed has another.
    """
    read, parts = summary.get("inputs"), dict[str, list[str]]()
    for name, value in sorted(read.items()) if isinstance(read, dict) else ():
        key = str(name).partition("/")[0]
        if key != PROMPTS and not (evaluation and key.startswith("model.")):
            parts.setdefault(f"{key}{CONTENT}", []).append(f"{name} {value}")
    return {key: hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]
            for key, said in parts.items()}


def run_directories(patterns: list[str], unreadable: list[str],
                    marks: frozenset[str] = MARKS) -> Iterator[tuple[Path, bool]]:
    """(directory, whether it has a summary) of every directory with one of the files `marks`, each
    once, also through links. Hidden directories, as of a sweep's copy of the code, hold no runs.
    """
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
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                inside = {entry.name: entry for entry in entries}
            if not marks.isdisjoint(inside):
                yield Path(folder), "summary.json" in inside
                continue
            folders += [entry.path for name, entry in inside.items()
                        if name[0] != "." and entry.is_dir()]
        except OSError as error:
            unreadable.append(f"{folder} ({error.strerror})")


def read_summary(path: Path, unreadable: list[str]) -> dict[str, Any] | None:
    """The content of a summary.json; None, and a message in `unreadable`, where it has none."""
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
        reason = "no JSON object"
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, RecursionError):
        reason = "no JSON"
    unreadable.append(f"{path} ({reason})")
    return None


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl that are whole and have a step; nothing if there is no file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError):  # cut off, when the process was killed
                    continue
                if isinstance(content, dict) and finite(content.get("step")):
                    yield content
    except OSError:
        return


def accuracy_curve(directory: Path) -> Curve:
    """(steps, accuracies) of metrics.jsonl; if a step occurs twice, the last value counts."""
    points = {line["step"]: line["accuracy"] for line in read_metrics(directory / "metrics.jsonl")
              if finite(line.get("accuracy"))}
    steps = sorted(points)
    return list(steps), [points[step] for step in steps]


def chance_level(summary: dict[str, Any], task: dict[str, Any], answers: int = 0,
                 ) -> tuple[str, float] | None:
    """(label, accuracy) of guessing: that of the evaluation, else 1 / number of answers, which is
    the task's, or `answers`. None for evaluations of text, whose tokens are not equally likely.
    """
    metrics = summary.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    level = metrics.get("chance")
    if finite(level):
        return f"chance {level:.2%}", float(level)
    if {"val/bits_per_byte", "val/reward"} & {*metrics}:
        return None
    count = task.get("max") if task.get("modular") else answers
    return (f"chance 1/{count}", 1 / count) if finite(count) and count > 1 else None


# --- settings ------------------------------------------------------------------------------------


class SettingsReader:
    """Reads the settings of runs. It remembers the blocks of YAML it has parsed, because the runs
    of a sweep differ in few of them.
    """

    def __init__(self) -> None:
        self.blocks: dict[str, Settings] = {}
        self.defaults: dict[tuple[str, ...], Settings] = {}

    def read(self, directory: Path) -> Settings:
        """Every key of a run where its configuration is there, else the keys that were typed.

        An evaluation has the settings of its checkpoint, changed by what was typed.
        """
        settings = self._composed(directory / ".hydra" / "config.yaml")
        if settings and settings.get("action") == "evaluate":
            typed = {word.partition("=")[0].lstrip("+~") for word in typed_arguments(directory)}
            now = {key: value for key, value in settings.items()
                   if key in ("action", "step") or ("." in key and key in typed)}
            saved = _checkpoint_settings(Path(str(settings.get("model.name"))) / "ponder.json")
            if saved:
                settings = saved | now | {"model.name": saved.get("model.name")}
        if not settings:
            paths = sorted(directory.glob("checkpoint_*/ponder.json"),
                           key=lambda path: natural_order(path.parent.name), reverse=True)
            settings = next(filter(None, map(_checkpoint_settings, paths)), {})
        if settings:
            settings = self._defaults(settings) | settings
            return {KNOWN: "whole", VARIANTS_KEY: variant_flags(settings)} | settings
        pairs = [word.lstrip("+").partition("=") for word in typed_arguments(directory)]
        typed = {key: value for key, sign, value in pairs if sign and not key.startswith("~")}
        return {KNOWN: "words" if typed else "nothing"} | typed

    def _composed(self, path: Path) -> Settings:
        """A configuration written by Hydra, parsed one top-level key at a time."""
        settings: Settings = {}
        try:
            block: list[str] = []
            for line in [*path.read_text("utf-8").splitlines(keepends=True), "end"]:
                if block and line[0] not in " -\n":
                    settings.update(self._block("".join(block)))
                    block = []
                block.append(line)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return {}
        return settings

    def _block(self, text: str) -> Settings:
        if text not in self.blocks:
            content = yaml.load(text, LOADER)
            self.blocks[text] = dict(flatten(content)) if isinstance(content, dict) else {}
        return self.blocks[text]

    def _defaults(self, settings: Settings) -> Settings:
        """Today's defaults, for keys that are newer than the run."""
        kinds = tuple(str(settings.get(f"{group}.{name}")) for group, name in GROUPS)
        if kinds not in self.defaults:
            spine = asdict(Config())
            for (group, _), kind in zip(GROUPS, kinds, strict=True):
                schema = schemas(group).get(kind)
                spine[group] = asdict(schema()) if schema else {}
            self.defaults[kinds] = dict(flatten(spine))
        return self.defaults[kinds]


def _checkpoint_settings(path: Path) -> Settings:
    """The configuration in a checkpoint's ponder.json; {} if it cannot be read."""
    try:
        config = json.loads(path.read_bytes())["config"]
        return dict(flatten(config)) if isinstance(config, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def typed_arguments(directory: Path) -> list[str]:
    """The arguments that a run was started with; [] where they are unknown."""
    for path in (directory / WORDS, directory / ".hydra" / "overrides.yaml"):
        try:
            content = yaml.load(path.read_bytes(), LOADER)  # JSON is YAML too
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, list):
            return [str(word) for word in content]
    return []


def flatten(node: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(`group.key`, value) of every leaf; all rewards with their weights are one value."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key == "reward" and isinstance(value, dict):
            yield key, ", ".join(reward if weight == 1 else f"{reward}={weight}"
                                 for reward, weight in sorted(value.items(), key=str))
        elif isinstance(value, dict):
            yield from flatten(value, f"{key}.")
        else:
            yield key, value


def variant_flags(settings: Settings) -> str:
    """The variant flags in force, as in `think,fixed,blind`; `none` or `unknown`."""
    def part(group: str, *names: str) -> SimpleNamespace:
        return SimpleNamespace(**{name: _followed(settings, f"{group}.{name}")
                                  for name in names})

    thinker = part("thinker", "tokens", "stops")
    if isinstance(thinker.tokens, str):  # the thought length of a task, which only the task knows
        thinker.tokens = 1
    config = SimpleNamespace(thinker=thinker, reward=settings.get("reward"),
                             answerer=part("answerer", "sees", "learns_from"),
                             rollout=part("rollout", "kind"))
    try:
        return ",".join(variants(cast(Config, config))) or "none"
    except TypeError:
        return "unknown"


def resolve_setting(settings: Settings, key: str) -> Any:
    """The value of a key with its `${references}` replaced; None where there is none."""
    value = _followed(settings, key)
    if isinstance(value, str) and COMPUTED.fullmatch(value):
        with contextlib.suppress(Exception):  # a plugin that is not here, keys of another version
            return _computed(settings, value)
    return value


def _computed(settings: Settings, reference: str) -> int:
    """What a task with these settings computes: the number of its thought tokens, or the length of
    its longest gold thought.
    """
    discover(settings.get("plugins") or ())
    kind = TASKS[settings["task.name"]].target
    names = {item.name for item in fields(kind.Keys)} - {"name", "data", "thought_length"}
    keys = kind.Keys(**{name: resolve_setting(settings, f"task.{name}") for name in names
                        if f"task.{name}" in settings})
    if "vocabulary" in reference:
        return max(THOUGHT_TOKENS, kind.thought_vocabulary(keys))
    return kind.longest_thought(keys)


def _followed(settings: Settings, key: str) -> Any:
    """The value of a key with its references to other keys replaced."""
    value = settings.get(key)
    if not isinstance(value, str) or "${" not in value:
        return value
    others = {name: content for name, content in settings.items() if name != key}  # no endless loop
    group = key.rpartition(".")[0]

    def referenced(match: re.Match[str]) -> Any:
        return _followed(others, f"{group}.{match[2]}" if match[1] else match[2])

    whole = REFERENCE.fullmatch(value)
    return referenced(whole) if whole else REFERENCE.sub(
        lambda match: str(referenced(match)), value)
