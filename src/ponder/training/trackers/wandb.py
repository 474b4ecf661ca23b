"""Weights & Biases."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid

from ponder.config.registry import tracker
from ponder.config.running import LoggerConfig
from ponder.training.trackers import Rows, TrackedRun


@tracker("wandb")
class Wandb:
    """Weights & Biases; offline unless `logger.mode=online`.

    Offline, a run that goes on is written anew as a whole, so that `wandb sync` finds one directory
    with every step once. Online, it is gone on with under its id; steps that the server has are not
    sent again.
    """

    packages, install = ("wandb",), "wandb"

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        online = config.mode == "online"
        if not online:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        known = run.identity("wandb")
        identity = known or uuid.uuid4().hex[:8]
        run.keep_identity("wandb", identity)
        for earlier in (run.directory / "wandb").glob(f"offline-run-*-{identity}"):
            aside = earlier.rename(earlier.with_name(f".{earlier.name}"))
            shutil.rmtree(aside, ignore_errors=True)  # of a killed run, wandb may write on
        self.run = wandb.init(project=config.project, mode=config.mode,  # type: ignore[arg-type]
                              dir=str(run.directory), name=run.name(config), config=run.config,
                              settings=wandb.Settings(silent=True), id=identity,
                              resume="allow" if online else None)
        self.begins_after = self.run.step - 1 if online else -1

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def table(self, step: int, name: str, rows: Rows) -> None:
        import wandb

        shown = wandb.Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
        chart = (wandb.plot.bar(shown, "thoughts", "accuracy", title="Accuracy by thoughts")
                 if name == "necessity_bars" else shown)
        self.run.log({name: chart}, step=step)

    def close(self) -> None:
        import wandb

        try:
            self.run.finish()
        except Exception:
            with contextlib.suppress(Exception):
                wandb.teardown()  # its process is gone: nothing waits for it at exit, or uses it
            raise
