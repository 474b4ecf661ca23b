"""The launchers `here`, `local` and `slurm`, where Hydra looks for launchers."""

from __future__ import annotations

import math
import os
from typing import Any

from ponder.sweeps.launcher import OneByOne
from ponder.sweeps.ranks import SRUN
from ponder.sweeps.submitted import Submitted


class Here(OneByOne):
    """All runs of a sweep here, one after another."""


class Slurm(Submitted):
    """All runs of a sweep as one job array."""

    place = "slurm"

    def _executor(self) -> Any:
        self.params.setdefault("srun_args", list(SRUN))
        return super()._executor()


class Local(Submitted):
    """No more runs at once than there are cores for, each seeing the GPUs that its sweep sees,
    unless `gpus_per_node` says how many.
    """

    place = "local"
    gpus: str | None = None

    def __call__(self, *call: Any) -> Any:
        if self.params.get("gpus_per_node") is None:  # submitit has hidden them all
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if self.gpus is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        return super().__call__(*call)

    def room(self, jobs: int) -> int:
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        asked = (self.params.get(key) or 1 for key in ("cpus_per_task", "tasks_per_node"))
        return max(1, len(os.sched_getaffinity(0)) // math.prod(asked))
