"""Launchers: jobs one after another in this process, or as processes of their own by submitit.

Every launcher composes, checks, stores and records all jobs before it launches the first, and skips
what is done already or still running. Beyond what submitit does:

- All jobs are waited for and each failure gets one line. Hydra would end the sweep at the first
  lost job and leave the others running unseen.
- A job that was killed (memory, kill -9) is sent once more and continues from its last checkpoint.
  One that was cancelled is not; one that Slurm requeues itself never ends here.
- A job runs a copy of the code that was made when it was sent.
- The tasks of one job (`hydra.launcher.tasks_per_node=2`) are the ranks of one run. Rank 0 writes
  the run directory and requeues the job. If a rank is killed, srun ends the others (`SRUN`).
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf, open_dict

from ponder.config.errors import JobFailed, UserError, brief
from ponder.config.registry import PLUGINS, discover
from ponder.config.spine import register
from ponder.sweeps import follow, plan
from ponder.sweeps.jobs import append_jobs, process_name
from ponder.sweeps.plan import PlannedJob
from ponder.training import run_directory

log = logging.getLogger(__name__)
Returns = dict[int, JobReturn]  # by the number of the job
KILLED = ("FAILED", "OUT_OF_MEMORY", "FINISHED")  # the last is submitit's state on this machine
CONSTRUCTOR = ("submitit_folder", "max_num_timeout")
SRUN = ("--kill-on-bad-exit=1", "--wait=60")
PORTS = range(20_000, 32_000)  # below the ports that systems hand out by themselves


class SweepLauncher(Launcher):
    """A launcher of planned jobs; a subclass runs them in `run_all`."""

    place = "here"
    config: DictConfig
    task_function: Any
    hydra_context: Any

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int,
               ) -> Sequence[JobReturn]:
        """One job for each list of overrides; returns when all have ended."""
        setup_globals()
        detach, sweep = self.config.sweep.detach, self.sweep
        if detach and self.place != "slurm":
            raise UserError("sweep.detach=true: found jobs that are launched one by one on this "
                            "machine; legal: on Slurm, or false")
        planned = plan.plan_jobs(self.config, self.hydra_context.config_loader, job_overrides,
                                 initial_job_idx, self.place)
        self.exit_codes.extend(planned.exit_codes)
        plan.store_configs(sweep, planned.todo)
        append_jobs(sweep, [one.job for one in planned.todo])
        for line in plan.plan_messages(sweep, planned, self.place):
            log.info(line)
        returns = planned.returns | (self.run_all(planned.todo) if planned.todo else {})
        if detach:
            returns |= {number: plan.job_return([]) for number in planned.active}
            print(f"the jobs go on by themselves; {follow.show_command(sweep)} shows them")
        else:
            returns |= follow.wait_for(sweep, planned.active, self.exit_codes)
            follow.print_lost(sweep, [one.job.directory for one in planned.todo])
        return [returns[number] for number in sorted(returns)]

    @property
    def sweep(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir))

    @property
    def exit_codes(self) -> list[int]:
        """The list from which `cli.main` takes the exit code of the program."""
        return self.task_function.keywords["codes"]

    def run_job(self, config: DictConfig, job_id: Any) -> JobReturn:
        """Run a composed job in this process.

        It gets a copy, because Hydra makes what it runs read-only and a requeued job is pickled
        again.
        """
        config = copy.deepcopy(config)
        with open_dict(config):
            config.hydra.job.id = job_id
        return run_job(hydra_context=self.hydra_context, task_function=self.task_function,
                       config=config, job_dir_key="hydra.sweep.dir",
                       job_subdir_key="hydra.sweep.subdir")

    def run_all(self, todo: list[PlannedJob]) -> Returns:
        """Run the jobs and return the result of each."""
        raise NotImplementedError


class SequentialLauncher(SweepLauncher):
    """Runs jobs one after another in this process."""

    def run_all(self, todo: list[PlannedJob]) -> Returns:
        returns = {}
        for one in todo:
            append_jobs(self.sweep, [replace(one.job, id=process_name())])
            returns[one.number] = self.run_job(one.config, one.number)
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns


class SubmititLauncher(SweepLauncher):
    """Runs jobs by submitit, which pickles this object with each job and again when it requeues."""

    def __init__(self, **params: Any) -> None:
        self.params: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value)
            else value for key, value in params.items()}

    def __call__(self, config: DictConfig, singletons: Any) -> JobReturn:
        """Run a job; called in each of its tasks."""
        import submitit

        discover(config.get("plugins") or ())
        config = without_outputs(config) if join_ranks() else config
        Singleton.set_state(singletons)
        setup_globals()
        register()
        return self.run_job(config, submitit.JobEnvironment().job_id)

    def checkpoint(self, *call: Any) -> Any:
        """What submitit puts back into the queue when a job is preempted or out of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *call)

    def run_all(self, todo: list[PlannedJob]) -> Returns:
        executor = self._executor()
        if self.config.sweep.detach:
            self._submit(executor, todo)
            return {one.number: plan.job_return([]) for one in todo}
        try:
            return self._submit_and_wait(executor, todo)
        except KeyboardInterrupt:
            print(f"the jobs that were launched go on; {follow.show_command(self.sweep)} shows "
                  "them, with sweep.retry=failed it launches the others", file=sys.stderr)
            raise

    def slots(self, jobs: int) -> int:
        """How many of `jobs` jobs may run or wait in a queue at the same time."""
        return jobs

    def _executor(self) -> Any:
        """submitit's executor, whose jobs import the copied code. Keys that Hydra's schema lacks
        (`+hydra.launcher.nodelist=...`) reach it too.
        """
        import submitit

        name = self.place
        code = run_directory.freeze_code(self.sweep.resolve() / ".code") / "src"
        paths = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
        plugins = f"{PLUGINS}={os.environ.get(PLUGINS, '')}"  # before the job is unpickled
        python = shlex.join(["env", f"PYTHONPATH={paths}", plugins, sys.executable])
        options = {f"{name}_{key}": value for key, value in self.params.items()
                   if key == "max_num_timeout"}
        executor = submitit.AutoExecutor(folder=self.params["submitit_folder"], cluster=name,
                                         **{f"{name}_python": python}, **options)
        shared = {*OmegaConf.structured(BaseQueueConf)}
        executor.update_parameters(**{key if key in shared else f"{name}_{key}": value
                                      for key, value in self.params.items()
                                      if key not in CONSTRUCTOR})
        return executor

    def _submit(self, executor: Any, batch: list[PlannedJob]) -> list[Any]:
        """Submit jobs at once, record their ids, and return submitit's jobs.

        Raises `UserError` where Slurm refuses the jobs; what sbatch printed is part of the error.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        calls = [(one.config, Singleton.get_state()) for one in batch]
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                jobs = executor.map_array(self, *zip(*calls, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            reason = brief(error, 200)
            raise UserError(f"hydra/launcher={self.place}: the jobs were refused ({reason}); "
                            "legal: hydra.launcher.partition, timeout_min, gpus_per_node, "
                            "cpus_per_task, mem_gb as `sinfo` shows them") from None
        ids = [job.job_id if self.place == "slurm" else process_name(int(job.job_id))
               for job in jobs]
        append_jobs(self.sweep, [replace(one.job, id=job_id)
                                 for one, job_id in zip(batch, ids, strict=True)])
        return jobs

    def _submit_and_wait(self, executor: Any, todo: list[PlannedJob]) -> Returns:
        """Submit jobs as slots get free, and return the result of each."""
        returns: Returns = {}
        running: dict[int, tuple[PlannedJob, Any]] = {}
        resendable, unsent = {one.number for one in todo}, list(todo)
        with follow.Follower(self.sweep, [one.job.directory for one in todo]) as follower:
            while unsent or running:
                free = max(0, self.slots(len(todo)) - len(running))
                batch, unsent = unsent[:free], unsent[free:]
                for one, job in zip(batch, self._submit(executor, batch) if batch else [],
                                    strict=True):
                    running[one.number] = one, job
                for number, (one, job) in list(running.items()):
                    if not job.done():
                        continue
                    if number in resendable and _was_killed(job):
                        resendable.remove(number)
                        running[number] = one, self._submit(executor, [one])[0]
                        log.info(f"#{one.job.job} was killed; it continues as job "
                                 f"{running[number][1].job_id}")
                        continue
                    returns[number] = self._result(job, one)
                    del running[number]
                follower.refresh()
                time.sleep(0.2)
        return returns

    def _result(self, job: Any, one: PlannedJob) -> JobReturn:
        """The result of a job. A failed one gets a line on stderr, an exit code and no result."""
        try:
            result: JobReturn = deciding_task(job).result()
            error = result._return_value if result.status == JobStatus.FAILED else None
        except Exception as lost:  # no result, or one that cannot be read
            result, error = JobReturn(overrides=one.job.overrides), _describe_loss(job, lost)
        if error is None:
            return result
        plan.print_error(one.job.job, one.job.overrides, error)
        self.exit_codes.append(2 if isinstance(error, UserError) else 1)
        return plan.job_return(one.job.overrides)  # the sweep goes on


def _was_killed(job: Any) -> bool:
    """Whether a job that has ended left no result and was not cancelled."""
    return not deciding_task(job).paths.result_pickle.exists() and job.state.startswith(KILLED)


def _describe_loss(job: Any, lost: Exception) -> JobFailed:
    """A line about a job without a readable result: the end of the traceback that submitit found,
    or else the first line of its error.
    """
    lines = [line for line in str(lost).splitlines() if line.strip()] or [repr(lost)]
    rules = [number for number, line in enumerate(lines) if not line.strip("-")]
    reason = lines[rules[-1] - 1] if "trace" in lines[0] and len(rules) > 1 else lines[0]
    return JobFailed(f"{job.state}, without a result ({reason.strip()[:160]}); "
                     f"its stderr: {job.paths.stderr}")


# --- several tasks of one job --------------------------------------------------------------------


def join_ranks() -> bool:
    """In a job of several tasks, set the environment variables that torch.distributed reads.

    Returns whether this task is not the first one.
    """
    import submitit

    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return False
    os.environ.update(
        RANK=str(job.global_rank), WORLD_SIZE=str(job.num_tasks), LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes), MASTER_ADDR=job.hostnames[0],
        MASTER_PORT=str(rendezvous_port(int(job.raw_job_id))))
    if job.global_rank == 0:
        return False
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))  # rank 0 requeues the job for all
    return True


def without_outputs(config: DictConfig) -> DictConfig:
    """A copy of a configuration with which a rank other than 0 writes nothing into the run
    directory.
    """
    config = copy.deepcopy(config)
    with open_dict(config):
        config.hydra.output_subdir = None
        config.hydra.job_logging = {"version": 1, "root": None, "disable_existing_loggers": False}
    return config


def rendezvous_port(job_id: int) -> int:
    """The port at which the ranks of a job meet; jobs with neighbouring ids have different ones."""
    return PORTS[job_id % len(PORTS)]


def deciding_task(job: Any) -> Any:
    """The task whose result is that of the job: the first, or, if that one left none, a task that
    failed and thereby ended the first.
    """
    first, *others = (job.task(number) for number in range(job.num_tasks))
    if first.paths.result_pickle.exists():
        return first
    return next((other for other in others if other.paths.result_pickle.exists()
                 and other.result().status == JobStatus.FAILED), first)
