"""Where numbers go: metrics.jsonl is the truth, wandb and tensorboard mirror it."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
from pathlib import Path
from typing import Any, Protocol

from ponder.config.errors import UserError
from ponder.config.running import LoggerConfig
from ponder.config.spine import WANDB_ID


class Mirror(Protocol):
    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Nowhere:
    """The mirror of `logger=none`."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class Wandb:
    """Mirrors to Weights & Biases; offline unless `logger.mode=online`.

    The run directory keeps the id, so that a run that goes on is one run there too.
    """

    def __init__(self, config: LoggerConfig, directory: Path, run_config: dict[str, Any]) -> None:
        import wandb

        kept = directory / WANDB_ID
        name = kept.read_text() if kept.is_file() else None
        self.run = wandb.init(project=config.project, mode=config.mode,  # type: ignore[arg-type]
                              dir=str(directory), name=_name(config, directory, run_config),
                              config=run_config, settings=wandb.Settings(silent=True), id=name,
                              resume="allow")
        kept.write_text(self.run.id)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def close(self) -> None:
        self.run.finish()


def _name(config: LoggerConfig, directory: Path, run_config: dict[str, Any]) -> str:
    """What `logger.naming` says."""
    from hydra.core.hydra_config import HydraConfig

    if config.naming == "directory":
        return "/".join(directory.parts[-2:])
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return parameter_name(run_config, list(typed))


class Tensorboard:
    """Mirrors to TensorBoard event files in the run directory; those of steps after `step`, which
    will be taken again, count no more.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"),
                                    purge_step=step + 1 if step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def build_mirror(config: LoggerConfig, directory: Path, run_config: dict[str, Any],
                 step: int = 0) -> Mirror:
    """The mirror that `logger=` names, of a run that goes on after `step`.

    Raises `UserError` where its package is missing.
    """
    try:
        if config.kind == "wandb":
            return Wandb(config, directory, run_config)
        if config.kind == "tensorboard":
            return Tensorboard(directory, step)
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

    def sync(self) -> int:
        """Wait until all lines are on the disk; the length of the file in bytes."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return os.path.getsize(self.file.name)

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
        return self.append(name, "generated", rows, anew=True)

    def append(self, name: str, file: str, rows: list[dict[str, Any]], anew: bool) -> Path:
        """Put rows behind those of `<name>/<file>.csv`, or begin it anew."""
        path = self.directory / name / f"{file}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if anew else "a", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            if anew:
                writer.writeheader()
            writer.writerows(rows)
        return path

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each line has been heard of when it was written
            self.file.close()
        self.mirror.close()


def parameter_name(run: dict[str, Any], typed: list[str]) -> str:
    """The name that runs had in wandb, such as `train_beta=0.1_samples=3_ts=dpo_ds=mmlu_...`.

    run is the whole configuration. typed are the words of the command line: names have `wd=100`
    or `wd=100.0` as it was typed.
    """
    task, strategy, trainer = run["task"], run["strategy"], run["trainer"]
    right = strategy["name"] == "star" and strategy["keep"] == "correct"
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
