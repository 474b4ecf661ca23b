"""Small sweeps as processes, and what they leave."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from support.processes import TIMEOUT, Forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=0", "trainer.log_every_n_steps=1",
         "trainer.val_every_n_steps=100000"]


def clean(**more: str) -> dict[str, str]:
    """Of a process that finds this source before any other."""
    paths = [more.pop("PYTHONPATH", ""), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", **more,
            "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Sweep:
    """A sweep that runs beside the test, in a directory of its own; with an `environment`, as a
    program that reads it when it starts."""

    def __init__(self, folder: Path, *words: str, environment: dict[str, str] | None = None,
                 name: str = "sweep", root: Path = ROOT) -> None:
        self.directory = folder / name
        words = ("-m", f"hydra.sweep.dir={self.directory}", *SMALL, *words)
        self.process = Forked(*words, cwd=folder, environment=clean()) if not environment else \
            subprocess.Popen([sys.executable, str(root / "run.py"), *words], cwd=folder, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=clean(**environment))

    def wait(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def run(self, number: int) -> Path:
        """The directory of a job; one that is not there before it runs."""
        return next(self.directory.glob(f"*_{number}"), self.directory / f"?_{number}")

    def log(self) -> str:
        """What all jobs have said."""
        return "".join(path.read_text() for path in self.directory.glob(".submitit/*/*_log.*"))


def task_of(sweep: Sweep, rank: int = 0) -> int:
    """A process that runs the only job of a sweep: that of the task with this number."""
    named = {b"SUBMITIT_LOCAL_GLOBALID=%d" % rank, b"SLURM_PROCID=%d" % rank}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            said = (path.parent / "environ").read_bytes().split(b"\0")
            mine = b"submitit.core._submit" in words and str(sweep.directory).encode() in words[-2]
            if mine and named & {*said}:
                return int(path.parts[2])
    raise AssertionError("no such process")


def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


def lines(run: Path) -> list[int]:
    """The step of every line of a log."""
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def curve(run: Path) -> list[float]:
    """The losses of a log."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in found if "loss" in line]


def files(run: Path) -> list[str]:
    """All that a run has left."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def steps(run: Path) -> int:
    """How far a run has come by now."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def weights(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["weights_sha256"]


def summaries(directory: Path) -> list[str]:
    """Hashes of the last weights of a sweep's runs, in the order of its jobs."""
    found = sorted(directory.glob("*/summary.json"), key=lambda path: path.parent.name[-1])
    return [weights(path.parent) for path in found]


@functools.lru_cache
def alone(*words: str) -> Path:
    """The directory of a run that nobody launches or disturbs: one for all tests."""
    directory = Path(tempfile.mkdtemp(prefix="alone_"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    run = Forked(*SMALL, *words, f"hydra.run.dir={directory}", environment=clean())
    _, err = run.communicate()
    assert run.returncode == 0, err
    return directory


def broken(folder: Path, where: str) -> Path:
    """A directory for PYTHONPATH that spoils runs whose configuration `node` is such."""
    path = folder / "spoilt"
    path.mkdir(exist_ok=True)
    (path / "sitecustomize.py").write_text(
        "import ponder.cli.main\n"
        "def fail(node, before=ponder.config.resolve.read):\n"
        f"    return 1 / 0 if {where} else before(node)\n"
        "ponder.config.resolve.read = fail\n")
    return path
