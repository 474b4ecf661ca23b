"""Whole runs as programs of their own: seeds, sweeps."""

from __future__ import annotations

import json
from pathlib import Path

from support.processes import run

QUICK = ["trainer.max_steps=30", "trainer.train_batch_size=32", "trainer.threads=1",
         "trainer.val_every_n_steps=20", "trainer.log_every_n_steps=10"]


def test_same_seed_same_weights_through_the_door(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        run(tmp_path, *QUICK, f"hydra.run.dir={tmp_path}/{name}")
        hashes.append(json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"])
    assert hashes[0] == hashes[1]


def test_sweep_runs_every_job_in_its_own_directory(tmp_path: Path) -> None:
    run(tmp_path, "-m", "seed=0,1", "blind=true,false", "think=true", *QUICK, "trainer.max_steps=3")
    assert len(list(tmp_path.glob("star_runs/*/*/summary.json"))) == 4
