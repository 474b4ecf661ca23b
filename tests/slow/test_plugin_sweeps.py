"""A task from outside of the package, in the jobs of a sweep, which are processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.sweeps import ROOT, clean

PARITY = '''
from ponder import Problem, ToyTask, option, task


@task("xor")
class Parity(ToyTask):
    """Is the number of ones odd?"""
    bits: int = option(4, "bits of a question", low=2)

    def problem(self, random) -> Problem:
        x = random.choices("01", k=self.bits)
        running = [str(sum(map(int, x[:i + 1])) % 2) for i in range(self.bits)]
        return Problem(question=" ".join(x), answer=running[-1], thought=" ".join(running[:-1]))
'''
SMALL = ["plugins=[mine]", "task=xor", "think=true", "model.d_model=8", "model.layers=1",
         "task.test_questions=4", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.max_steps=2", "trainer.device=cpu"]


def ponder(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and stderr of a call from `folder`, which `PYTHONPATH` does not name."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=folder, text=True,
                          capture_output=True, env=clean(), timeout=240)
    return done.returncode, done.stderr


def test_a_task_of_a_plugin_runs_in_other_processes_and_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PARITY)
    local = ["-m", "hydra/launcher=local", "hydra.launcher.cpus_per_task=1"]
    assert ponder(tmp_path, *local, *SMALL, "sweep.dir=sweep", "seed=1") == (0, "")
    summary, = tmp_path.glob("sweep/*/summary.json")
    assert json.loads(summary.read_text())["steps"] == 2
    summary.unlink()  # as of a job that vanished: it is sent again with the task it had
    assert ponder(tmp_path, "action=sweep", "sweep.dir=sweep", "sweep.retry=failed") == (0, "")
    assert json.loads(summary.read_text())["status"] == "done"
