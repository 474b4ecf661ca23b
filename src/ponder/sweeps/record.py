"""sweep.jsonl, in the directory of a sweep: its jobs, a line whenever one is sent."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

RECORD = "sweep.jsonl"


@dataclass(frozen=True)
class Job:
    """A job as it was sent.

    directory: below that of the sweep. launcher: the words that chose where it runs. driver: the
    process that sends it. place: slurm, local or here; id: of Slurm's job, elsewhere of a process,
    and None until it has been launched.
    """

    job: int
    overrides: list[str]
    config_hash: str
    directory: str
    launcher: list[str] = field(default_factory=list)
    place: str = "here"
    driver: str = ""
    id: str | None = None
    sent: str = ""

    @property
    def words(self) -> str:
        return " ".join(self.overrides)


def write(sweep: Path, jobs: Iterable[Job]) -> None:
    """Put lines behind those there are, all at once: several sweeps may share a directory."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    lines = [json.dumps({**asdict(job), "sent": now}) + "\n" for job in jobs]
    with (sweep / RECORD).open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def read(sweep: Path) -> list[Job]:
    """The jobs of a sweep, each as it was sent last, in the order they were sent first.

    A line that cannot be read is passed over. None where there is no record.
    """
    path, jobs = sweep / RECORD, dict[str, Job]()
    names = {item.name for item in fields(Job)}
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        try:
            job = Job(**{key: value for key, value in json.loads(line).items() if key in names})
        except (ValueError, TypeError, AttributeError):
            continue
        jobs[job.directory] = job
    return list(jobs.values())


def process(pid: int | None = None) -> str:
    """A process by machine, number and time of birth; this one where no number is given."""
    import psutil

    pid = pid or os.getpid()
    try:
        born = psutil.Process(pid).create_time()
    except psutil.Error:
        born = 0.0
    return f"{socket.gethostname()}:{pid}:{born:.2f}"


def lives(name: str) -> bool | None:
    """Whether a process is alive; None where it is of another machine."""
    host, pid, _ = name.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    return process(int(pid)) == name
