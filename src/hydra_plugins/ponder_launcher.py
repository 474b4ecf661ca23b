"""The launchers `slurm` and `local`, where Hydra looks for launchers."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from ponder.launcher import Launcher
from ponder.ranks import SRUN


class Slurm(Launcher):
    """All runs of a sweep as one job array."""

    _EXECUTOR = "slurm"

    def _executor(self) -> Any:
        self.params.setdefault("srun_args", list(SRUN))
        return super()._executor()


class Local(Launcher):
    """No more runs at once than there are cores for, each seeing the GPUs that its sweep sees,
    unless `gpus_per_node` says how many.
    """

    _EXECUTOR = "local"
    gpus: str | None = None

    def __call__(self, *call: Any) -> Any:
        if self.params.get("gpus_per_node") is None:  # submitit has hidden them all
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if self.gpus is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        return super().__call__(*call)

    def send(self, executor: Any, calls: list[tuple]) -> list[Any]:
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        asked = (self.params.get(key) or 1 for key in ("cpus_per_task", "tasks_per_node"))
        room = max(1, len(os.sched_getaffinity(0)) // math.prod(asked))
        jobs: list[Any] = []
        for call in calls:
            while sum(not job.done() for job in jobs) >= room:
                time.sleep(0.1)
            jobs.append(executor.submit(self, *call))
        return jobs
