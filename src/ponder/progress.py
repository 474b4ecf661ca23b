"""Where a run stands, and whom the loop calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ponder.types import Rollouts

Metrics = dict[str, float]


@dataclass
class Progress:
    """Where a run stands. seconds counts training alone: no evaluation, logging or saving.

    validated is the step of the last evaluation, bad how many steps in a row were not finite.
    """

    step: int = 0
    epoch: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    accuracy: float | None = None
    validated: int = -1
    bad: int = 0


@dataclass
class Hooks:
    """What the loop calls when something is due; `validate` returns the accuracy, if it looks.

    spoilt hears of a step that was not finite, with its batch; stopped says whether somebody has
    asked for an end.
    """

    log: Callable[[Progress, Metrics], None]
    validate: Callable[[Progress], float | None]
    save: Callable[[Progress], None]
    spoilt: Callable[[Progress, list[Rollouts]], None] = lambda progress, batch: None
    stopped: Callable[[], bool] = lambda: False
