"""What every launcher does with a sweep, and the one that runs its jobs here, one after another.

All jobs are composed, checked, frozen and put on record before the first is launched; what is done
already, or goes on, is not launched again.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from ponder.config.errors import UserError
from ponder.sweeps import follow, plan
from ponder.sweeps.plan import Planned
from ponder.sweeps.record import process, write

log = logging.getLogger(__name__)
Returned = dict[int, JobReturn]  # by number


class Sweeping(Launcher):
    """A launcher of planned jobs; `work` is what each does its own way."""

    place = "here"
    config: DictConfig
    task_function: Any
    hydra_context: Any

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int,
               ) -> Sequence[JobReturn]:
        """One job for each list of words; returns when all have ended."""
        setup_globals()
        detach, sweep = self.config.sweep.detach, self.sweep
        if detach and self.place != "slurm":
            raise UserError("sweep.detach=true: found jobs that are launched one by one on this "
                            "machine; legal: on Slurm, or false")
        found = plan.plan(self.config, self.hydra_context.config_loader, job_overrides,
                          initial_job_idx, self.place)
        self.codes.extend(found.codes)
        plan.freeze(sweep, found.todo)
        write(sweep, [one.job for one in found.todo])
        for line in plan.said(sweep, found, self.place):
            log.info(line)
        returned = found.known | (self.work(found.todo) if found.todo else {})
        if detach:
            returned |= {number: plan.returned([]) for number in found.going}
            print(f"the jobs go on by themselves; {follow.looking(sweep)} shows them")
        else:
            returned |= follow.wait_for(sweep, found.going, self.codes)
            follow.closing(sweep, [one.job.directory for one in found.todo])
        return [returned[number] for number in sorted(returned)]

    @property
    def sweep(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir))

    @property
    def codes(self) -> list[int]:
        """Where the door hears how jobs have ended."""
        return self.task_function.keywords["codes"]

    def run(self, config: DictConfig, job: Any) -> JobReturn:
        """Do a job that was composed before, under the id `job`, in this process.

        Of a copy, as Hydra seals what it runs, and a requeued job is pickled once more.
        """
        config = copy.deepcopy(config)
        with open_dict(config):
            config.hydra.job.id = job
        return run_job(hydra_context=self.hydra_context, task_function=self.task_function,
                       config=config, job_dir_key="hydra.sweep.dir",
                       job_subdir_key="hydra.sweep.subdir")

    def work(self, todo: list[Planned]) -> Returned:
        raise NotImplementedError


class OneByOne(Sweeping):
    """Runs here, one after another."""

    def work(self, todo: list[Planned]) -> Returned:
        returned = {}
        for one in todo:
            write(self.sweep, [replace(one.job, id=process())])
            returned[one.number] = self.run(one.config, one.number)
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returned
