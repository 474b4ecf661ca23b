"""Runs that are killed at random moments, or whose disk is full."""

from __future__ import annotations

import functools
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import kill
from ponder.training.run_directory import newest

SMALL = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=4", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


@pytest.mark.parametrize("room", [300_000, 8_000])
def test_a_full_disk_gets_one_line_and_spoils_nothing(room: int, tmp_path: Path) -> None:
    """No file may grow beyond some bytes: too few for the weights, or for metrics.jsonl."""
    words = [sys.executable, str(kill.ROOT / "run.py"), *SMALL, "trainer.max_steps=40"]
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    assert run([*words, "trainer.max_steps=4"]).returncode == 0
    before = newest(tmp_path / "run", pytest.fail)
    big = ["model.d_model=64", "hydra.run.dir=big"] if room > 8_000 else [
        "trainer.save_every_n_steps=0"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = run([*words, *big], preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    place = "big/checkpoint_4" if room > 8_000 else "run/metrics.jsonl"
    assert done.stderr.startswith(f"error: {place}: cannot be written (")
    assert newest(tmp_path / "run", pytest.fail) == before
    assert not list(tmp_path.glob("*/.checkpoint_*"))


@pytest.mark.parametrize("strategy", kill.STRATEGIES)
def test_killed_anywhere_a_run_ends_with_the_same_weights(strategy: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, at least five times a strategy."""
    length = kill.undisturbed(strategy, tmp_path / "whole")
    luck, kills, number = random.Random(strategy), 0, 0
    while kills < 5:
        number += 1
        outcome = kill.trial(strategy, tmp_path / str(number), tmp_path / "whole", length, luck)
        assert outcome.held, outcome
        kills += outcome.kills
