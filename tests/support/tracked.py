"""What trackers have of a run, read from their files by other means than ours."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Shown = list[tuple[int, str, Any]]  # (step, name, value), in the order in which they are found


def of_wandb(folder: Path) -> Iterator[Shown]:
    """What each offline directory below a run directory would send."""
    from wandb.proto import wandb_internal_pb2 as pb

    for path in sorted(folder.glob("run/wandb/offline-run-*/run-*.wandb")):
        shown: Shown = []
        for record in map(pb.Record.FromString, _records(path.read_bytes())):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                     for item in record.history.item}
            step = int(items.get("_step", record.history.step.num))
            shown += [(step, name, value) for name, value in items.items()]
            shown += [(step, name.removesuffix("/path").removesuffix("_table"),
                       json.loads((path.parent / "files" / value).read_text()))
                      for name, value in items.items() if name.endswith("/path")]
        yield shown


def _records(content: bytes) -> Iterator[bytes]:
    """The records of wandb's file: those of LevelDB's log format, behind 7 bytes of a header.

    Blocks of 32 KiB hold parts, each behind a checksum (4 bytes), a length (2) and a kind (1): a
    whole record, or its first, a middle or its last part. A block is filled up with zeros.
    """
    at, record = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4:at + 6], "little"), content[at + 6]
        record += content[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def of_tensorboard(folder: Path) -> Iterator[Shown]:
    """All scalars and texts, those too that TensorBoard would discard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"), {"scalars": 0, "tensors": 0},
                              purge_orphaned_data=False)
    events.Reload()
    shown: Shown = [(event.step, name, event.value) for name in events.Tags()["scalars"]
                    for event in events.Scalars(name)]
    yield shown + [(event.step, name.removesuffix("/text_summary"),
                    event.tensor_proto.string_val[0].decode())
                   for name in events.Tags()["tensors"] for event in events.Tensors(name)]


def of_trackio(folder: Path) -> Iterator[Shown]:
    """All rows of each run in the database."""
    with sqlite3.connect(folder / "star_runs/trackers/trackio/ponder.db") as base:
        rows = base.execute("select run_id, step, metrics from metrics order by id").fetchall()
    for run in dict.fromkeys(run for run, _, _ in rows):
        yield [(step, name, value) for one, step, metrics in rows if one == run
               for name, value in json.loads(metrics).items()]


def of_mlflow(folder: Path) -> Iterator[Shown]:
    """Metrics and tables of each run that is not deleted."""
    with sqlite3.connect(folder / "star_runs/trackers/mlflow.db") as base:
        runs = base.execute("select run_uuid, artifact_uri from runs where "
                            "lifecycle_stage = 'active'").fetchall()
        for run, place in runs:
            shown: Shown = base.execute("select step, key, value from metrics where run_uuid = ?",
                                        (run,)).fetchall()
            for table in Path(place.removeprefix("file://")).glob("*/step_*.json"):
                shown.append((int(table.stem[5:]), table.parent.name,
                              json.loads(table.read_text())))
            yield shown


READERS: dict[str, Callable[[Path], Iterator[Shown]]] = {
    "wandb": of_wandb, "tensorboard": of_tensorboard, "trackio": of_trackio, "mlflow": of_mlflow}
PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio",
            "mlflow": "mlflow"}
