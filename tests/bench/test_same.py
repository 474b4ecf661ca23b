"""What bench/same.py calls the same, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from same import compare, verdict
from same_cases import CASES, case

LINE = {"step": 1, "loss": 0.5, "seconds": 2.0, "steps_per_second": 9.0, "kl": float("nan")}


def ran(folder: Path, sha: str = "abc", **changed: float) -> Path:
    """The directory of a case with one run, whose log has one line."""
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "summary.json").write_text(json.dumps({
        "weights_sha256": sha, "accuracy": 0.25, "necessity": {"own": 0.25}, "steps": 1,
        "status": "done"}))
    (folder / "run" / "metrics.jsonl").write_text(json.dumps({**LINE, **changed}) + "\n")
    return folder


@pytest.mark.parametrize(("changed", "said", "largest"), [
    ({}, "same", 0.0), ({"seconds": 3.0, "steps_per_second": 1.0}, "same", 0.0),
    ({"sha": "abd"}, "DIFFERS", 0.0), ({"loss": 0.625}, "DIFFERS", 0.125),
    ({"more": 1.0}, "same", 0.0)])
def test_times_may_differ_and_nothing_else(changed: dict, said: str, largest: float,
                                           tmp_path: Path) -> None:
    found = compare(ran(tmp_path / "old"), ran(tmp_path / "new", **changed), case("x"))
    assert (verdict(found), found.largest) == (said, largest)
    assert found.hashes == ("DIFFER" if "sha" in changed else "equal")


def test_a_run_that_is_not_there_differs(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert verdict(compare(ran(tmp_path / "old"), tmp_path / "new", case("x"))) == "DIFFERS"
    assert verdict(compare(tmp_path / "new", tmp_path / "new", case("x"))) == "DIFFERS"


def test_each_key_of_a_line_is_said_once_and_last() -> None:
    assert case("x", "trainer.max_steps=5 seed=1 trainer.max_steps=7").commands(None) == [
        "seed=1 trainer.threads=1 trainer.log_every_n_steps=1 hydra.run.dir=run "
        "trainer.max_steps=7"]
    assert case("x", "trainer.max_steps=5").commands(2)[0].endswith("trainer.max_steps=2")
    assert len({one.name for one in CASES}) == len(CASES) > 50
