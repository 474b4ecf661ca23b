"""Trackers in runs that are killed, by what the real libraries have on the disk; all offline."""

from __future__ import annotations

import collections
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from support.processes import Forked, run, run_processes
from support.runs import lines
from support.tracked import READERS, Shown

SMALL = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=4", "trainer.val_every_n_steps=4", "trainer.device=cpu",
         "trainer.log_every_n_steps=1"]
ALL = [name for name in READERS if importlib.util.find_spec(name)]
KILLED = 11  # the step at which a run is killed; the last checkpoint before it is of step 8
PLUGIN = """
import os, signal, subprocess
from ponder import tracker

@tracker("dies")
class Dies:
    '''Ends its process, as kill -9 does.'''
    def __init__(self, config, run):
        pass

    def write(self, step, metrics):
        if step == 11:
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self):
        pass

@tracker("ends_wandb")
class EndsWandb(Dies):
    '''Ends the process of wandb that writes.'''
    def write(self, step, metrics):
        if step == 3:
            children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"],
                                      capture_output=True, text=True).stdout.split()
            assert children
            for child in children:
                os.kill(int(child), signal.SIGKILL)
"""


def by_name(shown: Shown, name: str) -> dict[int, Any]:
    """Step -> value. Raises `AssertionError` for a step that is there twice."""
    found = [(step, value) for step, one, value in shown if one == name]
    assert max(collections.Counter(step for step, _ in found).values(), default=1) == 1, found
    return dict(found)


def must_mirror(folder: Path, names: list[str]) -> None:
    """Raises `AssertionError` where a tracker has not every number of metrics.jsonl, once, in one
    run.
    """
    told: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for line in lines(str(folder / "run")):
        for name, value in line.items():
            if name != "step":
                told[name].setdefault(line["step"], math.nan if value is None else value)
    for tracker in names:
        (shown,) = READERS[tracker](folder)
        for name, values in told.items():
            found = {step: float("nan" if value in (None, "NaN") else value)
                     for step, value in by_name(shown, name).items()}
            assert found == pytest.approx(values, rel=1e-6, nan_ok=True), (tracker, name)
        for name in ("rollouts", "necessity_bars"):
            assert sorted(by_name(shown, name)) == sorted(told["accuracy"]), (tracker, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dying.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_was_killed_and_resumed_is_one_run_everywhere(name: str, folder: Path) -> None:
    """With every number of metrics.jsonl once, and the tables of each evaluation."""
    if name not in ALL:
        pytest.skip(f"needs {name}")
    killed = Forked(*SMALL, "trainer.max_steps=20", "plugins=[dying]", f"logger=[{name},dies]",
                    "hydra.run.dir=run", cwd=folder)
    killed.communicate()
    assert killed.returncode == -9 and lines(str(folder / "run"))[-1]["step"] == KILLED
    said = run(folder, "resume=run", f"logger={name}", "trainer.max_steps=14")
    assert "going on from step 8" in said and "warning" not in said
    steps = [line["step"] for line in lines(str(folder / "run")) if "lr" in line]
    assert steps == [*range(1, 15)]
    must_mirror(folder, [name])


def test_several_trackers_at_once_and_one_that_joins_late(folder: Path) -> None:
    """tensorboard is first asked for when the run goes on, and has all of it."""
    first = [name for name in ALL if name != "tensorboard"]
    run(folder, *SMALL, "trainer.max_steps=5", f"logger=[{','.join(first)}]", "hydra.run.dir=run")
    must_mirror(folder, first)
    run(folder, "resume=run", f"logger=[{','.join(ALL)}]", "trainer.max_steps=7")
    must_mirror(folder, ALL)


def test_only_the_first_of_two_processes_writes(folder: Path) -> None:
    run_processes(folder / "run", 2, *SMALL, "trainer.max_steps=5", f"logger=[{','.join(ALL)}]")
    must_mirror(folder, ALL)


def test_a_tracker_whose_process_dies_does_not_end_the_run(folder: Path) -> None:
    said = run(folder, *SMALL, "trainer.max_steps=8", "plugins=[dying]",
               "logger=[wandb,tensorboard,ends_wandb]", "hydra.run.dir=run")
    assert said.count("warning: logger=wandb has failed and gets no more numbers") == 1
    assert [line["step"] for line in lines(str(folder / "run")) if "lr" in line] == [*range(1, 9)]
    must_mirror(folder, ["tensorboard"])
