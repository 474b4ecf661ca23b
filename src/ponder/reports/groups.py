"""Runs in groups: those that were told the same but for the seed, and the numbers of each group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ponder.config.errors import shown
from ponder.config.spine import GROUPS, OF_THE_CALL
from ponder.reports.figures import Curve, natural
from ponder.reports.gather import Result
from ponder.reports.settings import KNOWN, settled

# Name of a column -> where the number stands in summary.json.
NUMBERS = {"accuracy": "accuracy", "shuffled": "necessity/shuffled", "dropped": "necessity/dropped",
           "steps": "steps", "seconds": "seconds"}
# Keys, and groups of keys, that say where a run's files and words go, and nothing of its result.
NEVER = {*OF_THE_CALL, "seed", "hydra", "trainer.keep_checkpoints", "trainer.log_every_n_steps",
         "trainer.save_every_n_steps"} - {"action", "step"}
CHOICES = (*(f"{group}.{name}" for group, name in GROUPS), "reward")  # values that say the key
NOTHING, UNKNOWN = "", "?"


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error of a number; the error is None for fewer than two runs."""

    mean: float | None
    error: float | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed. values: what each differing key holds in them."""

    values: dict[str, Any]
    runs: list[Result]

    @cached_property
    def numbers(self) -> dict[str, Estimate]:
        return {name: estimate(run.number(source) for run in self.runs)
                for name, source in NUMBERS.items()}

    @property
    def seeds(self) -> int:
        return len({shown(run.seed) for run in self.runs})

    def name(self, keys: Sequence[str]) -> str:
        """What tells the group from others, in as few words as say it."""
        words = [cell(self.values[key]) if key in CHOICES
                 else f"{key.rpartition('.')[2]}={cell(self.values[key])}"
                 for key in keys if self.values[key] != NOTHING]
        return ", ".join(words) or "all runs"


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean and standard error (sample deviation / sqrt(n)) of the values that are there."""
    there = [value for value in values if value is not None]
    if not there:
        return Estimate(None, None)
    error = statistics.stdev(there) / math.sqrt(len(there)) if len(there) > 1 else None
    return Estimate(statistics.fmean(there), error)


def cell(value: Any) -> str:
    """A value of a key as a cell shows it."""
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def differing(results: list[Result]) -> list[str]:
    """The keys that differ between runs, in the order of the configuration.

    A key that another strategy does not have is no difference, as that of the strategies is one.
    """
    keys = dict.fromkeys(key for result in results for key in result.settings)
    return [key for key in keys if not {key, key.partition(".")[0]} & NEVER
            and _differs(key, results)]


def _differs(key: str, results: list[Result]) -> bool:
    """Whether runs were told, and hold, different values.

    A key that follows another, as thinker.tokens the task's thought length, or task.seed the seed,
    says nothing new. Of runs that only words are known of, one that lacks a typed key differs.
    """
    holders = [result for result in results if key in result.settings]
    typed = [result for result in results if result.settings.get(KNOWN) == "words"]
    if any(key in result.settings for result in typed) and not all(
            key in result.settings for result in typed):
        return True
    told = holders[0].settings[key]
    if all(result.settings[key] == told for result in holders):
        return False
    values = [settled(result.settings, key) for result in holders]
    follows_seed = key.endswith(".seed") and all(
        value == result.seed for value, result in zip(values, holders, strict=True))
    return len(set(map(shown, values))) > 1 and not follows_seed


def held(result: Result, key: str) -> Any:
    """What a key holds in a run; nothing where there is no such key, `?` where that is unknown."""
    if key in result.settings:
        return settled(result.settings, key)
    return NOTHING if result.settings.get(KNOWN) == "whole" else UNKNOWN


def grouped(results: list[Result], keys: list[str]) -> list[Group]:
    """The groups, the most accurate first, runs in the order of their seeds."""
    found: dict[tuple[str, ...], Group] = {}
    for result in results:
        values = {key: held(result, key) for key in keys}
        group = found.setdefault(tuple(map(shown, values.values())), Group(values, []))
        group.runs.append(result)
    for group in found.values():
        group.runs.sort(key=lambda run: natural(shown(run.seed)))

    def order(group: Group) -> tuple[float, list[tuple[str, int, str]]]:
        mean = group.numbers["accuracy"].mean
        return (math.inf if mean is None else -mean,
                [natural(shown(value)) for value in group.values.values()])

    return sorted(found.values(), key=order)


def telling(groups: list[Group], keys: list[str]) -> list[str]:
    """The keys that tell the groups apart; others differ too, but say no more than these.

    Those that name a choice, such as strategy.name, come first. A full grid needs every key.
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
    """The mean at the steps that every curve has."""
    points = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set(points[0]).intersection(*points[1:])) if points else []
    return steps, [statistics.fmean(float(there[step] or 0) for there in points) for step in steps]


@dataclass(frozen=True)
class Comparison:
    """Groups, the most accurate first; keys that differ, and those of them that tell groups apart.

    notes: lines about what was left out or needs a word.
    """

    groups: list[Group]
    keys: list[str]
    telling: list[str]
    notes: list[str]

    @property
    def runs(self) -> int:
        return sum(len(group.runs) for group in self.groups)

    @property
    def headline(self) -> str:
        runs, groups = self.runs, len(self.groups)
        return f"{runs:,} run{'s' * (runs != 1)} in {groups:,} group{'s' * (groups != 1)}"

    def cells(self, group: Group) -> list[str]:
        """Number of seeds, and the numbers of a group, as people read them."""
        found = group.numbers
        error = found["accuracy"].error
        accuracy = "" if error is None else f" ({error:.2%})"
        return [str(group.seeds), _said(found["accuracy"].mean, ".2%") + accuracy,
                _said(found["shuffled"].mean, ".2%"), _said(found["dropped"].mean, ".2%"),
                _said(found["steps"].mean, ",.0f"), _said(found["seconds"].mean, ",.1f")]


def _said(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
