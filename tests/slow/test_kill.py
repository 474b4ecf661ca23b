"""Runs that are killed at random moments, or whose disk is full."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import kill
from ponder.training.checkpoint import newest
from support.processes import Forked

SMALL = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=4", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


@pytest.mark.parametrize("room", [300_000, 8_000])
def test_a_full_disk_gets_one_line_and_spoils_nothing(room: int, tmp_path: Path) -> None:
    """No file may grow beyond some bytes: too few for the weights, or for metrics.jsonl."""
    first = Forked(*SMALL, "trainer.max_steps=4", cwd=tmp_path)
    assert first.communicate()[1] == "" and first.returncode == 0
    before = newest(tmp_path / "run", pytest.fail)
    big = ["model.d_model=64", "hydra.run.dir=big"] if room > 8_000 else [
        "trainer.save_every_n_steps=0"]
    full = Forked(*SMALL, "trainer.max_steps=40", *big, cwd=tmp_path, largest_file=room)
    _, err = full.communicate()
    assert full.returncode == 2 and err.count("\n") == 1
    place = "big/checkpoint_4" if room > 8_000 else "run/metrics.jsonl"
    assert err.startswith(f"error: {place}: cannot be written (")
    assert newest(tmp_path / "run", pytest.fail) == before
    assert not list(tmp_path.glob("*/.checkpoint_*"))


@pytest.mark.parametrize("strategy", kill.STRATEGIES)
def test_killed_anywhere_a_run_ends_with_the_same_weights(
        strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at random moments, at least five times a strategy."""
    monkeypatch.setattr(kill, "start", lambda name, directory: Forked(
        *kill.SMALL, *kill.STRATEGIES[name], f"hydra.run.dir={directory}"))
    monkeypatch.setattr(kill, "finish", finish)
    length = kill.undisturbed(strategy, tmp_path / "whole")
    luck, kills, number = random.Random(strategy), 0, 0
    while kills < 5:
        number += 1
        outcome = kill.trial(strategy, tmp_path / str(number), tmp_path / "whole", length, luck)
        assert outcome.held, outcome
        kills += outcome.kills


def finish(process: Forked) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors
