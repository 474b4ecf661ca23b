"""Trackio: a local database of runs, and a page that shows them (`trackio show`)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.config.registry import tracker
from ponder.config.running import LoggerConfig
from ponder.core.lazy_imports import library
from ponder.training.trackers import Rows, TrackedRun

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


@tracker("trackio")
class Trackio:
    """Trackio, always on this machine, in `logger.dir`.

    A run that goes on takes the place of what the database has of it, with every step once.
    """

    packages, install = ("trackio",), "'ponder[trackio]'"
    begins_after = -1

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        self.library = _library(Path(config.dir).resolve() / "trackio", config)
        known = run.identity("trackio")
        with _local():
            for one in self.library.Api().runs(config.project) if known else ():
                if one.id == known:
                    one.delete()
            self.run = self.library.init(
                project=config.project, name=run.name(config), config=run.config, resume="never",
                embed=False, auto_log_gpu=False, auto_log_cpu=False)
        run.keep_identity("trackio", self.run.id)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def table(self, step: int, name: str, rows: Rows) -> None:
        self.run.log({name: self.library.Table(data=rows)}, step=step)

    def close(self) -> None:
        with _local():
            self.library.finish()  # and forget the run, which would be finished again at exit


def _library(folder: Path, config: LoggerConfig) -> Any:
    """The library with its database in `folder`, where it keeps it until the process ends.

    Raises `UserError` where this process has another one.
    """
    os.environ["TRACKIO_DIR"] = str(folder)
    os.environ.setdefault("TRACKIO_STORAGE_MODE", "sqlite")
    trackio, there = library("trackio"), Path(library("trackio.utils").TRACKIO_DIR)
    if there.resolve() != folder:
        raise UserError(f"logger.dir={config.dir}: found trackio of this process in {there}; "
                        f"legal: logger.dir={there.parent}, or another process")
    return trackio


@contextlib.contextmanager
def _local() -> Iterator[None]:
    """Trackio says nothing, sends nothing and asks nobody for the name of the user."""
    hub = library("huggingface_hub.constants")
    remote = {name: os.environ.pop(name) for name in REMOTE if name in os.environ}
    offline, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        os.environ.update(remote)
