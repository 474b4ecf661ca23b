"""`hydra/sweeper=optuna`: sends the trials of an Optuna study to whichever launcher is chosen.

- `n_jobs` trials are chosen and sent together; when all have returned the next are chosen. A run
  that failed is a failed trial.
- A trial is stored before its run is sent. The same sweep started again first sends the trials
  that never returned; the launcher finds out whether such a run is done, active or vanished.
- The sampler of trial k is seeded by the seed and k alone, so an interrupted study tries the same
  values as an undisturbed one. (One sampler for all would begin with its first values again.)

Left out: several objectives, and pruning, because a run reports nothing before its end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from ponder.config.checker import check_leaf, leaves
from ponder.config.errors import UserError, brief, replacing
from ponder.config.inputs import changed
from ponder.config.running import SAMPLERS, StudyConfig, StudySampler
from ponder.config.spine import with_own_variants
from ponder.sweeps.follow import compare_hint
from ponder.sweeps.jobs import read_jobs
from ponder.sweeps.plan import without_hydra

log = logging.getLogger(__name__)
RESULTS = "optimization_results.yaml"
JOURNAL = "optuna.journal"  # in the directory of a sweep: the storage of its studies
STUDY_WORDS = "words"  # attribute of a study in the storage: the arguments it is about
STUDY_INPUTS = "inputs"  # and the hashes of the files that they read
FORMS = ("interval(0.1, 0.9), tag(log, interval(1e-4, 1e-1)), int(interval(1, 64)), "
         "range(2, 10, 2), choice(adam, sgd) or values with commas")


# --- the search space ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchSpace:
    """fixed: arguments of every trial. distributions: Optuna's, for each key that varies. typed:
    all arguments as they were typed.
    """

    fixed: list[str]
    distributions: dict[str, Any]
    typed: list[str]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The arguments of a trial; str() of a float is read back as the same number."""
        return with_own_variants([
            *self.fixed, *(f"{key}={values[key]}" for key in self.distributions)])

    def study_name(self, direction: str) -> str:
        """Equal sweeps have equal names, whatever the order of their arguments."""
        content = json.dumps([direction, *sorted(self.typed)])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_space(arguments: Sequence[str], loader: Any) -> SearchSpace:
    """The search space of a sweep's arguments; of several values for one key the last counts.

    `loader` is Hydra's, which resolves `glob(...)`. Raises `UserError` where nothing varies, or for
    bounds with nothing between them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    last = {override.get_key_element(): override for override in parsed}
    distributions = {key: _distribution(override) for key, override in last.items()
                     if override.is_sweep_override()}
    if not distributions:
        raise UserError("hydra/sweeper=optuna: found no key with several values; legal: "
                        f"key={FORMS}")
    fixed = [str(override.input_line) for key, override in last.items()
             if key not in distributions]
    return SearchSpace(fixed, distributions,
                       [str(override.input_line) for override in last.values()])


def _distribution(override: Any) -> Any:
    """Optuna's distribution of a key's values; values without an order stay as typed."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        if override.is_interval_sweep():
            kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
            return kind(value.start, value.end, log="log" in value.tags)
        if override.is_range_sweep() and not value.shuffle:
            numbers = sorted(value.range())
            kind = IntDistribution if isinstance(numbers[0], int) else FloatDistribution
            return kind(numbers[0], numbers[-1], step=abs(value.step))
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except (ValueError, IndexError):
        raise UserError(f"{override.input_line}: found nothing between the bounds, or a logarithm "
                        f"of 0 or less; legal: {FORMS}") from None


# --- the study -----------------------------------------------------------------------------------


class Study:
    """Chooses trials of a search space, with the settings of `StudyConfig`. A trial is Optuna's:
    its `number`, and the values of its keys in `params`.
    """

    def __init__(self, settings: Any, space: SearchSpace, directory: Path) -> None:
        self.settings, self.space = settings, space
        self.name = settings.study_name or space.study_name(settings.direction)
        self.storage = self._open(directory)

    def _open(self, directory: Path) -> Any:
        """Optuna's study, created or loaded.

        Raises `UserError` for a storage that cannot be used, or that holds a study of this name
        with other arguments.
        """
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        place = self.settings.storage or str(directory / JOURNAL)
        try:
            storage = place if "://" in place else optuna.storages.JournalStorage(
                JournalFileBackend(str(Path(place).absolute())))
            study = optuna.create_study(storage=storage, study_name=self.name,
                                        direction=self.settings.direction, load_if_exists=True)
        except Exception as error:  # of files, of journals, of any database
            reason = brief(error)
            raise UserError(f"hydra.sweeper.storage={place}: cannot be used ({reason}); legal: "
                            "null, a file that can be written, or a database's URL") from None
        words = [self.settings.direction, *sorted(self.space.typed)]
        if study.user_attrs.get(STUDY_WORDS, words) != words:
            raise UserError(f"hydra.sweeper.study_name={self.name}: found a study of other "
                            f"arguments in {place} ({' '.join(study.user_attrs[STUDY_WORDS])}); "
                            "legal: another name")
        study.set_user_attr(STUDY_WORDS, words)
        return study

    def reads(self, now: dict[str, str]) -> None:
        """Note the files that trials read. Raises `UserError` where one has changed since earlier
        trials, whose results mean something else.
        """
        for name in changed(self.storage.user_attrs.get(STUDY_INPUTS, now), now):
            raise UserError(f"{name}: found another content than in earlier trials of study "
                            f"{self.name}; legal: the same, or hydra.sweeper.study_name=<another>")
        self.storage.set_user_attr(STUDY_INPUTS, now)

    def _trials(self, *states: str) -> list[Any]:
        """Optuna's trials in one of these states, in order, except those that were cut off before
        all their values were chosen.
        """
        keys = self.space.distributions.keys()
        return [trial for trial in self.storage.get_trials(deepcopy=False)
                if trial.state.name in states and trial.params.keys() == keys]

    @property
    def done(self) -> int:
        """How many trials have returned."""
        return len(self._trials("COMPLETE", "FAIL"))

    @property
    def failed(self) -> int:
        """How many trials have failed."""
        return len(self._trials("FAIL"))

    def unfinished(self) -> list[Any]:
        """Trials that an earlier call sent and that never returned: the first block of consecutive
        numbers, because a launcher numbers its jobs consecutively.
        """
        left = self._trials("RUNNING")
        return [trial for place, trial in enumerate(left) if trial.number == left[0].number + place]

    def new_trials(self) -> list[Any]:
        """As many new trials as are sent together; [] when the study has enough."""
        count = min(self.settings.n_jobs, self.settings.n_trials - self.done)
        return [self._ask() for _ in range(count)]

    def _ask(self) -> Any:
        number = len(self.storage.get_trials(deepcopy=False))
        try:
            self.storage.sampler = make_sampler(self.settings.sampler, number)
            return self.storage.ask(self.space.distributions)
        except ImportError as error:
            raise UserError(f"hydra.sweeper.sampler.name={self.settings.sampler.name}: "
                            f"{error.name or 'a package'} is not installed; legal: pip install "
                            f"{error.name or 'what it needs'}, or tpe") from None

    def tell(self, trial: Any, accuracy: float | None) -> None:
        """Store the result of a trial; None and NaN mean that it failed."""
        if accuracy is None or math.isnan(accuracy):
            from optuna.trial import TrialState

            self.storage.tell(trial.number, state=TrialState.FAIL)
        else:
            self.storage.tell(trial.number, accuracy)

    def best(self) -> Any:
        """The best trial; its value is its accuracy. Raises `UserError` where no trial has one."""
        if not self._trials("COMPLETE"):
            raise UserError(f"hydra/sweeper=optuna: found no accuracy in {self.done} trials; "
                            "legal: arguments with which a run ends, action=train or "
                            "action=evaluate, trainer.do_acc_eval=true")
        return self.storage.best_trial


def make_sampler(settings: Any, number: int) -> Any:
    """Optuna's sampler for trial `number`. Raises `UserError` for arguments it does not take."""
    import optuna

    arguments = {key: value for key, value in settings.items() if key not in ("name", "seed")}
    seed = settings.seed
    if seed is not None:
        seed = random.Random(f"{seed} {number}").getrandbits(31)
    try:
        return getattr(optuna.samplers, SAMPLERS[settings.name])(seed=seed, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.sampler={settings.name}: found {error}; legal: the "
                        f"arguments of optuna's {SAMPLERS[settings.name]}") from None


# --- the sweeper ---------------------------------------------------------------------------------


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
        """Run the study to its end. Raises `UserError` for arguments that make no sense."""
        self._check_settings()
        params = [f"{key}={value}" for key, value in self.settings.params.items()]
        words = [word for word in arguments if not word.lstrip("+").startswith("sweep.")]
        space = read_space([*params, *words], self.loader)
        read = self._check_first_trial(space)
        directory = Path(str(self.config.hydra.sweep.dir))
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        study = Study(self.settings, space, directory)
        study.reads(read)
        log.info(f"study {study.name}: {study.done} of {self.settings.n_trials} trials are done; "
                 f"the same arguments with hydra.sweep.dir={directory} continue it")
        while batch := study.unfinished() or study.new_trials():
            words = [space.overrides(trial.params) for trial in batch]
            results = self.launcher.launch(words, initial_job_idx=batch[0].number)
            for trial, result in zip(batch, results, strict=True):
                accuracy = result.return_value
                study.tell(trial, None if accuracy is None else float(accuracy))
        self._report(study, directory)

    def _check_settings(self) -> None:
        """Raise `UserError` where Optuna is missing, and for illegal values of `hydra.sweeper`."""
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: optuna is not installed; legal: pip install "
                            "ponder[optuna], or no hydra/sweeper for every combination")
        if self.config.sweep.detach:
            raise UserError("sweep.detach=true: found hydra/sweeper=optuna, which waits for "
                            "its runs; legal: false")
        known = {str(key): value for key, value in self.settings.items() if key != "sampler"}
        sampler = StudySampler(self.settings.sampler.name, self.settings.sampler.seed)
        for key, value, about in leaves(StudyConfig(**known, sampler=sampler), "hydra.sweeper."):
            check_leaf(key, value, about)

    def _check_first_trial(self, space: SearchSpace) -> dict[str, str]:
        """Compose a random trial, so that wrong arguments are refused before a study is stored.
        Returns the hashes of the files that it reads.
        """
        import optuna

        from ponder.config.inputs import inputs
        from ponder.config.resolve import read

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.RandomSampler(seed=0)
        trial = optuna.create_study(sampler=sampler).ask(space.distributions)
        node = without_hydra(self.loader.load_sweep_config(self.config,
                                                           space.overrides(trial.params)))
        return inputs(read(node)) if node.action == "train" else {}

    def _report(self, study: Study, directory: Path) -> None:
        """Print and write the best trial. Failed runs are part of the result, so they do not change
        the exit code; a study without any result raises `UserError`.
        """
        best = study.best()
        words = study.space.overrides(best.params)
        self.task_function.keywords["codes"].clear()
        run = directory / next((job.directory for job in read_jobs(directory)
                                if job.overrides == words), "")
        results = {"name": "optuna", "study": study.name, "trials": study.done,
                   "failed": study.failed, "best_trial": best.number, "best_value": best.value,
                   "best_params": {key: best.params[key] for key in study.space.distributions},
                   "best_words": words, "best_directory": str(run)}
        with replacing(directory / RESULTS) as path:
            OmegaConf.save(OmegaConf.create(results), path)
        print(*filter(None, [
            compare_hint(directory),
            f"best of {study.done} trials ({study.failed} failed): #{best.number}, accuracy "
            f"{best.value:.4f}, in {run}: {shlex.join(words)}"]), sep="\n")
