"""The jobs of a sweep: the record of what was sent (sweep.jsonl), and the state of each job.

`summary.json` means done and `error.txt` means failed, whatever the scheduler says. Only for jobs
with neither file is Slurm, or the process table, asked.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ponder.config.errors import ERROR, UserError
from ponder.reports.tails import error_message, last_metrics, tail

RECORD = "sweep.jsonl"
ACTIVE = ("running", "queued", "elsewhere")
LOST = ("failed", "vanished")
SLURM_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
                 "RESV_DEL_HOLD", "SPECIAL_EXIT", "PREEMPTED", "STOPPED"}
Queue = dict[str, str] | None  # Slurm job id -> state; None where Slurm cannot be asked


@dataclass(frozen=True)
class Job:
    """One job as it was sent; a line of sweep.jsonl has these keys.

    job: its number. overrides: its arguments. directory: below that of the sweep. launcher: the
    arguments that chose where it runs. driver: the process that sent it. place: slurm, local or
    here. id: Slurm's job id, or the process that runs it; None before the launch. inputs: the
    hashes of the files that it reads; earlier versions noted none.
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
    inputs: dict[str, str] = field(default_factory=dict)


def append_jobs(sweep: Path, jobs: Iterable[Job]) -> None:
    """Append a line per job in one write, because several sweeps may share a directory."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    lines = [json.dumps({**asdict(job), "sent": now}) + "\n" for job in jobs]
    with (sweep / RECORD).open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep in the order they were first sent, each as it was last sent.

    Unreadable lines are skipped; without a sweep.jsonl the list is empty.
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


def find_sweep(directory: str | None) -> Path:
    """The sweep in `directory`, or the newest one in star_runs if that is None.

    Raises `UserError` where there is no sweep.
    """
    if directory is not None:
        sweep = Path(directory)
        if not read_jobs(sweep):
            raise UserError(f"sweep.dir={directory}: found no {RECORD} with jobs there; legal: the "
                            "directory of a sweep")
        return sweep
    records = sorted(Path("star_runs").glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"sweep.dir=null: found no star_runs/*/{RECORD}; legal: the directory of a "
                        "sweep")
    return records[-1].parent


def process_name(pid: int | None = None) -> str:
    """`host:pid:start time` of a process, by default this one; unique even when pids are reused."""
    import psutil

    pid = pid or os.getpid()
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return f"{socket.gethostname()}:{pid}:{started:.2f}"


def is_alive(name: str) -> bool | None:
    """Whether the process with this name is running; None if it is on another machine."""
    host, pid, _ = name.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    return process_name(int(pid)) == name


# --- states --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobState:
    """A job and its status: done, failed, running, queued, vanished (no result and no process), or
    elsewhere (on a machine that cannot be asked from here).

    step: the last one logged; last_step: the expected last one; rate: steps per second.
    """

    job: Job
    status: str
    step: int | None = None
    last_step: int | None = None
    rate: float | None = None
    accuracy: float | None = None
    error: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Training time left, in seconds; None unless the job is running at a known rate."""
        known = self.step is not None and self.last_step is not None
        if self.status != "running" or not self.rate or not known:
            return None
        return max(0, (self.last_step or 0) - (self.step or 0)) / self.rate


def job_states(sweep: Path, jobs: Sequence[Job]) -> list[JobState]:
    """The state of each job; Slurm is asked once for all of them."""
    queue: Queue = _slurm_queue() if any(job.place == "slurm" for job in jobs) else {}
    return [_job_state(sweep, job, queue) for job in jobs]


def _job_state(sweep: Path, job: Job, queue: Queue) -> JobState:
    directory = sweep / job.directory
    summary = read_summary(directory)
    if summary is not None:
        return JobState(job, "done", summary.get("steps"), summary.get("steps"), None,
                        summary.get("accuracy"))
    status, error = _process_status(job, queue), ""
    if (directory / ERROR).is_file():
        status, error = "failed", error_message(directory / ERROR)
    elif status == "vanished":
        error = _last_stderr_line(sweep, job)
    last = last_metrics(directory / "metrics.jsonl")
    return JobState(job, status, last.get("step"), last.get("last_step"),
                    last.get("steps_per_second"), last.get("accuracy"), error)


def lost_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep that failed or vanished."""
    return [state.job for state in job_states(sweep, read_jobs(sweep)) if state.status in LOST]


def read_summary(directory: Path) -> dict[str, Any] | None:
    """summary.json of a run that is done; None of any other run."""
    try:
        summary = json.loads((directory / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("status") == "done" else None


def _process_status(job: Job, queue: Queue) -> str:
    """running, queued, elsewhere or vanished, for a job without a result."""
    if job.id is None:  # not launched yet: the process that will launch it counts
        return {True: "queued", False: "vanished", None: "elsewhere"}[is_alive(job.driver)]
    if job.place != "slurm":
        return {True: "running", False: "vanished", None: "elsewhere"}[is_alive(job.id)]
    if queue is None:
        return "elsewhere"
    state = queue.get(job.id)
    return "vanished" if state is None else "queued" if state in SLURM_WAITING else "running"


def _slurm_queue() -> Queue:
    """This user's jobs in Slurm's queue."""
    try:
        output = subprocess.run(["squeue", "--noheader", "--array", "--format=%i %T",
                                 f"--user={os.getuid()}"], capture_output=True, text=True,
                                timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in output.splitlines() if " " in line)


def _last_stderr_line(sweep: Path, job: Job) -> str:
    """The last line on stderr of a job that vanished, which may be Slurm's."""
    name = str(job.id).split(":")[1 if ":" in str(job.id) else 0]
    lines = tail(sweep / ".submitit" / name / f"{name}_0_log.err")
    return lines[-1].strip() if lines else ""
