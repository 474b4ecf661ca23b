"""The sweepers `grid`, `again` and `optuna`, where Hydra looks for sweepers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from ponder.sweeps.follow import compare_hint
from ponder.sweeps.jobs import lost_jobs
from ponder.sweeps.optuna import StudySweeper


def _print_hint(config: Any) -> None:
    hint = compare_hint(Path(str(config.hydra.sweep.dir)))
    if hint and not config.sweep.detach:
        print(hint)


class Grid(BasicSweeper):
    """Every combination of the values. Hydra would compose each job once more to check it; the
    launcher does that anyway before it sends the first.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass

    def sweep(self, arguments: list[str]) -> Any:
        results = super().sweep(arguments)
        _print_hint(self.config)
        return results


class Again(Sweeper):
    """The jobs of a sweep that failed or vanished."""

    config: Any

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        directory = Path(self.config.hydra.sweep.dir)
        results = self.launcher.launch([[f"hydra.sweep.subdir={job.directory}"]
                                        for job in lost_jobs(directory)], 0)
        _print_hint(self.config)
        return results


class Optuna(StudySweeper):
    """Values that Optuna chooses after it has seen the results of others."""
