"""A real Slurm of one machine (tests/cluster), which the tests that want it start themselves.

One process runs them: they share one queue.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sweeps import ROOT, Sweep

CLUSTER = Path(__file__).parents[1] / "cluster"


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Started for these tests, and stopped after them unless it was there before."""
    if os.geteuid() or not (shutil.which("slurmctld") or shutil.which("apt-get")):
        pytest.skip("a test cluster is started by root, with Slurm installed or apt-get to do it")
    up = subprocess.run(["bash", str(CLUSTER / "slurm-up.sh")], capture_output=True, text=True)
    if up.returncode:
        pytest.skip(f"no test cluster: {(up.stderr or up.stdout).strip().splitlines()[-1]}")
    yield
    if "already up" not in up.stdout:
        subprocess.run(["bash", str(CLUSTER / "slurm-down.sh")], check=True, capture_output=True)


def sent(folder: Path, *words: str, root: Path = ROOT, **environment: str) -> Sweep:
    """A sweep on the partition whose jobs others may push away."""
    return Sweep(folder, "hydra.launcher.partition=overcap", "hydra.launcher.timeout_min=30",
                 "hydra.launcher.mem_gb=1", *words, environment=environment, root=root)


def slurm(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def queued(folder: Path) -> bool:
    """Whether jobs of a sweep that was sent from a folder are in the queue."""
    return str(folder) in slurm("squeue", "-h", "-o", "%Z").splitlines()


def made_room(job: str) -> bool:
    """Whether Slurm has put a job back into the queue."""
    said = slurm("sacct", "-nDX", "-o", "State", "-j", job)
    return "PREEMPT" in said or "REQUEUED" in said
