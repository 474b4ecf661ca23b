"""MLflow: a local database of runs (sqlite), or a server."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ponder.config.registry import tracker
from ponder.config.resolve import flattened
from ponder.config.running import LoggerConfig
from ponder.core.lazy_imports import library
from ponder.training.trackers import Rows, TrackedRun

URI = "MLFLOW_TRACKING_URI"
RUN = "ponder.run"  # the tag by which a run is found again
EVERY = 5.0  # seconds between transactions, of which each takes some hundredths
METRICS, PARAMETERS = 1000, 100  # of a transaction, at most
PATIENCE = 60  # seconds that a process waits for others that write


@tracker("mlflow")
class MLflow:
    """MLflow: a database in `logger.dir`; with `logger.mode=online` a server.

    A run that goes on takes the place of what is there of it, with every step once.
    """

    packages, install = ("mlflow", "sqlalchemy", "alembic"), "'ponder[mlflow]'"
    begins_after = -1

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        self.waiting: list[Any] = []
        self.sent = time.monotonic()
        self.client, experiment = _opened(config)
        key = run.identity("mlflow") or uuid.uuid4().hex
        run.keep_identity("mlflow", key)
        for one in self.client.search_runs([experiment], f"tags.`{RUN}` = '{key}'"):
            self.client.delete_run(one.info.run_id)
        tags = {RUN: key, "ponder.directory": str(run.directory.resolve())}
        self.id = self.client.create_run(experiment, tags=tags,
                                         run_name=run.name(config)).info.run_id
        entities = library("mlflow.entities")
        self.Metric = entities.Metric
        parameters = [entities.Param(key, str(value)) for key, value in flattened(run.config)]
        for some in _parts(parameters, PARAMETERS):
            self.client.log_batch(self.id, params=some)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        now = time.time_ns() // 10**6
        self.waiting += [self.Metric(_legal(name), float(value), now, step)
                         for name, value in metrics.items()]
        if time.monotonic() - self.sent > EVERY:
            self._send()

    def table(self, step: int, name: str, rows: Rows) -> None:
        self.client.log_table(self.id, {column: [row.get(column) for row in rows]
                                        for column in rows[0]}, f"{name}/step_{step}.json")

    def close(self) -> None:
        self._send()
        self.client.set_terminated(self.id)

    def _send(self) -> None:
        for some in _parts(self.waiting, METRICS):
            self.client.log_batch(self.id, metrics=some)
        self.waiting, self.sent = [], time.monotonic()

    @staticmethod
    def refusals(config: LoggerConfig) -> Iterator[str]:
        """A line where the server is not named."""
        if config.mode == "online" and not os.environ.get(URI):
            yield (f"logger.mode=online: found no {URI} in the environment, where logger=mlflow is "
                   "to send its numbers; legal: with that, or logger.mode=offline")


def _opened(config: LoggerConfig) -> tuple[Any, str]:
    """A client of the database or server, and the id of the experiment `logger.project` there.

    Made by one process at a time, as several would make the tables of a new database.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    tracking = library("mlflow.tracking")
    for part in ("mlflow.store.db.utils", "alembic"):  # which tell of every table that they make
        logging.getLogger(part).setLevel(logging.WARNING)
    place: dict[str, str] = {}
    folder = Path(config.dir).resolve()
    with contextlib.ExitStack() as held:
        if config.mode == "online":
            client = tracking.MlflowClient()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((folder / ".mlflow.lock").open("w")), fcntl.LOCK_EX)
            client = tracking.MlflowClient(f"sqlite:///{folder}/mlflow.db?timeout={PATIENCE}")
            place["artifact_location"] = (folder / "mlflow").as_uri()
        found = client.get_experiment_by_name(config.project)
        return client, found.experiment_id if found else client.create_experiment(
            config.project, **place)


def _legal(name: str) -> str:
    """A name of a metric as MLflow takes it: `pass@4` is `pass_4`."""
    return re.sub(r"[^\w./ :-]", "_", name)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """A list in parts of at most `size`."""
    return (items[start:start + size] for start in range(0, len(items), size))
