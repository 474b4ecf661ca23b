"""Launchers: refused where there are none; several runs at once; jobs put back into the queue."""

from __future__ import annotations

import ast
import os
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

from ponder.cli import job
from ponder.cli.launchers import launched
from ponder.config.errors import JobFailed, UserError
from ponder.sweeps.ranks import aside, port
from ponder.training.signals import GivenUp, Signals, guard
from support.small import Door
from support.sweeps import (
    Sweep,
    alone,
    broken,
    curve,
    lines,
    steps,
    summaries,
    task_of,
    until,
    weights,
)

HERE = "; legal: -m in front, or no word about a launcher, to run here"


# --- which launcher, if any ---------------------------------------------------------------------


def found(*commands: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in commands else None


@pytest.mark.parametrize("word", [
    "hydra/launcher=slurm", "hydra/launcher=local", "hydra.launcher.partition=overcap"])
def test_a_launcher_without_a_sweep_gets_one_line(word: str, door: Door, tmp_path: Path) -> None:
    assert door(word, "seed=1") == (2, "", (
        f"error: {word}: found no -m, without which nothing is launched{HERE}\n"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["hydra/launcher=slurm", "hydra.launcher.partition=overcap",
                                  "hydra/launcher=submitit_slurm"])
def test_slurm_where_there_is_none_gets_one_line(word: str, door: Door, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", found())
    code, out, err = door("-m", word, "seed=1,2")
    assert (code, out) == (2, "") and err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert err.startswith(f"error: {word.replace('submitit_', '')}: found no sbatch on this "
                          "machine; legal: a machine that sends jobs to Slurm, ")


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
    """`job.job` as a launcher's process calls it, around `does`."""
    import ponder.cli.actions

    monkeypatch.setattr(job.resolve, "read", lambda node: SimpleNamespace(action="train"))
    monkeypatch.setattr(job, "_directory", lambda: directory)
    monkeypatch.setattr(ponder.cli.actions, "run", lambda config, directory: does())
    return job.job(None, [], home="elsewhere:1")


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
    (Odd("odd", 1), JobFailed, "Odd: odd 1; the traceback is in "),
    (GivenUp("timed-out too many times."), JobFailed, "GivenUp: timed-out too many times.; "),
])
def test_errors_can_be_sent_back(error: BaseException, kind: type, line: str, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(kind) as raised:
        elsewhere(tmp_path, monkeypatch, fails(error))
    sent = pickle.loads(cloudpickle.dumps(raised.value))
    assert type(sent) is kind and str(sent).startswith(line)
    assert (tmp_path / "error.txt").exists() == (kind is JobFailed)


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
            signals.hand_on()
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
    script = ("import os, signal, time; import ponder.training.signals\n"
              "for n in (15, 12): signal.signal(n, lambda *_: print('heard', flush=True))\n"
              "out, ready = os.pipe()\n"
              "child = os.fork()\n"
              "if not child: os.write(ready, b'x'); time.sleep(60); os._exit(0)\n"
              "os.read(out, 1)\n"
              "os.kill(child, 12); os.kill(child, 15)\n"
              "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=30)
    assert (done.stdout, done.stderr) == ("-15\n", "")


# --- jobs on this machine -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_on_this_machine_is_the_same_runs_at_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "hydra/launcher=local", "hydra.launcher.cpus_per_task=1",
                  "seed=0,1", "trainer.max_steps=20", "trainer.lr=0.01")
    code, _, err = sweep.wait()
    assert (code, err) == (0, "")
    plain = Sweep(tmp_path, "seed=0,1", "trainer.max_steps=20", "trainer.lr=0.01", name="plain")
    assert plain.wait()[0] == 0
    assert summaries(sweep.directory) == summaries(plain.directory)
    assert len(set(summaries(plain.directory))) == 2


@pytest.mark.slow
def test_a_signalled_job_saves_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """USR2 is what submitit sends before it takes a machine away; TERM may come with it."""
    words = ["trainer.max_steps=400", "logger=wandb"]
    clock = "hydra.sweep.subdir=${now:%S}_${hydra.job.num}"  # that of the submission, in each life
    sweep = Sweep(tmp_path, "hydra/launcher=local", "seed=3", *words, clock)
    until(lambda: steps(sweep.run(0)) >= 50)
    task = task_of(sweep)
    os.kill(task, signal.SIGTERM)
    os.kill(task, signal.SIGUSR2)
    code, _, err = sweep.wait()
    assert (code, err) == (0, ""), err
    log = sweep.log()
    assert "going on from step " in log and "Requeued job" in log
    assert summaries(sweep.directory) == [weights(alone("seed=3", words[0]))]
    assert lines(sweep.run(0)) == lines(alone("seed=3", words[0]))
    assert len(list(sweep.run(0).glob("wandb/offline-run-*"))) == 2
    known = {path.name.rpartition("-")[2] for path in sweep.run(0).glob("wandb/offline-run-*")}
    assert known == {(sweep.run(0) / "wandb_id").read_text()}


@pytest.mark.slow
def test_a_killed_job_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    words = ["trainer.max_steps=400", "trainer.save_every_n_steps=40"]
    sweep = Sweep(tmp_path, "hydra/launcher=local", "seed=3", *words)
    until(lambda: steps(sweep.run(0)) >= 90)
    os.kill(task_of(sweep), signal.SIGKILL)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "#0 was killed; it goes on as job " in out
    assert "going on from step " in sweep.log()
    assert summaries(sweep.directory) == [weights(alone("seed=3", words[0]))]


@pytest.mark.slow
def test_a_short_time_counts_as_a_timeout_and_too_many_end_the_job(tmp_path: Path) -> None:
    """submitit takes any USR2 for a timeout in jobs of ten minutes or less."""
    sweep = Sweep(tmp_path, "hydra/launcher=local", "hydra.launcher.timeout_min=5",
                  "+hydra.launcher.max_num_timeout=0", "seed=3", "trainer.max_steps=4000")
    until(lambda: steps(sweep.run(0)) >= 20)
    os.kill(task_of(sweep), signal.SIGUSR2)
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1 and "timed-out too many times" in err
    assert list(sweep.run(0).glob("checkpoint_*"))  # it has saved all the same


@pytest.mark.slow
def test_one_failing_job_does_not_end_the_others(tmp_path: Path) -> None:
    """Hydra would call it COMPLETED, and say nothing in its files."""
    sweep = Sweep(tmp_path, "hydra/launcher=local", "seed=1,2,3", "trainer.max_steps=10",
                  environment={"PYTHONPATH": str(broken(tmp_path, "node.seed == 1"))})
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("error: job 0 (") and "seed=1" in err and "ZeroDivisionError" in err
    assert "ZeroDivisionError" in (sweep.run(0) / "error.txt").read_text()
    assert len(summaries(sweep.directory)) == 2


# --- several tasks a job --------------------------------------------------------------------------

TWO = ["hydra/launcher=local", "hydra.launcher.tasks_per_node=2", "seed=3"]


@pytest.mark.slow
def test_a_job_of_two_tasks_saves_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """The signal reaches the second task only: the first one puts the job back."""
    words = [*TWO, "trainer.max_steps=150"]
    sweep, plain = Sweep(tmp_path, *words), Sweep(tmp_path, *words, name="plain")
    until(lambda: steps(sweep.run(0)) >= 30)
    os.kill(task_of(sweep, 1), signal.SIGUSR2)
    code, _, err = sweep.wait()
    assert (code, err) == (0, ""), err
    assert "Requeued job" in sweep.log() and sweep.log().count("going on from step ") == 1
    assert "error: " not in sweep.log()
    assert plain.wait()[0] == 0
    assert curve(sweep.run(0)) == pytest.approx(curve(plain.run(0)), abs=1e-5)
    assert lines(sweep.run(0)) == lines(plain.run(0))
    assert summaries(sweep.directory) == summaries(plain.directory)


@pytest.mark.slow
def test_a_killed_task_ends_its_job_which_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, *TWO, "trainer.max_steps=150", "trainer.save_every_n_steps=20")
    until(lambda: steps(sweep.run(0)) >= 50)
    os.kill(task_of(sweep, 1), signal.SIGKILL)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "#0 was killed; it goes on as job " in out
    assert "going on from step " in sweep.log()
    assert "error: another process of this run is not there" in sweep.log()
    assert lines(sweep.run(0))[-1] == 150 and not (sweep.run(0) / "error.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_fails_says_why_for_all(rank: int, tmp_path: Path) -> None:
    path = tmp_path / "spoilt"
    path.mkdir()
    (path / "sitecustomize.py").write_text(
        "import os, ponder.config.checker\n"
        "def spoil(config, before=ponder.config.checker.check):\n"
        "    from ponder.training.learner import Learner\n"
        f"    if os.environ.get('RANK') == '{rank}':\n"
        "        Learner.denominators = lambda *words: 1 / 0\n"
        "    before(config)\n"
        "ponder.config.checker.check = spoil\n")
    sweep = Sweep(tmp_path, *TWO, environment={"PYTHONPATH": str(path)})
    code, out, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1 and "killed" not in out
    assert err.startswith("error: job 0 (") and "ZeroDivisionError: division by zero" in err
    assert "1 / 0" in (sweep.run(0) / "error.txt").read_text()


def test_a_task_that_follows_writes_nothing_into_the_directory(tmp_path: Path) -> None:
    config = OmegaConf.create({"hydra": {
        "output_subdir": ".hydra", "verbose": False, "job": {"name": "x"},
        "job_logging": {"version": 1, "root": {"handlers": ["file"]}, "handlers": {"file": {
            "class": "logging.FileHandler", "filename": f"{tmp_path}/run.log"}}},
        "sweep": {"dir": str(tmp_path), "subdir": "0"}}})
    OmegaConf.set_struct(config, True)
    hydra = aside(config).hydra
    configure_log(hydra.job_logging, hydra.verbose)
    assert hydra.output_subdir is None and hydra.sweep.dir != str(tmp_path)
    assert config.hydra.sweep.dir == str(tmp_path) and not list(tmp_path.iterdir())


def test_jobs_meet_in_different_places() -> None:
    assert len({port(number) for number in range(7, 7 + 12_000)}) == 12_000
    assert {port(number) for number in range(50_000)} == set(range(20_000, 32_000))
