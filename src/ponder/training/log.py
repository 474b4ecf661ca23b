"""What a run writes about itself: metrics.jsonl, which is the record, and tables of rollouts."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.config.errors import replacing, writing
from ponder.core.metrics import COLUMNS
from ponder.training.trackers import Mirrors

if TYPE_CHECKING:
    from ponder.core.types import Rollouts
    from ponder.rollouts.written import Batch

ROLLOUT_FILES = ("generated", "rationalised")  # of an epoch's first and second sampling
ToRows = Callable[["Rollouts", int], list[dict[str, Any]]]  # of rollouts and their seed


class Log:
    """Writes metrics.jsonl, one line at a time, and the tables of a run; mirrors the metrics.

    length: how many bytes of an existing file to keep. Lines after a checkpoint are written again
    by the run that resumes from it.
    """

    def __init__(self, directory: Path, tracker: Mirrors, length: int = 0) -> None:
        self.directory, self.tracker = directory, tracker
        path = directory / "metrics.jsonl"
        with writing(path):
            directory.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a")
            self.file.truncate(min(length, os.path.getsize(path)))

    def sync(self) -> int:
        """Wait until all lines are on the disk. Returns the length of the file in bytes."""
        with writing(self.file.name):
            self.file.flush()
            os.fsync(self.file.fileno())
            return os.path.getsize(self.file.name)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line: `{"step": step, name: value, ...}`; null stands for what is not finite."""
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with writing(self.file.name):
            self.file.write(json.dumps({"step": step, **line}) + "\n")
            self.file.flush()
        self.tracker.write(step, metrics)

    def table(self, step: int, rows: list[dict[str, Any]]) -> Path:
        """Write `val_<step>/generated.csv`, and show its first rows."""
        path = self.append(f"val_{step}", "generated", rows, new=True)
        self.tracker.rollouts(step, rows)
        return path

    def append(self, name: str, file: str, rows: list[dict[str, Any]], new: bool) -> Path:
        """Append rows to `<name>/<file>.csv`. new: replace the file."""
        path = self.directory / name / f"{file}.csv"
        with writing(path):
            place = replacing(path) if new else contextlib.nullcontext(path)
            with place as there, there.open("w" if new else "a", newline="",
                                            encoding="utf-8") as table:
                others = [column for column in rows[0] if column not in COLUMNS]  # of a plugin
                writer = csv.DictWriter(table, [*COLUMNS, *others])
                if new:
                    writer.writeheader()
                writer.writerows(rows)
        return path

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when the line was written
            self.file.close()
        self.tracker.close()


class NoLog(Log):
    """The log of processes other than the first one of a run: nothing is written."""

    def __init__(self) -> None:
        pass

    def sync(self) -> int:
        return 0

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def table(self, step: int, rows: list[dict[str, Any]]) -> Path:
        return Path(os.devnull)

    def append(self, name: str, file: str, rows: list[dict[str, Any]], new: bool) -> Path:
        return Path(os.devnull)

    def close(self) -> None:
        pass


class RolloutLog:
    """Appends every batch of a round to train_<epoch>/generated.csv, and batches that were sampled
    with a hint to rationalised.csv. to_rows makes table rows of rollouts.

    A round that is collected again after an interruption replaces its file: finished batches come
    from the cache.
    """

    def __init__(self, log: Log, epoch: Callable[[], int], to_rows: ToRows) -> None:
        self.log, self.current_epoch, self.to_rows = log, epoch, to_rows
        self.epoch, self.file = -1, 0

    def add(self, batch: Batch) -> None:
        """Write a finished batch."""
        if batch.number == 0:
            again = self.epoch == self.current_epoch()
            self.epoch, self.file = self.current_epoch(), min(self.file + 1, 1) if again else 0
        rows = self.to_rows(batch.rollouts, batch.seed)
        self.log.append(f"train_{self.epoch}", ROLLOUT_FILES[self.file], rows,
                        new=batch.number == 0)
