"""Whole trainings that must find what the paper of their method found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.small import Door

pytestmark = pytest.mark.nightly

SMALL = ["experiment=star_addition", "task.digits=3", "task.worked=150", "task.epoch_size=2000",
         "task.test_questions=600", "trainer.rehearse=2000", "trainer.train_batch_size=32",
         "trainer.max_epochs=8", "trainer.max_steps=2000", "trainer.cooldown=300",
         "trainer.threads=1", "hydra.run.dir=run"]


def test_short_sums_bootstrap_longer_ones(door: Door) -> None:
    """Sums of three digits, of which no scratchpad is ever shown.

    Where wrong thoughts are kept they stay below 0.2. Where hints leak into what is learnt,
    thoughts come to need them: then most of what fails without a hint is right with one.
    """
    assert door(*SMALL)[0] == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "accuracy" in line]
    assert [line["epoch"] for line in found] == list(range(9))
    assert found[2]["accuracy/3_digits"] < 0.1
    assert found[-1]["accuracy/3_digits"] > 0.5
    assert found[-1]["necessity/shuffled"] < 0.05
    assert [line["rationalised"] for line in lines if "rationalised" in line][-1] < 0.4


def test_two_networks_find_continuous_thoughts_without_a_teacher(door: Door) -> None:
    """Sums below 100, blind: where no sampled thought is learnt without a search (it was 1.000)."""
    assert door("think=true", "blind=true", "thinker.kind=continuous", "trainer.threads=1",
                "trainer.max_steps=600", "trainer.cooldown=200", "trainer.weight_decay=0.1",
                "hydra.run.dir=run")[0] == 0
    necessity = json.loads(Path("run/summary.json").read_text())["necessity"]
    assert necessity["own"] > 0.9
    assert max(necessity[name] for name in ("shuffled", "random", "constant", "dropped")) < 0.05
