"""Sweeps whose jobs run on this machine: told to stop, killed, failing, of two tasks each."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest

from ponder.sweeps.jobs import job_states, read_jobs
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

pytestmark = pytest.mark.nightly


def test_a_sweep_on_this_machine_is_the_same_runs_at_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "hydra/launcher=local", "hydra.launcher.cpus_per_task=1",
                  "seed=0,1", "trainer.max_steps=20", "trainer.lr=0.01")
    code, _, err = sweep.wait()
    assert (code, err) == (0, "")
    plain = Sweep(tmp_path, "seed=0,1", "trainer.max_steps=20", "trainer.lr=0.01", name="plain")
    assert plain.wait()[0] == 0
    assert summaries(sweep.directory) == summaries(plain.directory)
    assert len(set(summaries(plain.directory))) == 2


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
    (offline,) = sweep.run(0).glob("wandb/offline-run-*")
    assert offline.name.rpartition("-")[2] == (sweep.run(0) / "wandb_id").read_text()


def test_a_killed_job_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    words = ["trainer.max_steps=400", "trainer.save_every_n_steps=40"]
    sweep = Sweep(tmp_path, "hydra/launcher=local", "seed=3", *words)
    until(lambda: steps(sweep.run(0)) >= 90)
    os.kill(task_of(sweep), signal.SIGKILL)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "#0 was killed; it continues as job " in out
    assert "going on from step " in sweep.log()
    assert summaries(sweep.directory) == [weights(alone("seed=3", words[0]))]


def test_a_short_time_counts_as_a_timeout_and_too_many_end_the_job(tmp_path: Path) -> None:
    """submitit takes any USR2 for a timeout in jobs of ten minutes or less."""
    sweep = Sweep(tmp_path, "hydra/launcher=local", "hydra.launcher.timeout_min=5",
                  "+hydra.launcher.max_num_timeout=0", "seed=3", "trainer.max_steps=4000")
    until(lambda: steps(sweep.run(0)) >= 20)
    os.kill(task_of(sweep), signal.SIGUSR2)
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1 and "timed-out too many times" in err
    assert list(sweep.run(0).glob("checkpoint_*"))  # it has saved all the same


def test_one_failing_job_does_not_end_the_others(tmp_path: Path) -> None:
    """Hydra would call it COMPLETED, and say nothing in its files."""
    sweep = Sweep(tmp_path, "hydra/launcher=local", "seed=1,2,3", "trainer.max_steps=10",
                  environment={"PYTHONPATH": str(broken(tmp_path, "node.seed == 1"))})
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("error: job 0 (") and "seed=1" in err and "ZeroDivisionError" in err
    assert "ZeroDivisionError" in (sweep.run(0) / "error.txt").read_text()
    assert len(summaries(sweep.directory)) == 2


TWO = ["hydra/launcher=local", "hydra.launcher.tasks_per_node=2", "seed=3"]


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


def test_a_killed_task_ends_its_job_which_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, *TWO, "trainer.max_steps=150", "trainer.save_every_n_steps=20")
    until(lambda: steps(sweep.run(0)) >= 50)
    os.kill(task_of(sweep, 1), signal.SIGKILL)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "#0 was killed; it continues as job " in out
    assert "going on from step " in sweep.log()
    assert "error: another process of this run is not there" in sweep.log()
    assert lines(sweep.run(0))[-1] == 150 and not (sweep.run(0) / "error.txt").exists()


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


def test_the_end_of_a_sweep_leaves_its_jobs_and_the_same_sweep_goes_on(tmp_path: Path) -> None:
    """Its driver is killed; one job of two had room to run, and runs on."""
    words = ["hydra/launcher=local", f"hydra.launcher.cpus_per_task={os.cpu_count()}", "seed=1,2",
             "trainer.max_steps=1500"]
    sweep = Sweep(tmp_path, *words)
    until(lambda: sweep.run(0).is_dir() and (sweep.run(0) / "metrics.jsonl").is_file())
    sweep.process.kill()
    sweep.process.wait()
    assert [state.status for state in job_states(sweep.directory, read_jobs(sweep.directory))] == [
        "running", "vanished"]
    again = Sweep(tmp_path, *words)
    code, out, err = again.wait()
    assert (code, err) == (0, "") and "1 jobs for local" in out and "1 more go on already" in out
    assert len(summaries(sweep.directory)) == 2
    code, out, _ = Sweep(tmp_path, *words).wait()
    assert code == 0 and "2 more are done already" in out


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
def test_a_study_on_this_machine_outlives_its_driver(tmp_path: Path) -> None:
    """Killed, while two runs work: the next one waits for them."""
    words = ["hydra/sweeper=optuna", "hydra/launcher=local", "hydra.launcher.cpus_per_task=1",
             "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2",
             "trainer.lr=tag(log, interval(1e-4, 1e-1))", "trainer.max_steps=1500"]
    sweep = Sweep(tmp_path, *words)
    until(lambda: min(steps(sweep.run(0)), steps(sweep.run(1))) >= 5)
    os.kill(sweep.process.pid, signal.SIGKILL)
    sweep.process.wait()
    again = Sweep(tmp_path, *words)
    code, out, err = again.wait()
    assert (code, err) == (0, ""), err
    assert "0 of 2 trials are done" in out and "best of 2 trials (0 failed): #" in out
    assert "2 more go on already: " in out
    for number in range(2):
        assert len(list(sweep.directory.glob(f"*_{number}"))) == 1
        assert steps(sweep.run(number)) >= 1500 and (sweep.run(number) / "summary.json").is_file()
