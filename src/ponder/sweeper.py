"""`hydra/sweeper=optuna`: sends the trials of a study to whichever launcher there is.

`n_jobs` trials are chosen together and sent together; when all have come back the next are chosen.
A run that failed is a failed trial. The run of a trial that never came back (Ctrl-C, a lost
machine) is sent again in its directory: where it is done it says so, else it goes on from its last
checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from ponder.check import check_leaf, leaves
from ponder.config.study import StudyConfig, StudySampler
from ponder.errors import UserError
from ponder.space import Space, read_space
from ponder.study import Study, Trial

log = logging.getLogger(__name__)
RESULTS = "optimization_results.yaml"


class OptunaSweeper(Sweeper):
    """Made by Hydra, with the keys of `StudyConfig`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OmegaConf.create(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction,
              config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to its end. Raises `UserError` for words that mean nothing."""
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: optuna is not installed; legal: pip install "
                            "ponder[optuna], or no word about a sweeper for every combination")
        self._check_settings()
        assert self.hydra_context is not None and self.config is not None
        params = [f"{key}={value}" for key, value in self.settings.params.items()]
        space = read_space([*params, *arguments], self.hydra_context.config_loader)
        self._check_words(space)
        directory = Path(str(self.config.hydra.sweep.dir))
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        study = Study(self.settings, space, directory, self._place)
        log.info(f"study {study.name}: {study.done} of {self.settings.n_trials} trials are done; "
                 f"the same words with hydra.sweep.dir={directory} go on with it")
        while batch := self._unfinished(study, directory) or study.fresh():
            for trial, accuracy in zip(batch, self._launched(batch), strict=True):
                study.tell(trial, accuracy)
        self._end(study, directory)

    def _check_settings(self) -> None:
        """Raise `UserError` for a value that its key does not take."""
        known = {str(key): value for key, value in self.settings.items() if key != "sampler"}
        named = StudySampler(self.settings.sampler.name, self.settings.sampler.seed)
        for key, value, about in leaves(StudyConfig(**known, sampler=named), "hydra.sweeper."):
            check_leaf(key, value, about)

    def _check_words(self, space: Space) -> None:
        """Raise for words with which no run would begin, before there is a study of them: what is
        wrong with a random trial."""
        import optuna

        from ponder.cli import read

        assert self.hydra_context is not None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        values = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(space.free)
        node = copy.deepcopy(self._composed(space.words(values.params)))
        with open_dict(node):
            del node["hydra"]
        if node.action == "train":
            read(node)

    def _composed(self, words: list[str]) -> DictConfig:
        assert self.hydra_context is not None and self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, words)

    def _place(self, words: list[str], number: int) -> str:
        """The directory of a run, below that of the sweep."""
        composed = self._composed(words)
        with open_dict(composed):
            composed.hydra.job.num = composed.hydra.job.id = number
        return str(composed.hydra.sweep.subdir)

    def _unfinished(self, study: Study, directory: Path) -> list[Trial]:
        """Trials to send again, when no job is at them any more."""
        trials = study.unfinished()
        for trial in trials:
            told = False
            while job := _still_at(trial, directory):
                if not told:
                    log.info(f"#{trial.number} is still running as job {job}; waiting for its end")
                told = True
                time.sleep(2)
        return trials

    def _launched(self, trials: list[Trial]) -> list[float | None]:
        """What each run returned; None for one that failed."""
        assert self.launcher is not None
        words = [[*trial.words, _subdir(trial)] for trial in trials]
        found: list[float | None] = []
        for returned in self.launcher.launch(words, initial_job_idx=trials[0].number):
            try:
                found.append(None if returned.return_value is None
                             else float(returned.return_value))
            except Exception as error:  # of launchers that are not ours
                log.warning(f"a run failed: {' '.join(str(error).split())[:200]}")
                found.append(None)
        return found

    def _end(self, study: Study, directory: Path) -> None:
        """Say and write what was best. Runs that failed are part of the result, so they do not
        show in the exit code; a study without any result raises `UserError`."""
        best, accuracy = study.best()
        with contextlib.suppress(AttributeError, KeyError):  # a task that is not of the door
            self.task_function.keywords["codes"].clear()  # type: ignore[union-attr]
        results = {"name": "optuna", "study": study.name, "trials": study.done,
                   "failed": study.failed, "best_trial": best.number, "best_value": accuracy,
                   "best_params": study.values(best), "best_words": best.words,
                   "best_directory": str(directory / best.directory)}
        OmegaConf.save(OmegaConf.create(results), directory / RESULTS)
        print(f"best of {study.done} trials ({study.failed} failed): #{best.number}, accuracy "
              f"{accuracy:.4f}, in {directory / best.directory}: {shlex.join(best.words)}")


def _subdir(trial: Trial) -> str:
    """The word that gives a run its directory."""
    quoted = trial.directory.replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.sweep.subdir='{quoted}'"


def _still_at(trial: Trial, directory: Path) -> str | None:
    """The job of a launcher that an interrupted sweep has left at a trial, in the queue of Slurm or
    on this machine."""
    word = _subdir(trial).encode()
    for path in (directory / ".submitit").glob("*/*_submitted.pkl"):
        if word in path.read_bytes() and (_queued(path.parent.name) or _alive(path.parent)):
            return path.parent.name
    return None


def _queued(job: str) -> bool:
    if not shutil.which("squeue"):
        return False
    said: Sequence[str] = subprocess.run(["squeue", "--noheader", "--jobs", job], check=False,
                                         capture_output=True, text=True).stdout.split()
    return bool(said)


def _alive(folder: Path) -> bool:
    """Whether the process after which submitit has named a folder still works beside it."""
    try:
        said = Path(f"/proc/{folder.name}/cmdline").read_bytes()
    except OSError:
        return False
    return str(folder.resolve().parent).encode() in said
