"""What benchmarks found is found again for as long as it is about the same overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import records
import results


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> records.Records:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return records.Records("some")


def test_the_last_line_of_a_name_and_its_overrides_counts(kept: records.Records) -> None:
    assert kept.get("a/0", ["x=1"]) is None
    for accuracy in (0.1, 0.2):
        kept.put("a/0", ["x=1"], {"accuracy": accuracy})
    kept.put("a/1", ["x=1"], {"accuracy": 0.3})
    found = kept.get("a/0", ["x=1"])
    assert found is not None and found["accuracy"] == 0.2
    assert kept.get("a/0", ["x=2"]) is None and kept.get("a", ["x=1"]) is None


def test_a_run_that_is_there_is_not_run_again(kept: records.Records, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    summary: dict[str, Any] = {"accuracy": 0.5, "necessity": None, "steps": 3, "seconds": 1.0,
                               "other": 7}
    ran = []
    monkeypatch.setattr(results, "RUNS", tmp_path)
    monkeypatch.setattr(results, "run", lambda job: ran.append(job) or "ran")
    monkeypatch.setattr(results, "load", lambda *job: summary if ran else None)
    for expected in ("ran", "a/0: is there"):
        said = kept.run(("a", 0), ["x=1"], lambda folder, summary: {
            "seen": [folder == tmp_path / "a" / "0", summary["other"]]})
        assert said == expected
    assert ran == [("a", 0)]
    assert kept.get("a/0", ["x=1"]) == {"name": "a/0", "accuracy": 0.5, "necessity": None,
                                        "steps": 3, "seconds": 1.0, "seen": [True, 7],
                                        "words": ["x=1"]}


def test_a_run_of_an_earlier_setting_is_not_taken_for_one_of_this(
        kept: records.Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "0"
    summary = {"accuracy": 0.5, "necessity": None, "steps": 3, "seconds": 1.0}
    monkeypatch.setattr(results, "RUNS", tmp_path)
    monkeypatch.setattr(results, "load", lambda *job: summary if folder.is_dir() else None)
    monkeypatch.setattr(results, "run", lambda job: "ran")
    for said, words, found in ((["x=1", "seed=0"], ["x=2"], None),
                               (["x=1", "y=3"], ["x=1"], None),
                               (["x=1", "seed=0", "trainer.threads=1"], ["x=1"], 0.5)):
        folder.mkdir(parents=True)
        (folder / "words.json").write_text(json.dumps(said))
        kept.run(("a", 0), words)
        one = kept.get("a/0", words)
        assert (one and one["accuracy"]) == found == (0.5 if folder.is_dir() else None)


def test_a_run_that_failed_is_tried_again(kept: records.Records,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "run", lambda job: "FAILED")
    monkeypatch.setattr(results, "load", lambda *job: None)
    assert kept.run(("a", 0), []) == "FAILED" and kept.get("a/0", []) is None
