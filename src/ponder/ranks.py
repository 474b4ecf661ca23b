"""Several tasks of one job (`hydra.launcher.tasks_per_node=2`) are the processes of one run.

Slurm, or submitit on this machine, starts the same job once for every task. What torchrun would
tell each of them is read out of submitit's environment. The first task writes the run directory and
puts the job back into the queue; the others follow. None outlives the rest for long: srun ends all
when one was killed, or a minute after one has left (`SRUN`).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from typing import Any

from hydra.core.utils import JobStatus

FOLLOWER = ("hydra.output_subdir=null", "hydra/job_logging=none")  # writes nothing
SRUN = ("--kill-on-bad-exit=1", "--wait=60")
PORTS = range(20_000, 32_000)  # below those that systems give to whoever asks


def join() -> list[str]:
    """In a job of several tasks: what torch wants to know of the others goes into the environment.
    The words that keep a task which follows away from the run directory; none for the first.
    """
    import submitit

    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return []
    os.environ.update(
        RANK=str(job.global_rank), WORLD_SIZE=str(job.num_tasks), LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes), MASTER_ADDR=job.hostnames[0],
        MASTER_PORT=str(port(int(job.raw_job_id))))
    if job.global_rank == 0:
        return []
    signal.signal(signal.SIGUSR2, _leave)
    return [*FOLLOWER, f"hydra.sweep.dir={tempfile.mkdtemp()}"]


def port(job: int) -> int:
    """Where the tasks of a job meet; jobs sent one after another meet in different places."""
    return PORTS[job % len(PORTS)]


def _leave(*_: object) -> None:
    """In a task that follows: the first one puts the job back, for all."""
    sys.exit(0)


def speaker(job: Any) -> Any:
    """The task of a job that is done which tells how it ended: the first; where that has left no
    result, another that failed, for want of which the first came to its end.
    """
    first, *others = (job.task(number) for number in range(job.num_tasks))
    if first.paths.result_pickle.exists():
        return first
    return next((other for other in others if other.paths.result_pickle.exists()
                 and other.result().status == JobStatus.FAILED), first)
