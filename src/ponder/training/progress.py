"""Where a run stands, and whom the loop calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ponder.core.types import Rollouts

Metrics = dict[str, float]


@dataclass
class Progress:
    """Where a run stands. seconds counts training alone: no evaluation, logging or saving.

    validated is the step of the last evaluation, owed says that one was cut off; bad is how many
    steps in a row were not finite.
    """

    step: int = 0
    epoch: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    accuracy: float | None = None
    validated: int = -1
    owed: bool = False
    bad: int = 0


@dataclass
class Round:
    """Rollouts in flight: how many optimizer steps they have given, and whether that is enough.

    shuffle is the state of the generator before their first minibatch was drawn, begun the step at
    which it was.
    """

    rollouts: Rollouts
    shuffle: Tensor
    begun: int = 0
    done: int = 0
    over: bool = False


class Stopped(Exception):
    """Somebody asked for an end while thoughts were written or read; nothing was learnt from them.
    """


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
