"""Where numbers go: metrics.jsonl is the truth, wandb and tensorboard mirror it."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

from ponder.config.running import LoggerConfig
from ponder.errors import UserError


class Mirror(Protocol):
    name: str | None  # under which the mirror finds this run again

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Nowhere:
    """The mirror of `logger=none`."""

    name: str | None = None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class Wandb:
    """Mirrors to Weights & Biases; offline unless `logger.mode=online`."""

    def __init__(self, config: LoggerConfig, directory: Path, run_config: dict[str, Any],
                 name: str | None) -> None:
        import wandb

        self.run = wandb.init(project=config.project, mode=config.mode,  # type: ignore[arg-type]
                              dir=str(directory), name="/".join(directory.parts[-2:]),
                              config=run_config, settings=wandb.Settings(silent=True), id=name,
                              resume="allow")
        self.name: str | None = self.run.id

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def close(self) -> None:
        self.run.finish()


class Tensorboard:
    """Mirrors to TensorBoard event files in the run directory."""

    name: str | None = None

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def build_mirror(config: LoggerConfig, directory: Path, run_config: dict[str, Any],
                 name: str | None = None) -> Mirror:
    """The mirror that `logger=` names; name: its own one of a run that goes on.

    Raises `UserError` where its package is missing.
    """
    try:
        if config.kind == "wandb":
            return Wandb(config, directory, run_config, name)
        if config.kind == "tensorboard":
            return Tensorboard(directory)
    except ImportError as error:
        raise UserError(f"logger={config.kind}: {error.name} is not installed; legal: "
                        f"pip install {error.name}, or logger=none") from None
    return Nowhere()


class Log:
    """Writes lines to metrics.jsonl, each flushed, and mirrors them.

    `length` is how many bytes of an earlier file count: what was written after a checkpoint is
    written again by the run that goes on from it.
    """

    def __init__(self, directory: Path, mirror: Mirror, length: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.mirror = mirror
        self.file = (directory / "metrics.jsonl").open("a")
        self.file.truncate(min(length, os.path.getsize(self.file.name)))

    def state(self) -> dict[str, Any]:
        """For the run that goes on from here; the lines are on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"length": os.path.getsize(self.file.name), "mirror": self.mirror.name}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line: `{"step": step, name: value, ...}`; null stands for what is not finite."""
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            self.file.write(json.dumps({"step": step, **line}) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.file.name}: cannot be written ({error.strerror}); legal: a "
                            "disk with room; the lines before are whole") from None
        self.mirror.write(step, metrics)

    def table(self, name: str, rows: list[dict[str, Any]]) -> Path:
        """Write `<name>/generated.csv`."""
        path = self.directory / name / "generated.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each line has been heard of when it was written
            self.file.close()
        self.mirror.close()
