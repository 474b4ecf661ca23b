"""How the jobs of a sweep stand, from what they leave on disk.

`summary.json` says done, `error.txt` failed: no scheduler calls a job by these names. Slurm, or the
process table, is asked about the others alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import ERROR
from ponder.reports.records import finite
from ponder.sweeps.record import Job, lives, read

ALIVE = ("running", "queued", "elsewhere")
LOST = ("failed", "vanished")
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
           "SPECIAL_EXIT", "PREEMPTED", "STOPPED"}
TAIL = 1 << 14  # bytes of metrics.jsonl that are read first
Queue = dict[str, str] | None  # id -> what Slurm says; None where it cannot be asked


@dataclass(frozen=True)
class State:
    """A job and how it stands: done, failed, running, queued, vanished (neither an end nor a
    process), or elsewhere (on a machine that cannot be asked from here).

    step: the last one logged; end: the last one expected; rate: steps a second.
    """

    job: Job
    name: str
    step: int | None = None
    end: int | None = None
    rate: float | None = None
    accuracy: float | None = None
    error: str = ""

    @property
    def left(self) -> float | None:
        """Seconds of training that are left."""
        if self.name != "running" or not self.rate or self.step is None or self.end is None:
            return None
        return max(0, self.end - self.step) / self.rate


def states(sweep: Path, jobs: Sequence[Job]) -> list[State]:
    """How each job stands; Slurm is asked once for all."""
    queue: Queue = _queue() if any(job.place == "slurm" for job in jobs) else {}
    return [state(sweep, job, queue) for job in jobs]


def state(sweep: Path, job: Job, queue: Queue) -> State:
    directory = sweep / job.directory
    summary = ending(directory)
    if summary is not None:
        return State(job, "done", summary.get("steps"), summary.get("steps"), None,
                     summary.get("accuracy"))
    name, error = _process(job, queue), ""
    if (directory / ERROR).is_file():
        name, error = "failed", _message(directory / ERROR)
    elif name == "vanished":
        error = _last_words(sweep, job)
    last = _last_numbers(directory / "metrics.jsonl")
    return State(job, name, last.get("step"), last.get("last_step"), last.get("steps_per_second"),
                 last.get("accuracy"), error)


def lost(sweep: Path) -> list[Job]:
    """The jobs of a sweep that failed or vanished."""
    return [state.job for state in states(sweep, read(sweep)) if state.name in LOST]


def ending(directory: Path) -> dict[str, Any] | None:
    """The summary of a run that is done."""
    try:
        summary = json.loads((directory / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("status") == "done" else None


def _process(job: Job, queue: Queue) -> str:
    """running, queued, elsewhere or vanished: of a job that has not come to an end."""
    if job.id is None:
        return {True: "queued", False: "vanished", None: "elsewhere"}[lives(job.driver)]
    if job.place != "slurm":
        return {True: "running", False: "vanished", None: "elsewhere"}[lives(job.id)]
    if queue is None:
        return "elsewhere"
    said = queue.get(job.id)
    return "vanished" if said is None else "queued" if said in WAITING else "running"


def _queue() -> Queue:
    """What Slurm has of this user."""
    try:
        said = subprocess.run(["squeue", "--noheader", "--array", "--format=%i %T",
                               f"--user={os.getuid()}"], capture_output=True, text=True, timeout=60,
                              check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line)


def _last_numbers(path: Path) -> dict[str, Any]:
    """The last value of each number that a table shows; {} before the first line."""
    wanted, found = ("step", "last_step", "steps_per_second", "accuracy"), dict[str, Any]()
    try:
        with path.open("rb") as file:
            size, length = os.fstat(file.fileno()).st_size, TAIL
            while True:
                file.seek(max(0, size - length))
                found = _last(file.read().splitlines(), wanted)
                if len(found) == len(wanted) or length >= min(size, TAIL * 64):
                    return found
                length *= 8
    except OSError:
        return found


def _last(lines: Iterable[bytes], wanted: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in reversed(list(lines)):
        try:
            content = json.loads(line)
        except ValueError:  # the first line of a tail may be half a one
            continue
        for name in wanted:
            if isinstance(content, dict) and name not in found and finite(content.get(name)):
                found[name] = content[name]
        if len(found) == len(wanted):
            break
    return found


def _lines(path: Path) -> list[str]:
    """The last lines of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode("utf-8", "replace").rstrip().split("\n")
    except OSError:
        return []


def _message(path: Path) -> str:
    """What stands behind the frames of a traceback, in one line."""
    said: list[str] = []
    for line in reversed(_lines(path)):
        if said and line.startswith((" ", "Traceback")):
            break
        said.insert(0, line.strip())
    return " ".join(said)[:300]


def _last_words(sweep: Path, job: Job) -> str:
    """What a job that vanished, or Slurm in its place, said last on stderr."""
    name = str(job.id).split(":")[1 if ":" in str(job.id) else 0]
    lines = _lines(sweep / ".submitit" / name / f"{name}_0_log.err")
    return lines[-1].strip() if lines else ""
