"""Several tasks of one job (`hydra.launcher.tasks_per_node=2`) are the processes of one run.

Slurm, or submitit on this machine, starts the same job once for every task. What torchrun would
tell each of them is read out of submitit's environment. The first task writes the run directory and
puts the job back into the queue; the others follow. None outlives the rest for long: srun ends all
when one was killed, or a minute after one has left (`SRUN`).
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import tempfile
from typing import Any

from hydra.core.utils import JobStatus
from omegaconf import DictConfig, open_dict

SRUN = ("--kill-on-bad-exit=1", "--wait=60")
PORTS = range(20_000, 32_000)  # below those that systems give to whoever asks


def join() -> bool:
    """In a job of several tasks: what torch wants to know of the others goes into the environment.
    Whether this task follows another.
    """
    import submitit

    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return False
    os.environ.update(
        RANK=str(job.global_rank), WORLD_SIZE=str(job.num_tasks), LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes), MASTER_ADDR=job.hostnames[0],
        MASTER_PORT=str(port(int(job.raw_job_id))))
    if job.global_rank == 0:
        return False
    signal.signal(signal.SIGUSR2, _leave)
    return True


def aside(config: DictConfig) -> DictConfig:
    """A configuration that keeps a task which follows away from the run's directory."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.hydra.output_subdir = None
        config.hydra.job_logging = {"version": 1, "root": None, "disable_existing_loggers": False}
        config.hydra.sweep.dir = tempfile.mkdtemp()
    return config


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
