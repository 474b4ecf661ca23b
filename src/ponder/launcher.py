"""What Ponder's launchers do beyond submitit's: they wait for every job, tell of each that failed,
and send a job again that was killed.

- Hydra ends a sweep at the first job that is lost, and leaves the others running unseen.
- A job that starts again is composed again: the time in the name of its directory is that at which
  the sweep was sent.
- A job that was killed (memory, kill -9) is sent once more, and goes on from its last checkpoint in
  the same directory. One that was cancelled is not; one that Slurm requeues itself never ends here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf

from ponder.errors import JobFailed, UserError
from ponder.ranks import join, speaker

log = logging.getLogger(__name__)
KILLED = ("FAILED", "OUT_OF_MEMORY", "FINISHED")  # the last is submitit's word on this machine
CONSTRUCTOR = ("submitit_folder", "max_num_timeout")


class Launcher(BaseSubmititLauncher):
    """`self` is what a job runs: submitit pickles it, and again when the job is requeued."""

    def __call__(self, words: list[str], *rest: Any) -> JobReturn:
        """In each task of a job."""
        return super().__call__([*words, *join()], *rest)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int,
               ) -> Sequence[JobReturn]:
        """One job for each list of words; returns when all have ended."""
        assert self.config is not None
        self._settle_time(list(job_overrides[0]))
        directory = Path(str(self.config.hydra.sweep.dir))
        directory.mkdir(parents=True, exist_ok=True)
        calls = [(list(words), "hydra.sweep.dir", number, f"job_id_for_{number}",
                  Singleton.get_state()) for number, words in enumerate(job_overrides,
                                                                        initial_job_idx)]
        log.info(f"{len(calls)} jobs for {self._EXECUTOR}; results: {directory}")
        for words, _, number, *_ in calls:
            log.info(f"\t#{number} : {' '.join(filter_overrides(words))}")
        executor = self._executor()
        return self._wait(executor, calls, self._sent(executor, calls))

    def send(self, executor: Any, calls: list[tuple]) -> list[Any]:
        """A job for each call, all at once. What sbatch says is in the errors it ends with."""
        with contextlib.redirect_stderr(io.StringIO()):
            return executor.map_array(self, *zip(*calls, strict=True))

    def _settle_time(self, words: list[str]) -> None:
        """Read the clock now for the names of directories, and let every job know."""
        assert self.config is not None and self.hydra_context is not None
        first = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        first.hydra.job.num = 0
        assert first.hydra.sweep.subdir
        OmegaConf.copy_cache(first, self.config)

    def _executor(self) -> Any:
        """submitit's, set up as `hydra.launcher` says. Keys that Hydra's schema lacks
        (`+hydra.launcher.nodelist=...`) reach it too.
        """
        import submitit

        name = self._EXECUTOR
        timeouts = {f"{name}_{key}": value for key, value in self.params.items()
                    if key == "max_num_timeout"}
        executor = submitit.AutoExecutor(folder=self.params["submitit_folder"], cluster=name,
                                         **timeouts)
        shared = set(OmegaConf.structured(BaseQueueConf))
        executor.update_parameters(**{key if key in shared else f"{name}_{key}": value
                                      for key, value in self.params.items()
                                      if key not in CONSTRUCTOR})
        return executor

    def _sent(self, executor: Any, calls: list[tuple]) -> list[Any]:
        """Raises `UserError` where Slurm does not take the jobs."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return self.send(executor, calls)
        except (FailedJobError, FailedSubmissionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"hydra/launcher={self._EXECUTOR}: the jobs were refused ({reason}); "
                            "legal: hydra.launcher.partition, timeout_min, gpus_per_node, "
                            "cpus_per_task, mem_gb as `sinfo` shows them") from None

    def _wait(self, executor: Any, calls: list[tuple], jobs: list[Any]) -> list[JobReturn]:
        """What each job returned; for one that failed nothing, a line on stderr and a code."""
        returned: dict[int, JobReturn] = {}
        waiting, again = dict(enumerate(jobs)), set(range(len(jobs)))
        while waiting:
            for place, job in list(waiting.items()):
                if not job.done():
                    continue
                if place in again and _was_killed(job):
                    again.remove(place)
                    waiting[place], = self._sent(executor, [calls[place]])
                    log.info(f"#{calls[place][2]} was killed; it goes on as job "
                             f"{waiting[place].job_id}")
                    continue
                returned[place] = self._heard(job, calls[place])
                del waiting[place]
            time.sleep(0.2)
        return [returned[place] for place in range(len(jobs))]

    def _heard(self, job: Any, call: tuple) -> JobReturn:
        """What one job returned."""
        try:
            found: JobReturn = speaker(job).result()
            error = found._return_value if found.status == JobStatus.FAILED else None
        except Exception as lost:  # no result, or one that cannot be read
            found, error = JobReturn(overrides=call[0]), _about(job, lost)
        if error is None:
            return found
        print(f"error: job {call[2]} ({' '.join(filter_overrides(call[0]))}): "
              f"{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        self.task_function.keywords["codes"].append(  # type: ignore[union-attr]
            2 if isinstance(error, UserError) else 1)
        found.status, found.return_value = JobStatus.COMPLETED, None  # the sweep goes on
        return found


def _was_killed(job: Any) -> bool:
    """Whether a job that is done has left no result and was not cancelled."""
    return not speaker(job).paths.result_pickle.exists() and job.state.startswith(KILLED)


def _about(job: Any, lost: Exception) -> JobFailed:
    """A line about a job that has left no result."""
    reason = str(lost).strip().splitlines()
    return JobFailed(f"{job.state}, without a result ({reason[0][:160] if reason else lost!r}); "
                     f"its words: {job.paths.stderr}")
