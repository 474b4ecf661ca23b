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
    rationalised.csv) where `rows` makes a table of it, and shows how far writing and judging are.

    A round that is collected again after an interruption begins its file anew: what was written
    is in the cache.
    """

    def __init__(self, log: Log, console: Plain, progress: Progress, pause: Callable[[], None],
                 ) -> None:
        self.log, self.console, self.progress, self.pause = log, console, progress, pause
        self.rows: Rows | None = None
        self.epoch, self.file = -1, 0
        self.started = self.asked = time.monotonic()

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
        rows, seconds = writing.rows + writing.cached, _since(self.started)
        self.console.busy(f"writing {rows}/{writing.total} texts  "
                          f"{writing.tokens / seconds:.0f} tokens/s  "
                          f"{_left(seconds, writing.share)}", rows == writing.total)
        self.pause()

    def judged(self, rows: int, total: int) -> None:
        """So many texts, of all that are asked about at once, have their answers."""
        if rows == 0:  # it begins
            self.asked = time.monotonic()
        else:
            self.console.busy(f"judging {rows}/{total} texts  "
                              f"{_left(_since(self.asked), rows / total)}", rows == total)


def _since(moment: float) -> float:
    """Seconds."""
    return max(time.monotonic() - moment, 1e-9)


def _left(seconds: float, share: float) -> str:
    return f"{seconds * (1 / max(share, 1e-9) - 1):.0f} s left"
