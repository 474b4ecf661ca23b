"""The sweeper `optuna`, where Hydra looks for sweepers."""

from __future__ import annotations

from ponder.sweeper import OptunaSweeper


class Optuna(OptunaSweeper):
    """A study of Optuna's, each trial a run."""
