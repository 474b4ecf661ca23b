"""The launchers `here`, `local` and `slurm`, where Hydra looks for launchers."""

from __future__ import annotations

import math
import os
from typing import Any

from ponder.sweeps.launch import SRUN, SequentialLauncher, SubmititLauncher


class Here(SequentialLauncher):
    """All runs of a sweep in this process, one after another."""


class Slurm(SubmititLauncher):
    """All runs of a sweep as one Slurm job array."""

    place = "slurm"

    def _executor(self) -> Any:
        self.params.setdefault("srun_args", list(SRUN))
        return super()._executor()


class Local(SubmititLauncher):
    """As many runs at once as this machine has cores for. Each sees the GPUs that the sweep sees,
    unless `gpus_per_node` says how many.
    """

    place = "local"
    visible_gpus: str | None = None

    def __call__(self, *call: Any) -> Any:
        if self.params.get("gpus_per_node") is None:  # submitit has hidden all GPUs
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if self.visible_gpus is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_gpus
        return super().__call__(*call)

    def slots(self, jobs: int) -> int:
        self.visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        per_run = (self.params.get(key) or 1 for key in ("cpus_per_task", "tasks_per_node"))
        return max(1, len(os.sched_getaffinity(0)) // math.prod(per_run))
