"""Trackers beside metrics.jsonl: several at once, ones that fail, and runs that go on."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ponder.config import running
from ponder.config.checker import check
from ponder.config.errors import UserError
from ponder.config.registry import TRACKERS, Entry
from ponder.config.running import LoggerConfig
from ponder.training import trackers
from ponder.training.trackers import Mirrors, TrackedRun, build_tracker, markdown, necessity_bars
from ponder.training.trackers.wandb import Wandb
from support.runs import config_of
from support.small import Door


class Kept:
    """A tracker that keeps what it is told; `fails` is the method that raises."""

    def __init__(self, fails: str = "", begins_after: int | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.fails = fails
        if begins_after is not None:
            self.begins_after = begins_after

    def _told(self, *what: Any) -> None:
        if what[0] == self.fails:
            raise OSError(28, "No space left on device")
        self.told.append(what)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._told("write", step, metrics)

    def table(self, step: int, name: str, rows: list[dict[str, Any]]) -> None:
        self._told("table", step, name, rows)

    def close(self) -> None:
        self._told("close")


def left(folder: Path) -> TrackedRun:
    """A run of three lines and an evaluation, whose last line is after its checkpoint."""
    lines = [{"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 2, "loss": None, "lr": 0.1},
             {"step": 2, "accuracy": 0.5, "necessity/own": 0.5, "necessity/dropped": 0.25}]
    kept = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(kept + '{"step": 3, "loss": 1.0, "lr": 0.1}\n')
    (folder / "val_2").mkdir()
    (folder / "val_2" / "generated.csv").write_text("id,question,thought,answer\n0,1+1=,<t1>,2\n")
    return TrackedRun(folder, {}, 2, len(kept))


def test_one_that_fails_is_told_of_once_and_the_others_go_on() -> None:
    said: list[str] = []
    good, bad = Kept(), Kept(fails="write")
    both = Mirrors({"bad": bad, "good": good}, said.append)
    for step in (1, 2):
        both.write(step, {"loss": 1.0})
    both.close()
    assert good.told == [("write", 1, {"loss": 1.0}), ("write", 2, {"loss": 1.0}), ("close",)]
    assert bad.told == [("close",)]
    (line,) = said
    assert line.startswith("warning: logger=bad has failed and gets no more numbers (OSError:")


def test_a_step_has_each_number_once_and_tables_are_cut() -> None:
    """The evaluation of a step repeats its epoch."""
    kept = Kept()
    one = Mirrors({"kept": kept})
    one.write(4, {"epoch": 3.0, "loss": 1.0})
    one.write(4, {"epoch": 4.0, "accuracy": 0.5})
    one.write(5, {"epoch": 4.0})
    one.rollouts(5, [{"id": n, "question": "1+1=", "tokens": "5"} for n in range(50)])
    assert [what[2] for what in kept.told[:3]] == [
        {"epoch": 3.0, "loss": 1.0}, {"accuracy": 0.5}, {"epoch": 4.0}]
    assert kept.told[3] == ("table", 5, "rollouts", [{"question": "1+1="}] * trackers.ROWS)


def test_bars_by_hand() -> None:
    """20 characters are an accuracy of 1; what was not measured is left out, and so are the numbers
    of single positions."""
    assert necessity_bars({"own": 0.5, "dropped": 0.04, "random": math.nan}) == [
        {"thoughts": "own", "accuracy": 0.5, "bar": "█" * 10},
        {"thoughts": "dropped", "accuracy": 0.04, "bar": "█"}]
    kept = Kept()
    Mirrors({"kept": kept}).write(1, {"necessity/own": 1.0, "necessity/replaced/t1": 0.5})
    assert kept.told[1] == ("table", 1, "necessity_bars",
                            [{"thoughts": "own", "accuracy": 1.0, "bar": "█" * 20}])


def test_cells_of_a_table_stay_in_their_row() -> None:
    assert markdown([{"a": "x|y\nz", "b": "<t1>"}]) == (
        "| a | b |\n| --- | --- |\n| x\\|y z | &lt;t1> |")


def test_what_a_tracker_lacks_of_a_run_is_written_again(tmp_path: Path) -> None:
    """All lines up to the checkpoint, or those after `begins_after`; none where it has none."""
    run, all_of_it, rest, plain = left(tmp_path), Kept(begins_after=-1), Kept(
        begins_after=1), Kept()
    together = Mirrors()
    for name, tracker in (("all", all_of_it), ("rest", rest), ("plain", plain)):
        together.begin(name, tracker, run)
    assert [what[:2] for what in all_of_it.told] == [
        ("write", 1), ("write", 2), ("write", 2), ("table", 2), ("table", 2)]
    assert math.isnan(all_of_it.told[1][2]["loss"])
    assert all_of_it.told[3][3][1] == {"thoughts": "dropped", "accuracy": 0.25, "bar": "█" * 5}
    assert all_of_it.told[4][3] == [{"question": "1+1=", "thought": "<t1>", "answer": "2"}]
    assert [what[1] for what in rest.told if what[0] == "write"] == [2, 2]
    assert plain.told == []
    together.write(3, {"loss": 1.0})
    assert all(one.told[-1] == ("write", 3, {"loss": 1.0}) for one in (all_of_it, rest, plain))


def test_one_that_cannot_begin_ends_a_new_run_and_no_other(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: LoggerConfig, run: TrackedRun) -> Any:
        raise ConnectionError("no server")

    entry = Entry("tracker", "broken", broken, __name__, "x")
    monkeypatch.setitem(TRACKERS._entries, "broken", entry)
    config = LoggerConfig(kind=["broken"])
    with pytest.raises(UserError, match=r"^logger=broken: cannot begin \(ConnectionError: no "
                                        r"server\); legal: another tracker, or none$"):
        build_tracker(config, TrackedRun(tmp_path, {}))
    said: list[str] = []
    assert build_tracker(config, left(tmp_path), said.append).trackers == {}
    assert len(said) == 1 and "the run goes on without it" in said[0]
    config.mode = "disabled"
    assert build_tracker(config, TrackedRun(tmp_path, {})).trackers == {}


@pytest.mark.parametrize("kind, names", [
    ("none", []), ("wandb", ["wandb"]), (["a", "b", "a", "none"], ["a", "b"]),
    ({"a": True, "b": False}, ["a"]), ({}, []), ([], [])])
def test_kinds(kind: Any, names: list[str]) -> None:
    assert LoggerConfig(kind=kind).names == names


@pytest.mark.slow
def test_lists_are_composed() -> None:
    assert config_of("logger=[tensorboard,wandb]").logger.names == ["tensorboard", "wandb"]
    assert config_of("logger=wandb").logger.names == ["wandb"]
    assert config_of("logger.kind=wandb").logger.names == ["wandb"]  # as runs of earlier versions
    assert config_of("logger=[none,wandb]").logger.names == ["wandb"]
    assert config_of().logger.names == []


@pytest.mark.slow
@pytest.mark.parametrize("name, extra", [("trackio", "ponder[trackio]"),
                                         ("mlflow", "ponder[mlflow]")])
def test_a_package_that_is_missing(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = running.importlib.util.find_spec
    monkeypatch.setattr(running.importlib.util, "find_spec",
                        lambda one: None if one == name else find(one))
    with pytest.raises(UserError, match=rf"^logger={name}: found no package {name}; legal: pip "
                                        rf"install '{extra}', or logger=none$".replace("[", r"\[")):
        check(config_of(f"logger={name}"))


@pytest.mark.slow
def test_a_server_that_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda one: True)
    with pytest.raises(UserError, match=r"logger\.mode=online: found no MLFLOW_TRACKING_URI"):
        check(config_of("logger=mlflow", "logger.mode=online"))
    check(config_of("logger=mlflow"))


@pytest.mark.parametrize("words, line", [
    (["logger=[wandb,nope]"], "logger=nope: found 'nope' (did you mean none?); legal: "),
    (["logger=wandb,tensorboard"], "logger=wandb,tensorboard: found several values; legal: one, a "
                                   "list in brackets"),
    (["logger.kind=wnadb"], "logger.kind=wnadb: found 'wnadb' (did you mean wandb?)"),
    (["logger.kind=3"], "logger.kind=3: found 3; legal: "),
    (["logger=[wandb,3]"], "logger=[wandb,3]: found [wandb,3]; legal: ")])
def test_wrong_words(words: list[str], line: str, door: Door) -> None:
    code, _, err = door(*words)
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"error: {line}"), err


def test_online_wandb_gets_what_its_server_lacks(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has steps up to 1; what was offline of the same run is not sent besides."""
    given: dict[str, Any] = {}
    fake: Any = ModuleType("wandb")
    fake.Settings = SimpleNamespace
    fake.init = lambda **words: given.update(words) or SimpleNamespace(step=2)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "wandb_id").write_text("abc")
    for name in ("abc", "other"):
        (tmp_path / "wandb" / f"offline-run-1-{name}").mkdir(parents=True)
    tracker = Wandb(LoggerConfig(mode="online"), left(tmp_path))
    assert (given["id"], given["resume"], tracker.begins_after) == ("abc", "allow", 1)
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["offline-run-1-other"]
    tracker = Wandb(LoggerConfig(), TrackedRun(tmp_path, {}, 2))
    assert (given["id"], given["resume"], tracker.begins_after) == ("abc", None, -1)
