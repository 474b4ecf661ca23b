"""Where numbers go: metrics.jsonl is the record, a tracker (wandb, tensorboard) mirrors it."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ponder.config.errors import UserError, replacing, writing
from ponder.config.registry import TRACKERS, tracker
from ponder.config.resolve import typed_words
from ponder.config.running import LoggerConfig
from ponder.config.spine import WANDB_ID
from ponder.core.metrics import COLUMNS

if TYPE_CHECKING:
    from ponder.core.types import Rollouts
    from ponder.rollouts.written import Batch

ROLLOUT_FILES = ("generated", "rationalised")  # of an epoch's first and second sampling
ToRows = Callable[["Rollouts", int], list[dict[str, Any]]]  # of rollouts and their seed


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run. step: the step after which it goes on."""

    directory: Path
    config: dict[str, Any]
    step: int = 0


class Tracker(Protocol):
    """Mirrors metrics; built with the keys `logger.*` and a `TrackedRun`."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


@tracker("none")
class NoTracker:
    """Metrics go to metrics.jsonl only."""

    def __init__(self, config: LoggerConfig | None = None, run: TrackedRun | None = None) -> None:
        pass

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


@tracker("wandb")
class Wandb:
    """Weights & Biases; offline unless `logger.mode=online`.

    The run directory keeps the id, so that a resumed run stays one run there too.
    """

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        import wandb

        kept = run.directory / WANDB_ID
        identity = kept.read_text() if kept.is_file() else None
        self.run = wandb.init(project=config.project, mode=config.mode,  # type: ignore[arg-type]
                              dir=str(run.directory), name=_name(config, run), config=run.config,
                              settings=wandb.Settings(silent=True), id=identity, resume="allow")
        kept.write_text(self.run.id)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def close(self) -> None:
        self.run.finish()


@tracker("tensorboard")
class Tensorboard:
    """TensorBoard event files in the run directory.

    Those of a resumed run discard the events of steps that are taken again.
    """

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.directory / "tensorboard"),
                                    purge_step=run.step + 1 if run.step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def build_tracker(config: LoggerConfig, run: TrackedRun) -> Tracker:
    """The tracker that `logger.kind` names. Raises `UserError` where its package is missing."""
    try:
        return TRACKERS[config.kind].target(config, run)
    except ImportError as error:
        raise UserError(f"logger={config.kind}: {error.name} is not installed; legal: "
                        f"pip install {error.name}, or logger=none") from None


class Log:
    """Writes metrics.jsonl, one line at a time, and the tables of a run; mirrors the metrics.

    length: how many bytes of an existing file to keep. Lines after a checkpoint are written again
    by the run that resumes from it.
    """

    def __init__(self, directory: Path, tracker: Tracker, length: int = 0) -> None:
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

    def table(self, name: str, rows: list[dict[str, Any]]) -> Path:
        """Write `<name>/generated.csv`."""
        return self.append(name, "generated", rows, new=True)

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


# --- names of wandb runs -------------------------------------------------------------------------

def _name(config: LoggerConfig, run: TrackedRun) -> str:
    """The run's name, as `logger.naming` says."""
    if config.naming == "directory":
        return "/".join(run.directory.parts[-2:])
    return parameter_name(run.config, typed_words())


def parameter_name(run: dict[str, Any], typed: list[str]) -> str:
    """A name made of parameters, such as `train_beta=0.1_samples=3_ts=dpo_ds=mmlu_...`.

    run: the whole configuration. typed: the words of the command line; the name has a number as it
    was typed there, `wd=100` or `wd=100.0`.
    """
    task, strategy, trainer = run["task"], run["strategy"], run["trainer"]
    right = strategy.get("keep") == "correct"
    language = task.get("language", "EN")
    parts = {"beta": strategy.get("beta"), "samples": run["rollout"]["samples"],
             "ts": "reinforce" if right else strategy["name"],
             "ds": task["name"] if language == "EN" else f"{task['name']}_{language}",
             "lr": trainer["lr"], "wd": trainer["weight_decay"],
             "lora": run["model"].get("lora_r"),
             "gaccum": trainer["train_gradient_accumulation_steps"], "warmup": trainer["warmup"],
             "gnorm": trainer["grad_clip"], "shuff": task.get("shuffle"), "seed": run["seed"]}
    for part, key in (("beta", "strategy.beta"), ("lr", "trainer.lr"),
                      ("wd", "trainer.weight_decay"), ("gnorm", "trainer.grad_clip")):
        said = [word.partition("=")[2] for word in typed if word.startswith(f"{key}=")]
        if said and re.fullmatch(r"\d+", said[-1]):
            parts[part] = int(said[-1])
    return "_".join([run["run_type"], *(f"{part}={value}" for part, value in parts.items())])
