"""Groups of runs with equal settings except for the seed, and the numbers of each group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ponder.config.errors import shown
from ponder.config.spine import GROUPS, OF_THE_CALL
from ponder.reports.figures import Curve, Level, natural_order
from ponder.reports.runs import (
    CONTENT,
    KNOWN,
    VARIANTS_KEY,
    RunResult,
    chance_level,
    resolve_setting,
)

# Name of a column -> where the number stands in summary.json.
NUMBERS = {"accuracy": "accuracy", "shuffled": "necessity/shuffled", "dropped": "necessity/dropped",
           "steps": "steps", "seconds": "seconds"}
OF_THOUGHTS = ("shuffled", "dropped")  # columns that mean nothing for runs without thoughts
# Keys, or first parts of keys, that change where files and messages go but not the result.
IGNORED = {*OF_THE_CALL, "seed", "hydra", "trainer.keep_checkpoints", "trainer.log_every_n_steps",
           "trainer.save_every_n_steps"} - {"action", "step"}
# Keys that say most about a run; in a name their values stand alone, without the key.
CHOICES = (VARIANTS_KEY, *(f"{group}.{name}" for group, name in GROUPS), "reward")
ABSENT, UNKNOWN = "", "?"  # the value of a key that a run does not have, or may have
LONG_VALUE = 28  # characters of a value in a name; longer ones lose their middle


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error; None for both without values, for the error with fewer than two."""

    mean: float | None
    error: float | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed. values: what each differing key is in them."""

    values: dict[str, Any]
    runs: list[RunResult]

    @cached_property
    def numbers(self) -> dict[str, Estimate]:
        """{column: its estimate over the runs}."""
        return {name: estimate(run.number(source) for run in self.runs
                               if run.thinks or name not in OF_THOUGHTS)
                for name, source in NUMBERS.items()}

    @property
    def seeds(self) -> int:
        return len({shown(run.seed) for run in self.runs})

    def name(self, keys: Sequence[str]) -> str:
        """The values of `keys`, in the order of the keys."""
        words = [_shorten(format_value(self.values[key])) if key in CHOICES
                 else f"{key.rpartition('.')[2]}={_shorten(format_value(self.values[key]))}"
                 for key in keys if self.values[key] != ABSENT]
        return ", ".join(words) or "all runs"


def _shorten(value: str) -> str:
    half = LONG_VALUE // 2
    return value if len(value) <= LONG_VALUE else f"{value[:half - 1]}…{value[-half:]}"


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean and standard error (sample deviation / sqrt(n)) of the values that are not None."""
    there = [value for value in values if value is not None]
    if not there:
        return Estimate(None, None)
    error = statistics.stdev(there) / math.sqrt(len(there)) if len(there) > 1 else None
    return Estimate(statistics.fmean(there), error)


def format_value(value: Any) -> str:
    """The value of a key as a cell shows it."""
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def differing_keys(results: list[RunResult]) -> list[str]:
    """The keys that differ between runs, in the order of the configuration.

    A key that only some strategies have does not count, because the strategy itself differs.
    """
    keys = dict.fromkeys(key for result in results for key in result.settings
                         if _says_more(key, results))
    return [key for key in keys if not {key, key.partition(".")[0]} & IGNORED
            and _differs(key, results)]


def _says_more(key: str, results: list[RunResult]) -> bool:
    """False for the content of files that is the same wherever their names are."""
    if not key.endswith(CONTENT):
        return True
    named: dict[str, set[str]] = {}
    for settings in (result.settings for result in results):
        name = shown(resolve_setting(settings, key.removesuffix(CONTENT)))
        named.setdefault(name, set()).update([settings[key]] if key in settings else [])
    return any(len(found) > 1 for found in named.values())


def _differs(key: str, results: list[RunResult]) -> bool:
    """Whether runs have different values for a key, also after references are resolved.

    A key that follows another (thinker.tokens the thought length of the task, task.seed the seed)
    adds nothing. Among runs of which only the typed arguments are known, a missing key differs.
    """
    holders = [result for result in results if key in result.settings]
    typed = [result for result in results if result.settings.get(KNOWN) == "words"]
    if any(key in result.settings for result in typed) and not all(
            key in result.settings for result in typed):
        return True
    first = holders[0].settings[key]
    if all(result.settings[key] == first for result in holders):
        return False
    values = [resolve_setting(result.settings, key) for result in holders]
    follows_seed = key.endswith(".seed") and all(
        value == result.seed for value, result in zip(values, holders, strict=True))
    return len(set(map(shown, values))) > 1 and not follows_seed


def value_of(result: RunResult, key: str) -> Any:
    """The value of a key in a run; ABSENT if it has no such key, UNKNOWN if that is not known."""
    if key in result.settings:
        return resolve_setting(result.settings, key)
    if key.endswith(CONTENT):  # of a run of an earlier version
        return UNKNOWN
    return ABSENT if result.settings.get(KNOWN) == "whole" else UNKNOWN


def group_runs(results: list[RunResult], keys: list[str]) -> list[Group]:
    """The groups, the most accurate first, with their runs in the order of the seeds."""
    found: dict[tuple[str, ...], Group] = {}
    for result in results:
        values = {key: value_of(result, key) for key in keys}
        group = found.setdefault(tuple(map(shown, values.values())), Group(values, []))
        group.runs.append(result)
    for group in found.values():
        group.runs.sort(key=lambda run: natural_order(shown(run.seed)))

    def order(group: Group) -> tuple[float, list[tuple[str, int, str]]]:
        mean = group.numbers["accuracy"].mean
        return (math.inf if mean is None else -mean,
                [natural_order(shown(value)) for value in group.values.values()])

    return sorted(found.values(), key=order)


def distinguishing_keys(groups: list[Group], keys: list[str]) -> list[str]:
    """Enough keys to tell the groups apart, chosen greedily: first the variants, then choices such
    as strategy.name, then the others. A full grid needs every key.
    """
    chosen: list[str] = []
    apart: list[tuple[str, ...]] = [()] * len(groups)
    for key in [*(key for key in CHOICES if key in keys),
                *(key for key in keys if key not in CHOICES)]:
        finer = [(*before, shown(group.values[key]))
                 for before, group in zip(apart, groups, strict=True)]
        if len(set(finer)) > len(set(apart)):
            chosen.append(key)
            apart = finer
    return chosen


def mean_curve(curves: list[Curve]) -> Curve:
    """The mean of curves, at the steps that all of them have."""
    points = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set(points[0]).intersection(*points[1:])) if points else []
    return steps, [statistics.fmean(float(there[step] or 0) for there in points) for step in steps]


@dataclass(frozen=True)
class Comparison:
    """groups: the most accurate first. keys: all that differ. distinguishing: enough of them to
    tell the groups apart. notes: messages about what was left out.
    """

    groups: list[Group]
    keys: list[str]
    distinguishing: list[str]
    notes: list[str]

    @property
    def runs(self) -> int:
        return sum(len(group.runs) for group in self.groups)

    @property
    def headline(self) -> str:
        runs, groups = self.runs, len(self.groups)
        return f"{runs:,} run{'s' * (runs != 1)} in {groups:,} group{'s' * (groups != 1)}"

    @property
    def chance(self) -> Level | None:
        """(label, accuracy) of guessing, where it is the same for all runs."""
        found = {chance_level(run.summary, {
            key: resolve_setting(run.settings, f"task.{key}") for key in ("name", "max", "modular")
        }) for group in self.groups for run in group.runs}
        return found.pop() if len(found) == 1 else None

    def cells(self, group: Group) -> list[str]:
        """Number of seeds, and the numbers of a group as text."""
        found = group.numbers
        error = found["accuracy"].error
        accuracy = "" if error is None else f" ± {error:.2%}"
        return [str(group.seeds), _format(found["accuracy"].mean, ".2%") + accuracy,
                _format(found["shuffled"].mean, ".2%"), _format(found["dropped"].mean, ".2%"),
                _format(found["steps"].mean, ",.0f"), _format(found["seconds"].mean, ",.1f")]


def _format(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
