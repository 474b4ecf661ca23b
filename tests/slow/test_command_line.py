"""Whole runs as programs of their own: seeds, trackers, sweeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.processes import run

RUN = Path(__file__).parents[2] / "run.py"
QUICK = ["trainer.max_steps=30", "trainer.train_batch_size=32", "trainer.threads=1",
         "trainer.val_every_n_steps=20", "trainer.log_every_n_steps=10"]


def test_same_seed_same_weights_through_the_door(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        run(tmp_path, *QUICK, f"hydra.run.dir={tmp_path}/{name}")
        hashes.append(json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"])
    assert hashes[0] == hashes[1]


def test_a_run_that_goes_on_is_one_run_in_wandb(tmp_path: Path) -> None:
    for steps in (4, 6):
        done = subprocess.run(
            [sys.executable, str(RUN), *QUICK, "logger=wandb", f"trainer.max_steps={steps}",
             "hydra.run.dir=run"], cwd=tmp_path, text=True, capture_output=True, timeout=900,
            check=False, env={**os.environ, "WANDB_SILENT": "true"})
        assert done.returncode == 0, done.stderr
    assert "going on from step 4" in done.stdout
    names = [path.name.split("-")[-1] for path in tmp_path.glob("run/wandb/offline-run-*")]
    assert len(names) == 2 and {*names} == {(tmp_path / "run" / "wandb_id").read_text()}


def test_tensorboard_shows_no_step_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = (*QUICK, "logger=tensorboard", "hydra.run.dir=run", "trainer.lr_decay=constant",
             "trainer.log_every_n_steps=1", "trainer.save_every_n_steps=2")
    for steps in (5, 7):
        out = run(tmp_path, *words, f"trainer.max_steps={steps}")
        if steps == 5:  # as if it had been killed after step 5: what came after 4 is taken again
            shutil.rmtree(tmp_path / "run" / "checkpoint_5")
    assert "going on from step 4" in out
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [*range(1, 8)]


def test_sweep_runs_every_job_in_its_own_directory(tmp_path: Path) -> None:
    run(tmp_path, "-m", "seed=0,1", "blind=true,false", "think=true", *QUICK, "trainer.max_steps=3")
    assert len(list(tmp_path.glob("star_runs/*/*/summary.json"))) == 4
