"""The sweepers `grid`, `again` and `optuna`, where Hydra looks for sweepers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from ponder.sweeps.state import lost
from ponder.sweeps.sweeper import StudySweeper


class Grid(BasicSweeper):
    """Every combination of the values. What Hydra composes only to see whether it can is left to
    the launcher, which composes every job before it sends one.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass


class Again(Sweeper):
    """The jobs of a sweep that failed or vanished."""

    config: Any

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        directory = Path(self.config.hydra.sweep.dir)
        return self.launcher.launch([[f"hydra.sweep.subdir={job.directory}"]
                                     for job in lost(directory)], 0)


class Optuna(StudySweeper):
    """Values that Optuna chooses after it has heard of others."""
