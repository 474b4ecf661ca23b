"""Jobs on a real Slurm: they start, fail, are told, killed, requeued, preempted, cancelled."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest
import yaml

from support.slurm import cluster, made_room, queued, sent, slurm
from support.sweeps import (
    Sweep,
    alone,
    broken,
    curve,
    files,
    lines,
    steps,
    summaries,
    task_of,
    until,
    weights,
)

LONG = ["trainer.max_steps=1200", "seed=3"]
pytestmark = pytest.mark.slow
__all__ = ["cluster"]


def job(sweep: Sweep) -> str:
    """The id of the only job of a sweep."""
    path, = sweep.directory.glob(".submitit/*/*_submitted.pkl")
    return path.parent.name


def same_as_undisturbed(sweep: Sweep, words: list[str] = LONG) -> None:
    """Whether the only run of a sweep ended as one that nobody disturbed, in one directory."""
    code, _, err = sweep.wait()
    assert (code, err) == (0, "")
    assert "going on from step " in sweep.log()
    assert summaries(sweep.directory) == [weights(alone(*words))]
    assert lines(sweep.run(0)) == lines(alone(*words))
    assert len([path for path in sweep.directory.glob("*_*") if path.is_dir()]) == 1


def test_a_sweep_on_slurm_is_the_same_runs(tmp_path: Path) -> None:
    words = ["trainer.max_steps=20", "trainer.lr=0.01"]
    sweep = sent(tmp_path, "seed=0,1,2,3", *words)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "4 jobs for slurm" in out
    assert all(re.fullmatch(r"\d\d-\d\d-\d\d_\d", sweep.run(job).name) for job in range(4))
    plain = Sweep(tmp_path, "seed=0,1,2,3", *words, name="plain")
    assert plain.wait()[0] == 0
    assert summaries(sweep.directory) == summaries(plain.directory)
    assert len(set(summaries(plain.directory))) == 4


def test_a_bug_in_one_job_leaves_its_traceback_and_the_others(tmp_path: Path) -> None:
    sweep = sent(tmp_path, "seed=0,1,2,3", "trainer.max_steps=10",
                 PYTHONPATH=str(broken(tmp_path, "node.seed == 0")))
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: job 0 (")
    assert "ZeroDivisionError: division by zero" in err
    assert "in fail\n" in (sweep.run(0) / "error.txt").read_text()
    assert len(summaries(sweep.directory)) == 3 and not (sweep.run(1) / "error.txt").exists()


def test_a_partition_that_is_not_there_gets_one_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "hydra.launcher.partition=nowhere", "seed=0,1")
    code, _, err = sweep.wait()
    assert code == 2 and err.count("\n") == 1 and not queued(tmp_path)
    assert err.startswith("error: hydra/launcher=slurm: ") and "sbatch: error: " in err
    assert "legal: hydra.launcher.partition" in err


def test_a_job_that_is_told_goes_back_into_the_queue(tmp_path: Path) -> None:
    """USR2: it saves, though no checkpoint is due, and starts again where it was."""
    sweep = sent(tmp_path, *LONG)
    until(lambda: steps(sweep.run(0)) >= 30)
    slurm("scancel", "--signal=USR2", job(sweep))
    same_as_undisturbed(sweep)


def test_a_requeued_job_saves_before_it_is_killed(tmp_path: Path) -> None:
    """`scontrol requeue` sends TERM, and KILL after five seconds, within which the run must not
    end; submitit's own checkpoint is never called.
    """
    longer = ["trainer.max_steps=2500", "seed=3"]
    sweep = sent(tmp_path, *longer)
    until(lambda: steps(sweep.run(0)) >= 30)
    slurm("scontrol", "requeue", job(sweep))
    same_as_undisturbed(sweep, longer)


def test_a_killed_job_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    sweep = sent(tmp_path, *LONG, "trainer.save_every_n_steps=50")
    until(lambda: steps(sweep.run(0)) >= 120)
    slurm("scancel", "--signal=KILL", f"{job(sweep)}.0")
    same_as_undisturbed(sweep)


def test_a_cancelled_job_stays_cancelled(tmp_path: Path) -> None:
    sweep = sent(tmp_path, "trainer.max_steps=100000", "seed=3")
    until(lambda: steps(sweep.run(0)) >= 10)
    slurm("scancel", job(sweep))
    code, _, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("error: job 0 (") and "CANCELLED" in err and not queued(tmp_path)
    assert list(sweep.run(0).glob("checkpoint_*"))  # TERM came before KILL


def test_jobs_on_overcap_make_room_and_come_back(tmp_path: Path) -> None:
    """A job on kargo-lab wants every GPU: Slurm itself sends the signal."""
    sweep = sent(tmp_path, *LONG)
    until(lambda: steps(sweep.run(0)) >= 30)
    slurm("srun", "--partition=kargo-lab", "--gpus=8", "true")  # returns when it has run
    assert made_room(job(sweep))
    same_as_undisturbed(sweep)


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None,
                    reason="optuna is not installed: pip install -e .[optuna]")
def test_a_study_on_slurm_goes_on_with_the_jobs_it_finds_there(tmp_path: Path) -> None:
    """The call that began it is killed while its jobs run; the next one waits for them."""
    words = ["hydra/sweeper=optuna", "trainer.lr=tag(log, interval(1e-3, 1e-1))",
             "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "trainer.max_steps=2000"]
    first = sent(tmp_path, *words)
    until(lambda: min(steps(first.run(0)), steps(first.run(1))) >= 5)
    first.process.kill()
    first.process.wait()
    second = sent(tmp_path, *words)
    code, out, err = second.wait()
    assert (code, err) == (0, "")
    assert "0 of 3 trials are done" in out and "2 more go on already: " in out
    assert "best of 3 trials (0 failed): #" in out
    found = yaml.safe_load((second.directory / "optimization_results.yaml").read_text())
    assert found["trials"] == len(set(summaries(second.directory))) == 3


# --- several tasks a job --------------------------------------------------------------------------

TWO = ["hydra.launcher.tasks_per_node=2", "hydra.launcher.nodes=1"]
LEARNS = ["strategy=reinforce,ppo,dpo", "rollout.samples=4", "reward=exact_match",
          "trainer.max_steps=20", "trainer.val_every_n_steps=10"]


def test_two_tasks_a_job_are_one_run(tmp_path: Path) -> None:
    """Three jobs of two tasks on one node: they meet in three places, and none disturbs another."""
    sweep, plain = sent(tmp_path, *TWO, *LEARNS), Sweep(tmp_path, *LEARNS, name="plain")
    code, _, err = sweep.wait()
    assert (code, err) == (0, "") and plain.wait()[0] == 0
    for number in range(3):
        own, other = sweep.run(number), plain.run(number)
        assert len(curve(own)) == 20
        assert curve(own) == pytest.approx(curve(other), abs=1e-5)
        assert lines(own) == lines(other) and files(own) == files(other)
    assert len(list(sweep.directory.glob("*_*"))) == 3
    assert sweep.log().count("local_rank=1(2)") == 3


@pytest.mark.parametrize("how, steps_taken", [("scancel --signal=USR2", 150),
                                              ("scontrol requeue", 500)])
def test_two_tasks_that_are_told_go_back_together(how: str, steps_taken: int,
                                                  tmp_path: Path) -> None:
    """Of two jobs that are alike one is told. TERM comes five seconds before KILL."""
    sweep = sent(tmp_path, *TWO, f"trainer.max_steps={steps_taken}", "seed=3,3")
    until(lambda: steps(sweep.run(0)) >= 30)
    slurm(*how.split(), next(sweep.directory.glob(".submitit/*_0")).name)
    code, _, err = sweep.wait()
    assert (code, err) == (0, "") and sweep.log().count("going on from step ") == 1
    assert lines(sweep.run(0)) == lines(sweep.run(1))
    assert curve(sweep.run(0)) == pytest.approx(curve(sweep.run(1)), abs=1e-5)
    assert len({*summaries(sweep.directory)}) == 1
    assert not list(sweep.directory.glob("*/error.txt"))


def test_a_killed_task_takes_the_others_with_it(tmp_path: Path) -> None:
    """The job is sent again, and goes on from its last checkpoint."""
    sweep = sent(tmp_path, *TWO, "seed=3", "trainer.max_steps=150", "trainer.save_every_n_steps=20")
    until(lambda: steps(sweep.run(0)) >= 50)
    os.kill(task_of(sweep, 1), signal.SIGKILL)
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "#0 was killed; it continues as job " in out
    assert "going on from step " in sweep.log() and lines(sweep.run(0))[-1] == 150
    scripts = [path.read_text() for path in sweep.directory.glob(".submitit/*/*_submission.sh")]
    assert scripts and all("srun --unbuffered" in script and " --kill-on-bad-exit=1 --wait=60 "
                           in script for script in scripts)
