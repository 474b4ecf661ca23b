"""Jobs as processes of their own, by submitit; and what we do beyond it.

- All jobs are waited for, and each that failed is told of: Hydra ends a sweep at the first that is
  lost, and leaves the others running unseen.
- A job that was killed (memory, kill -9) is sent once more, and goes on from its last checkpoint in
  the same directory. One that was cancelled is not; one that Slurm requeues itself never ends here.
- A job runs a copy of the code that was made when it was sent.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
import time
from dataclasses import replace
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf

from ponder.config.errors import JobFailed, UserError, brief
from ponder.config.spine import register
from ponder.sweeps import follow, plan
from ponder.sweeps.launcher import Returned, Sweeping
from ponder.sweeps.plan import Planned
from ponder.sweeps.ranks import aside, join, speaker
from ponder.sweeps.record import process, write
from ponder.training import code_snapshot as snapshot

log = logging.getLogger(__name__)
KILLED = ("FAILED", "OUT_OF_MEMORY", "FINISHED")  # the last is submitit's word on this machine
CONSTRUCTOR = ("submitit_folder", "max_num_timeout")


class Submitted(Sweeping):
    """`self` is what a job runs: submitit pickles it, and again when the job is requeued."""

    def __init__(self, **params: Any) -> None:
        self.params: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value)
            else value for key, value in params.items()}

    def __call__(self, config: DictConfig, singletons: Any) -> JobReturn:
        """In each task of a job."""
        import submitit

        config = aside(config) if join() else config
        Singleton.set_state(singletons)
        setup_globals()
        register()
        return self.run(config, submitit.JobEnvironment().job_id)

    def checkpoint(self, *call: Any) -> Any:
        """What submitit puts back into the queue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *call)

    def work(self, todo: list[Planned]) -> Returned:
        executor = self._executor()
        if self.config.sweep.detach:
            self._sent(executor, todo)
            return {one.number: plan.returned([]) for one in todo}
        try:
            return self._wait(executor, todo)
        except KeyboardInterrupt:
            print(f"the jobs that were launched go on; {follow.looking(self.sweep)} shows them, "
                  f"with sweep.retry=failed it launches the others", file=sys.stderr)
            raise

    def room(self, jobs: int) -> int:
        """How many of so many jobs may be launched and not ended."""
        return jobs

    def _executor(self) -> Any:
        """submitit's, set up as `hydra.launcher` says. Keys that Hydra's schema lacks
        (`+hydra.launcher.nodelist=...`) reach it too.
        """
        import submitit

        name = self.place
        code = snapshot.freeze(self.sweep.resolve() / ".code") / "src"
        paths = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
        python = shlex.join(["env", f"PYTHONPATH={paths}", sys.executable])
        more = {f"{name}_{key}": value for key, value in self.params.items()
                if key == "max_num_timeout"}
        executor = submitit.AutoExecutor(folder=self.params["submitit_folder"], cluster=name,
                                         **{f"{name}_python": python}, **more)
        shared = set(OmegaConf.structured(BaseQueueConf))
        executor.update_parameters(**{key if key in shared else f"{name}_{key}": value
                                      for key, value in self.params.items()
                                      if key not in CONSTRUCTOR})
        return executor

    def _sent(self, executor: Any, batch: list[Planned]) -> list[Any]:
        """Launch jobs, all at once, and put them on record. What sbatch says is in the errors it
        ends with. Raises `UserError` where Slurm does not take the jobs.
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
        write(self.sweep, [replace(one.job, id=self._name(job.job_id))
                           for one, job in zip(batch, jobs, strict=True)])
        return jobs

    def _name(self, job: str) -> str:
        """What a job is found by: Slurm's id, or a process."""
        return job if self.place == "slurm" else process(int(job))

    def _wait(self, executor: Any, todo: list[Planned]) -> Returned:
        """Launch jobs as there is room, and hear what each returned."""
        returned: Returned = {}
        waiting: dict[int, tuple[Planned, Any]] = {}
        again, unsent = {one.number for one in todo}, list(todo)
        with follow.Follower(self.sweep, [one.job.directory for one in todo]) as follower:
            while unsent or waiting:
                free = self.room(len(todo)) - len(waiting)
                batch, unsent = unsent[:free], unsent[max(0, free):]
                for one, job in zip(batch, self._sent(executor, batch) if batch else [],
                                    strict=True):
                    waiting[one.number] = one, job
                for number, (one, job) in list(waiting.items()):
                    if not job.done():
                        continue
                    if number in again and _was_killed(job):
                        again.remove(number)
                        waiting[number] = one, self._sent(executor, [one])[0]
                        log.info(f"#{one.job.job} was killed; it goes on as job "
                                 f"{waiting[number][1].job_id}")
                        continue
                    returned[number] = self._heard(job, one)
                    del waiting[number]
                follower.look()
                time.sleep(0.2)
        return returned

    def _heard(self, job: Any, one: Planned) -> JobReturn:
        """What a job returned; for one that failed nothing, a line on stderr and a code."""
        try:
            found: JobReturn = speaker(job).result()
            error = found._return_value if found.status == JobStatus.FAILED else None
        except Exception as lost:  # no result, or one that cannot be read
            found, error = JobReturn(overrides=one.job.overrides), _about(job, lost)
        if error is None:
            return found
        plan.tell(one.job.job, one.job.overrides, error)
        self.codes.append(2 if isinstance(error, UserError) else 1)
        return plan.returned(one.job.overrides)  # the sweep goes on


def _was_killed(job: Any) -> bool:
    """Whether a job that is done has left no result and was not cancelled."""
    return not speaker(job).paths.result_pickle.exists() and job.state.startswith(KILLED)


def _about(job: Any, lost: Exception) -> JobFailed:
    """A line about a job that has left no result, or none of ours: the end of the traceback that
    submitit tells of, else its first line.
    """
    reason = [line for line in str(lost).splitlines() if line.strip()] or [repr(lost)]
    rules = [number for number, line in enumerate(reason) if not line.strip("-")]
    said = reason[rules[-1] - 1] if "trace" in reason[0] and len(rules) > 1 else reason[0]
    return JobFailed(f"{job.state}, without a result ({said.strip()[:160]}); "
                     f"its words: {job.paths.stderr}")
