"""Launchers: refused where there are none; several runs at once; jobs put back into the queue."""

from __future__ import annotations

import ast
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from ponder.cli import main as job
from ponder.cli.shorthand import launched
from ponder.config.errors import JobFailed, UserError
from ponder.sweeps.launch import rendezvous_port, without_outputs
from ponder.training.signals import GivenUp, Signals, guard
from support.small import Door

# --- which launcher, if any ---------------------------------------------------------------------


def found(*commands: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in commands else None


@pytest.mark.parametrize("word", [
    "hydra/launcher=slurm", "hydra/launcher=local", "hydra.launcher.partition=overcap"])
def test_a_launcher_without_a_sweep_gets_one_line(word: str, door: Door, tmp_path: Path) -> None:
    code, out, err = door(word, "seed=1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {word}: found no -m") and "legal: -m" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["hydra/launcher=slurm", "hydra.launcher.partition=overcap",
                                  "hydra/launcher=submitit_slurm"])
def test_slurm_where_there_is_none_gets_one_line(word: str, door: Door, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", found())
    code, out, err = door("-m", word, "seed=1,2")
    assert (code, out) == (2, "") and err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert err.startswith(f"error: {word.replace('submitit_', '')}: found no sbatch")
    assert "legal: " in err and "hydra/launcher=local" in err


def test_a_partition_alone_means_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", found("sbatch"))
    words = ["--multirun", "seed=1,2", "hydra.launcher.partition=overcap"]
    assert launched(words) == [*words, "hydra/launcher=slurm"]
    assert launched(["hydra/launcher=submitit_local", *words]) == ["hydra/launcher=local", *words]
    assert launched(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]


def test_what_a_job_asks_for_may_be_typed(door: Door) -> None:
    code, out, _ = door("hydra.launcher.partition=overcap", "hydra.launcher.timeout_min=30",
                        "hydra.launcher.max_num_timeout=2", "--cfg", "hydra", "-p",
                        "hydra.launcher")
    said = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert code == 0 and said["_target_"] == "hydra_plugins.ponder_launcher.Slurm"
    assert (said["partition"], said["timeout_min"], said["max_num_timeout"]) == (
        "overcap", "30", "2")
    assert (said["gpus_per_node"], said["signal_delay_s"]) == ("1", "120")


# --- what comes back from another process -------------------------------------------------------


def elsewhere(directory: Path, monkeypatch: pytest.MonkeyPatch, does: Callable) -> float | None:
    """`main.job` as a launcher's process calls it, around `does`."""
    import ponder.cli.actions
    import ponder.rollouts.recorded

    monkeypatch.setattr(ponder.rollouts.recorded, "check_files", lambda config: None)
    monkeypatch.setattr(job.resolve, "read", lambda node: SimpleNamespace(action="train"))
    monkeypatch.setattr(job, "_directory", lambda: directory)
    monkeypatch.setattr(job, "_in_a_sweep", lambda: True)
    monkeypatch.setattr(job, "_is_new", lambda: False)
    monkeypatch.setattr(ponder.cli.actions, "run", lambda config, directory: does())
    return job.job(SimpleNamespace(action="train"), [], home="elsewhere:1")


class Odd(Exception):
    """Cannot be unpickled: its words are not its arguments."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} {number}")


def fails(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error
    return fail


@pytest.mark.parametrize("error, kind, line", [
    (UserError("x=1: found 1"), UserError, "x=1: found 1"),
    (Odd("odd", 1), JobFailed, "Odd: odd 1"),
    (GivenUp("timed-out too many times."), JobFailed, "GivenUp: timed-out too many times."),
])
def test_errors_can_be_sent_back(error: BaseException, kind: type, line: str, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(kind) as raised:
        elsewhere(tmp_path, monkeypatch, fails(error))
    sent = pickle.loads(cloudpickle.dumps(raised.value))
    assert type(sent) is kind and str(sent).startswith(line)
    assert (tmp_path / "error.txt").is_file()


def test_an_end_that_is_meant_passes_through(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit leaves a requeued job by SystemExit."""
    with pytest.raises(SystemExit):
        elsewhere(tmp_path, monkeypatch, fails(SystemExit(144)))
    assert not (tmp_path / "error.txt").exists()


def test_a_job_returns_a_plain_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    value = elsewhere(tmp_path, monkeypatch, lambda: numpy.float64(0.5))
    assert type(value) is float and value == 0.5
    with pytest.raises(JobFailed):  # a number is all that may come back
        elsewhere(tmp_path, monkeypatch, lambda: open)


def test_the_door_has_no_globals() -> None:
    """What is global in `__main__` is pickled with a job, and pickled again when it is requeued."""
    door = ast.parse((Path(job.__file__).parents[3] / "run.py").read_text())
    assert [type(node).__name__ for node in door.body] == ["Expr", "ImportFrom", "If"]


# --- signals ------------------------------------------------------------------------------------


def heard(*numbers: int) -> list[int]:
    """What handlers that return, as submitit's of SIGTERM, hear after `Signals` has."""
    calls: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: calls.append(number))
              for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with Signals() as signals:
            for number in numbers:
                signal.raise_signal(number)
            first = list(calls)
            signals.redeliver()
            assert signals.caught is None
            signal.raise_signal(signal.SIGTERM)
            assert signals.caught == signal.SIGTERM  # it listens again
        return [*first, 0, *calls[len(first):]]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_is_handed_on_to_who_listened_before() -> None:
    term, usr2 = signal.SIGTERM, signal.SIGUSR2
    assert heard(term) == [0, term]
    assert heard(usr2) == [0, usr2]
    assert heard(term, usr2) == [0, usr2]  # both come with a preemption: the second requeues
    assert heard(usr2, term) == [term, 0, usr2]
    assert heard(usr2, usr2) == [0, usr2]


def test_what_requeueing_raises_is_no_plain_exception() -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: fails(RuntimeError("no more"))())
    try:
        guard()
        with pytest.raises(GivenUp, match="no more"):
            try:
                signal.raise_signal(signal.SIGUSR2)
            except Exception:
                pytest.fail("swallowed")
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_forked_helper_neither_saves_nor_stays() -> None:
    """Slurm signals every process of a job; submitit's handlers are inherited."""
    script = ("import os, signal; import ponder.training.signals\n"
              "for n in (15, 12): signal.signal(n, lambda *_: print('heard', flush=True))\n"
              "out, ready = os.pipe()\n"
              "child = os.fork()\n"
              "if not child: os.write(ready, b'x'); signal.pause(); os._exit(0)\n"
              "os.read(out, 1)\n"
              "os.kill(child, 12); os.kill(child, 15)\n"
              "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=30)
    assert (done.stdout, done.stderr) == ("-15\n", "")


# --- several tasks a job --------------------------------------------------------------------------



def test_a_task_that_follows_writes_nothing_into_the_directory(tmp_path: Path) -> None:
    config = OmegaConf.create({"hydra": {
        "output_subdir": ".hydra", "verbose": False, "job": {"name": "x"},
        "job_logging": {"version": 1, "root": {"handlers": ["file"]}, "handlers": {"file": {
            "class": "logging.FileHandler", "filename": f"{tmp_path}/run.log"}}},
        "sweep": {"dir": str(tmp_path), "subdir": "0"}}})
    OmegaConf.set_struct(config, True)
    hydra = without_outputs(config).hydra
    configure_log(hydra.job_logging, hydra.verbose)
    assert hydra.output_subdir is None and hydra.sweep.dir == str(tmp_path)
    assert config.hydra.output_subdir == ".hydra" and not list(tmp_path.iterdir())


def test_jobs_meet_in_different_places() -> None:
    assert len({rendezvous_port(number) for number in range(7, 7 + 12_000)}) == 12_000
    assert {rendezvous_port(number) for number in range(50_000)} == set(range(20_000, 32_000))
