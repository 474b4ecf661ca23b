"""What is written is put on disk and on the terminal as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ponder.core.types import Rollouts
from ponder.models.policies.question import Policy
from ponder.models.policies.thinker import TextThinker
from ponder.rollouts.sampler import Source
from ponder.rollouts.written import Batch, Written
from ponder.rollouts.written import Progress as Writing
from ponder.training.console import Plain
from ponder.training.progress import Progress
from ponder.training.trackers import Log

NAMES = ("generated", "rationalised")
Rows = Callable[[Rollouts, int], list[dict[str, Any]]]  # of rollouts and their seed


class Teller:
    """Shows how far the writing and reading of texts is; pause is called at every turn, and may
    raise.
    """

    def __init__(self, console: Plain, pause: Callable[[], None] = lambda: None) -> None:
        self.console, self.pause = console, pause
        self.begun: dict[str, float] = {}  # when, of each thing that is done

    def follow(self, source: Source, policy: Policy) -> None:
        """Hear of what a source writes (others than `Written` write nothing) and a policy reads."""
        inner = getattr(source, "inner", source)
        if isinstance(inner, Written):
            inner.finished, inner.heard = self.finished, self.writing
        if isinstance(policy, TextThinker):
            policy.heard = self.reading

    def finished(self, batch: Batch) -> None:
        """A batch has been written."""

    def writing(self, writing: Writing) -> None:
        rows = writing.rows + writing.cached
        seconds = self._seconds("writing", begins=not (writing.tokens or writing.cached))
        self.console.busy(f"writing {rows}/{writing.total} texts  "
                          f"{writing.tokens / seconds:.0f} tokens/s  "
                          f"{_left(seconds, writing.share)}", rows == writing.total)
        self.pause()

    def reading(self, doing: str, rows: int, total: int) -> None:
        """So many texts, of all that are read in turn, have been judged, compared, ..."""
        seconds = self._seconds(doing, begins=rows == 0)
        if rows:
            self.console.busy(f"{doing} {rows}/{total} texts  {_left(seconds, rows / total)}",
                              rows == total)
        if rows < total:
            self.pause()

    def _seconds(self, doing: str, begins: bool) -> float:
        """Since that began."""
        if begins:
            self.begun[doing] = time.monotonic()
        return max(time.monotonic() - self.begun[doing], 1e-9)


class Scribe(Teller):
    """Also appends each batch of a round to train_<epoch>/generated.csv (those that had a hint to
    rationalised.csv) where `rows` makes a table of it.

    A round that is collected again after an interruption begins its file anew: what was written
    is in the cache.
    """

    def __init__(self, log: Log, console: Plain, progress: Progress, pause: Callable[[], None],
                 rows: Rows | None = None) -> None:
        super().__init__(console, pause)
        self.log, self.progress, self.rows = log, progress, rows
        self.epoch, self.file = -1, 0

    def finished(self, batch: Batch) -> None:
        if self.rows is None:
            return
        if batch.number == 0:
            same = self.epoch == self.progress.epoch
            self.epoch, self.file = self.progress.epoch, min(self.file + 1, 1) if same else 0
        rows = self.rows(batch.rollouts, batch.seed)
        self.log.append(f"train_{self.epoch}", NAMES[self.file], rows, anew=batch.number == 0)


def _left(seconds: float, share: float) -> str:
    return f"{seconds * (1 / max(share, 1e-9) - 1):.0f} s left"
