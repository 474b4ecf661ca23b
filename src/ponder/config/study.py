"""Keys of `hydra/sweeper=optuna`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.config.option import option

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler",
            "cmaes": "CmaEsSampler"}


@dataclass
class StudySampler:
    """Who chooses the values of the next trials."""

    name: str = option("tpe", "sampler of Optuna's; gp needs scipy, cmaes needs cmaes; its own "
                       "arguments with a plus (`+hydra.sweeper.sampler.multivariate=true`)",
                       legal=tuple(SAMPLERS))
    seed: int | None = option(0, "of the values that are tried; null: others each time", low=0)


@dataclass
class StudyConfig:
    """A sweep whose values are chosen by Optuna; what a run returns is its accuracy."""

    _target_: str = "hydra_plugins.ponder_sweeper.Optuna"
    n_trials: int = option(20, "runs of the whole study, those of earlier calls and those that "
                           "failed among them", low=1)
    n_jobs: int = option(1, "runs that are chosen and sent together; the next ones are chosen "
                         "when all of them have ended", low=1)
    direction: str = option("maximize", "of the accuracy", legal=("maximize", "minimize"))
    storage: str | None = option(None, "file that remembers the study, or the URL of a database "
                                 "(`sqlite:///study.db`); null: optuna.journal in the directory "
                                 "of the sweep")
    study_name: str | None = option(None, "under which the study is remembered; null: a hash of "
                                    "the words of the sweep")
    sampler: StudySampler = field(default_factory=StudySampler)
    params: dict[str, str] = option({}, "words of the sweep as `key: value`, for files of "
                                    "configuration")
