"""What a run prints and writes down beside its numbers."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ponder.config.errors import UserError, writing
from ponder.core.types import Problems
from ponder.training.console import Notebook, Plain, Rich
from ponder.training.session import Session, guessing_accuracy
from support.runs import config_of


def test_notes_and_evaluations_are_in_the_log_file(tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.FileHandler(tmp_path / "run.log")
    logging.getLogger().addHandler(handler)
    try:
        console = Plain()
        console.note("a note")
        console.update(2, None, {"loss": 1.0})
        console.update(4, 8, {"accuracy": 0.5})
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    expected = ["a note", "step 4/8  loss 1.000  accuracy 0.5000"]
    assert (tmp_path / "run.log").read_text().splitlines() == expected
    assert capsys.readouterr().out.splitlines() == expected


def test_a_note_after_the_display_has_ended_is_the_last_line() -> None:
    file = io.StringIO()
    console = Rich(Console(file=file, force_terminal=True, width=60))
    console.samples(["1+2=3"])
    console.close()
    console.note("stopped at step 3")
    assert file.getvalue().rstrip().endswith("stopped at step 3")


def test_the_display_begins_with_the_first_thing_to_show() -> None:
    """So that none is left on the screen where building a run fails."""
    console = Rich(Console(file=io.StringIO(), force_terminal=True, width=60))
    console.note("512 parameters")
    assert not console.live.is_started
    console.update(1, None, {"loss": 1.0})
    assert console.live.is_started
    console.close()
    assert not console.live.is_started


@pytest.mark.slow
def test_further_processes_leave_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.training.session.is_main_process", lambda: False)
    session = Session(config_of("variant=[think,fixed]"), tmp_path)
    session.log.write(1, {"loss": 1.0})
    session.log.table("val_1", [{"question": "1+1="}])
    assert session.log.sync() == 0
    session.close()
    assert not list(tmp_path.iterdir())


def test_guessing_is_always_the_most_frequent_answer() -> None:
    answers = torch.tensor([[1, 2], [1, 2], [2, 1], [1, 2]])
    assert guessing_accuracy(Problems(answers, answers, None, pad=0)) == 0.75


def test_a_full_disk_is_one_line_that_names_the_file() -> None:
    with pytest.raises(UserError, match=r"^x/y\.csv: cannot be written \(No space left on dev"), \
            writing("x/y.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_notebook_shows_one_line_of_progress_below_what_stays(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What stays ends with a line break; the rest is replaced, and blanked where it was longer."""
    times = iter([0.0, 2.0, 2.0, 2.5, 4.0, 4.0, 6.0, 8.0, 8.0])
    monkeypatch.setattr("ponder.training.console.time.monotonic", lambda: next(times))
    console = Notebook()
    console.update(2, 8, {"loss": 1.0})
    console.update(3, 8, {"loss": 1.0})  # too soon after the last one
    console.busy("a line", False)
    console.note("a note")
    console.update(8, 8, {"accuracy": 0.5})
    console.busy("more", False)
    console.close()
    assert capsys.readouterr().out == (
        "\rstep 2/8  loss 1.000" + "\ra line".ljust(21) + "\ra note\n"
        "\rstep 8/8  loss 1.000  accuracy 0.5000\n" "\rmore\r    \r")
