"""`hydra/sweeper=optuna`: sends the trials of a study to whichever launcher there is.

`n_jobs` trials are chosen together and sent together; when all have come back the next are chosen.
A run that failed is a failed trial. A trial that never came back (Ctrl-C, a lost machine) is sent
again, and the launcher finds by its record whether the run is done, goes on or vanished.
"""

from __future__ import annotations

import logging
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from ponder.config.checker import check_leaf, leaves
from ponder.config.errors import UserError
from ponder.config.study import StudyConfig, StudySampler
from ponder.sweeps.plan import without_hydra
from ponder.sweeps.record import read as record
from ponder.sweeps.space import Space, read_space
from ponder.sweeps.study import Study, Trial

log = logging.getLogger(__name__)
RESULTS = "optimization_results.yaml"


class StudySweeper(Sweeper):
    """Made by Hydra, with the keys of `StudyConfig`."""

    config: Any
    task_function: Any

    def __init__(self, **settings: Any) -> None:
        self.settings = OmegaConf.create(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.task_function = config, task_function
        self.loader = hydra_context.config_loader
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to its end. Raises `UserError` for words that mean nothing."""
        self._check_settings()
        params = [f"{key}={value}" for key, value in self.settings.params.items()]
        words = [word for word in arguments if not word.lstrip("+").startswith("sweep.")]
        space = read_space([*params, *words], self.loader)
        self._check_words(space)
        directory = Path(str(self.config.hydra.sweep.dir))
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        study = Study(self.settings, space, directory)
        log.info(f"study {study.name}: {study.done} of {self.settings.n_trials} trials are done; "
                 f"the same words with hydra.sweep.dir={directory} go on with it")
        while batch := study.unfinished() or study.fresh():
            for trial, accuracy in zip(batch, self._launched(batch), strict=True):
                study.tell(trial, accuracy)
        self._end(study, directory)

    def _check_settings(self) -> None:
        """Raise `UserError` where Optuna is missing, and for values that keys do not take."""
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: optuna is not installed; legal: pip install "
                            "ponder[optuna], or no word about a sweeper for every combination")
        if self.config.sweep.detach:
            raise UserError("sweep.detach=true: found hydra/sweeper=optuna, which waits to hear of "
                            "its runs; legal: false")
        known = {str(key): value for key, value in self.settings.items() if key != "sampler"}
        named = StudySampler(self.settings.sampler.name, self.settings.sampler.seed)
        for key, value, about in leaves(StudyConfig(**known, sampler=named), "hydra.sweeper."):
            check_leaf(key, value, about)

    def _check_words(self, space: Space) -> None:
        """Raise for words with which no run would begin, before there is a study of them: what is
        wrong with a random trial."""
        import optuna

        from ponder.config.resolve import read

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        values = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(space.free)
        node = without_hydra(self.loader.load_sweep_config(self.config, space.words(values.params)))
        if node.action == "train":
            read(node)

    def _launched(self, trials: list[Trial]) -> list[float | None]:
        """What each run returned; None for one that failed."""
        found = self.launcher.launch([trial.words for trial in trials],
                                     initial_job_idx=trials[0].number)
        return [None if one.return_value is None else float(one.return_value) for one in found]

    def _end(self, study: Study, directory: Path) -> None:
        """Say and write what was best. Runs that failed are part of the result, so they do not
        show in the exit code; a study without any result raises `UserError`."""
        best, accuracy = study.best()
        self.task_function.keywords["codes"].clear()
        place = directory / next((job.directory for job in record(directory)
                                  if job.overrides == best.words), "")
        results = {"name": "optuna", "study": study.name, "trials": study.done,
                   "failed": study.failed, "best_trial": best.number, "best_value": accuracy,
                   "best_params": best.values, "best_words": best.words,
                   "best_directory": str(place)}
        OmegaConf.save(OmegaConf.create(results), directory / RESULTS)
        print(f"best of {study.done} trials ({study.failed} failed): #{best.number}, accuracy "
              f"{accuracy:.4f}, in {place}: {shlex.join(best.words)}")
