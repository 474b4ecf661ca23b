"""Whole sweeps on a real Slurm: disasters, drivers that die, frozen inputs, long queues."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ponder.sweeps.follow import job_table
from ponder.sweeps.jobs import Job, job_states, read_jobs
from ponder.training import run_directory
from support.slurm import cluster, made_room, sent, slurm
from support.sweeps import (
    ROOT,
    Sweep,
    alone,
    broken,
    clean,
    lines,
    steps,
    summaries,
    until,
    weights,
)

LONG = ["trainer.max_steps=1200", "seed=3"]
HELD = "+hydra.launcher.additional_parameters.hold=true"
pytestmark = [pytest.mark.nightly, pytest.mark.slow]
__all__ = ["cluster"]


def look(sweep: Sweep, *words: str) -> tuple[int, str, str]:
    """action=sweep: exit code, stdout, stderr."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), "action=sweep",
                           f"sweep.dir={sweep.directory}", *words], capture_output=True, text=True,
                          cwd=sweep.directory.parent, env=clean(), timeout=900)
    return done.returncode, done.stdout, done.stderr


def under_way(sweep: Sweep, count: int, besides: tuple[Job, ...] = ()) -> list[Job]:
    """Other jobs that have begun to learn, as soon as there are so many."""
    found: list[Job] = []

    def enough() -> bool:
        jobs = read_jobs(sweep.directory) if sweep.directory.is_dir() else []
        found[:] = [state.job for state in job_states(sweep.directory, jobs)
                    if state.status == "running" and (state.step or 0) >= 60
                    and state.job.directory not in {job.directory for job in besides}]
        return len(found) >= count

    until(enough)
    return found


def ended(directory: Path) -> dict[str, str]:
    """Hash of a job's configuration -> that of its last weights, of the jobs that are done."""
    return {job.config_hash: weights(directory / job.directory) for job in read_jobs(directory)
            if (directory / job.directory / "summary.json").is_file()}


def test_a_sweep_survives_disasters(tmp_path: Path) -> None:
    """Twelve jobs: one fails on purpose, one is killed, one requeued, those that run then are
    preempted. What is lost is sent again when the cause is gone.
    """
    words = ["seed=0,1,2", "blind=true,false", "super=true,false", "trainer.max_steps=800",
             "trainer.save_every_n_steps=20"]
    spoilt = broken(tmp_path, 'node.seed == 2 and node.answerer.learns_from == "gold" '
                              'and "question" not in node.answerer.sees')
    sweep = sent(tmp_path, *words, "hydra.launcher.array_parallelism=4", PYTHONPATH=str(spoilt))
    plain = Sweep(tmp_path, *words, name="undisturbed")
    killed, requeued, *_ = under_way(sweep, 2)
    slurm("scancel", "--signal=KILL", f"{killed.id}.0")
    slurm("scontrol", "requeue", str(requeued.id))
    preempted = under_way(sweep, 1, besides=(killed, requeued))
    slurm("srun", "--partition=kargo-lab", "--gpus=8", "true")
    code, out, err = sweep.wait()
    assert code == 1 and err.count("\n") == 1 and "ZeroDivisionError" in err, err
    assert "was killed" in out and "sweep.retry=failed" in out
    assert plain.wait()[0] == 0
    undisturbed = ended(plain.directory)
    assert len(undisturbed) == 12 and len(ended(sweep.directory)) == 11
    assert ended(sweep.directory).items() <= undisturbed.items()
    assert all(job.config_hash in ended(sweep.directory) for job in preempted)
    assert any(made_room(str(job.id)) for job in preempted)
    assert sweep.log().count("going on from step ") >= 2  # the killed one: if it had saved
    code, out, err = look(sweep)
    assert code == 1 and "1 failed, 11 done" in out
    assert f"again: python {ROOT / 'run.py'} action=sweep" in err
    code, out, err = look(sweep, "sweep.retry=failed")
    assert (code, err) == (0, "") and "1 jobs for slurm" in out
    assert ended(sweep.directory) == undisturbed
    code, out, _ = sent(tmp_path, *words, "hydra.launcher.array_parallelism=4").wait()
    assert code == 0 and "0 jobs for slurm" in out and "12 more are done already" in out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_a_sweep_outlives_its_driver(number: signal.Signals, tmp_path: Path) -> None:
    """The jobs go on, are shown, and the same sweep waits for them: two programs must start while
    they run.
    """
    words = ["trainer.max_steps=2000", "seed=3"]
    sweep = sent(tmp_path, *words)
    until(lambda: steps(sweep.run(0)) >= 30)
    sweep.process.send_signal(number)
    code, _, err = sweep.wait()
    if number == signal.SIGINT:
        assert code == 130 and "action=sweep" in err
    code, out, _ = look(sweep)
    assert code == 0 and ": 1 running\n" in out
    again = sent(tmp_path, *words)
    code, out, err = again.wait()
    assert (code, err) == (0, "") and "0 jobs for slurm" in out and "1 more go on already" in out
    assert summaries(sweep.directory) == [weights(alone(*words))]
    assert lines(sweep.run(0)) == lines(alone(*words))


def test_what_was_sent_is_what_runs(tmp_path: Path) -> None:
    """Code and configuration files are edited while the job waits."""
    project = run_directory.freeze_code(tmp_path / "project")
    sweep = sent(tmp_path, *LONG, HELD, "sweep.detach=true", root=project,
                 PYTHONPATH=str(project / "src"))
    code, out, err = sweep.wait()
    assert (code, err) == (0, "") and "action=sweep" in out
    assert ": 1 queued\n" in look(sweep)[1]
    (project / "src/ponder/cli/actions.py").write_text("raise RuntimeError('edited')\n")
    (project / "conf/config.yaml").write_text("seed: 4\n")
    slurm("scontrol", "release", str(read_jobs(sweep.directory)[0].id))
    until(lambda: (sweep.run(0) / "summary.json").is_file())
    assert summaries(sweep.directory) == [weights(alone(*LONG))]
    assert (sweep.run(0) / "git.diff").read_text() == (project / "git.diff").read_text()


def test_a_long_queue_is_shown(tmp_path: Path) -> None:
    sweep = sent(tmp_path, "seed=range(200)", "trainer.max_steps=100000", "sweep.detach=true",
                 "hydra.launcher.array_parallelism=4")
    assert sweep.wait()[0] == 0
    jobs = read_jobs(sweep.directory)
    try:
        until(lambda: steps(sweep.run(0)) >= 10)
        found = job_states(sweep.directory, read_jobs(sweep.directory))
        drawn = job_table(found, 200)
    finally:
        slurm("scancel", str(jobs[0].id).partition("_")[0])
    names = [state.status for state in found]
    assert (names.count("running"), names.count("queued"), drawn.row_count) == (4, 196, 200)
