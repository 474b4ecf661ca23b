"""What Optuna knows of a sweep: which values have been tried, what came of them, what is next.

- A trial is written into the storage before its run is sent. The same sweep started again goes on:
  first with the runs that never came back, then with new ones.
- The sampler of trial k is seeded by the seed and k alone, so a study that was interrupted tries
  what an undisturbed one tries. (One sampler for all would begin with its first values again.)

Left out: several objectives, and pruning, as a run says nothing before its end.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.config.study import SAMPLERS
from ponder.sweeps.space import Space

JOURNAL = "optuna.journal"  # in the directory of a sweep: what its studies know
WORDS = "words"  # what a study is about, on record


@dataclass(frozen=True)
class Trial:
    """A run to be sent: its number, the values of its keys, and all its words."""

    number: int
    values: dict[str, Any]
    words: list[str]


class Study:
    """Chooses the trials of a space, as `StudyConfig` says."""

    def __init__(self, settings: Any, space: Space, directory: Path) -> None:
        self.settings, self.space = settings, space
        self.name = settings.study_name or space.name(settings.direction)
        self.known = self._open(directory)

    def _open(self, directory: Path) -> Any:
        """Optuna's study. Raises `UserError` for a storage that cannot be used, or that has a
        study of this name about other words.
        """
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        said = self.settings.storage or str(directory / JOURNAL)
        try:
            storage = said if "://" in said else optuna.storages.JournalStorage(
                JournalFileBackend(str(Path(said).absolute())))
            known = optuna.create_study(storage=storage, study_name=self.name,
                                        direction=self.settings.direction, load_if_exists=True)
        except Exception as error:  # of files, of journals, of any database
            reason = brief(error)
            raise UserError(f"hydra.sweeper.storage={said}: cannot be used ({reason}); legal: "
                            "null, a file that can be written, or a database's URL") from None
        words = [self.settings.direction, *sorted(self.space.typed)]
        if known.user_attrs.get(WORDS, words) != words:
            raise UserError(f"hydra.sweeper.study_name={self.name}: found a study of other words "
                            f"in {said} ({' '.join(known.user_attrs[WORDS])}); legal: another name")
        known.set_user_attr(WORDS, words)
        return known

    def _trials(self, *states: str) -> list[Any]:
        """The trials in one of some states, in order, but for those that were cut off before all
        of their values were known."""
        return [trial for trial in self.known.get_trials(deepcopy=False)
                if trial.state.name in states and trial.params.keys() == self.space.free.keys()]

    @property
    def done(self) -> int:
        """How many trials have come back."""
        return len(self._trials("COMPLETE", "FAIL"))

    @property
    def failed(self) -> int:
        return len(self._trials("FAIL"))

    def unfinished(self) -> list[Trial]:
        """Trials that an earlier call has sent and not heard of; of these the first whose numbers
        follow each other."""
        left = self._trials("RUNNING")
        return [self._trial(trial) for place, trial in enumerate(left)
                if trial.number == left[0].number + place]

    def fresh(self) -> list[Trial]:
        """As many new trials as are sent together; none where there are enough."""
        count = min(self.settings.n_jobs, self.settings.n_trials - self.done)
        return [self._ask() for _ in range(count)]

    def _ask(self) -> Trial:
        number = len(self.known.get_trials(deepcopy=False))
        try:
            self.known.sampler = sampler(self.settings.sampler, number)
            trial = self.known.ask(self.space.free)
        except ImportError as error:
            raise UserError(f"hydra.sweeper.sampler.name={self.settings.sampler.name}: "
                            f"{error.name or 'a package'} is not installed; legal: pip install "
                            f"{error.name or 'what it needs'}, or tpe") from None
        return self._trial(trial)

    def _trial(self, trial: Any) -> Trial:
        values = {key: trial.params[key] for key in self.space.free}
        return Trial(trial.number, values, self.space.words(values))

    def tell(self, trial: Trial, accuracy: float | None) -> None:
        """What came of a trial; None or not a number: it has failed."""
        if accuracy is None or math.isnan(accuracy):
            self.known.tell(trial.number, state=_failed())
        else:
            self.known.tell(trial.number, accuracy)

    def best(self) -> tuple[Trial, float]:
        """The best trial and its accuracy. Raises `UserError` where no trial has one."""
        if not self._trials("COMPLETE"):
            raise UserError(f"hydra/sweeper=optuna: found no accuracy in {self.done} trials; "
                            "legal: words with which a run ends, action=train or action=evaluate, "
                            "trainer.do_acc_eval=true")
        best = self.known.best_trial
        return self._trial(best), best.value



def sampler(settings: Any, number: int) -> Any:
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


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL
