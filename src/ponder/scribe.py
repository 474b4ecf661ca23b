"""What is written is put on disk and on the terminal as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ponder.console import Plain
from ponder.log import Log
from ponder.progress import Progress
from ponder.rollout import Source
from ponder.types import Rollouts
from ponder.writing import Batch, Written
from ponder.writing import Progress as Writing

NAMES = ("generated", "rationalised")
Rows = Callable[[Rollouts, int], list[dict[str, Any]]]  # of rollouts and their seed


class Scribe:
    """Appends each batch of a round to train_<epoch>/generated.csv (those that had a hint to
    rationalised.csv) where `rows` makes a table of it, and shows how far a round of writing is.

    A round that is collected again after an interruption begins its file anew: what was written
    is in the cache.
    """

    def __init__(self, log: Log, console: Plain, rows: Rows | None, progress: Progress,
                 pause: Callable[[], None]) -> None:
        self.log, self.console, self.rows = log, console, rows
        self.progress, self.pause = progress, pause
        self.epoch, self.file = -1, 0
        self.started = time.monotonic()

    def follow(self, source: Source) -> None:
        """Hear of what a source writes; others than `Written` write nothing."""
        inner = getattr(source, "inner", source)
        if isinstance(inner, Written):
            inner.finished, inner.heard = self.finished, self.heard

    def finished(self, batch: Batch) -> None:
        if self.rows is None:
            return
        if batch.number == 0:
            same = self.epoch == self.progress.epoch
            self.epoch, self.file = self.progress.epoch, min(self.file + 1, 1) if same else 0
        rows = self.rows(batch.rollouts, batch.seed)
        self.log.append(f"train_{self.epoch}", NAMES[self.file], rows, anew=batch.number == 0)

    def heard(self, writing: Writing) -> None:
        if not (writing.tokens or writing.cached):  # it begins
            self.started = time.monotonic()
        seconds = max(time.monotonic() - self.started, 1e-9)
        self.console.writing(writing.rows + writing.cached, writing.total,
                             writing.tokens / seconds,
                             seconds * (1 / max(writing.share, 1e-9) - 1))
        self.pause()
