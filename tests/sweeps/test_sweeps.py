"""A sweep as an object: its record, how its jobs stand, what is skipped, what is sent again."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

import ponder.cli.actions
from ponder.config.spine import Config
from ponder.sweeps import follow
from ponder.sweeps import jobs as jobs_module
from ponder.sweeps.follow import Follower, count_statuses
from ponder.sweeps.jobs import (
    Job,
    JobState,
    append_jobs,
    is_alive,
    job_states,
    process_name,
    read_jobs,
)
from ponder.training import run_directory
from support.small import Door
from support.sweeps import clean

SWEEP = ["-m", "hydra.sweep.dir=sweep"]
Calls = list[tuple[Config, Path]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Runs that end at once: with seed 13 by a bug, else with seed / 10 as accuracy."""
    seen: Calls = []

    def run(config: Config, directory: Path) -> float:
        seen.append((config, directory))
        if config.seed == 13:
            raise ZeroDivisionError("bad\nluck")
        end(directory, config.seed / 10)
        return config.seed / 10

    monkeypatch.setattr(ponder.cli.actions, "run", run)
    return seen


def end(directory: Path, accuracy: float) -> None:
    """What a run leaves that is done."""
    (directory / "summary.json").write_text(
        json.dumps({"status": "done", "accuracy": accuracy, "steps": 10}))


def seeds(calls: Calls) -> list[int]:
    found = [config.seed for config, _ in calls]
    calls.clear()
    return found


# --- the record ---------------------------------------------------------------------------------


def test_every_sweep_keeps_a_record(door: Door, calls: Calls) -> None:
    assert door(*SWEEP, "seed=1,2", "task.max=20", "sweep.detach=false")[0] == 0
    first, second = read_jobs(Path("sweep"))
    assert (first.job, first.overrides) == (0, ["seed=1", "task.max=20"])
    assert (second.job, second.place, second.launcher) == (1, "here", [])
    assert first.config_hash != second.config_hash
    assert Path("sweep") / first.directory == calls[0][1] and is_alive(second.id or "")


def test_words_with_references_are_kept_as_typed(door: Door, calls: Calls) -> None:
    words = ["seed=1", "task.test_questions=${task.max}", "hydra.sweep.subdir=run_${hydra.job.num}"]
    assert door(*SWEEP, *words) == (0, ANY, "")
    job, = read_jobs(Path("sweep"))
    assert (job.overrides[0], job.directory) == ("seed=1", "run_0")
    assert calls[0][0].task.test_questions == calls[0][0].task.max
    assert door(*SWEEP, *words)[0] == 0 and len(calls) == 1


def test_the_last_line_about_a_job_counts_and_broken_ones_do_not(tmp_path: Path) -> None:
    jobs = [Job(number, [f"seed={number}"], "hash", f"run_{number}") for number in (0, 1)]
    append_jobs(tmp_path, jobs)
    with (tmp_path / "sweep.jsonl").open("a") as file:
        file.write('{"job": 1, "half of a li\n[]\n{"job": 3}\n')
    append_jobs(tmp_path, [replace(jobs[0], id="7_0")])
    assert [(job.job, job.id) for job in read_jobs(tmp_path)] == [(0, "7_0"), (1, None)]
    assert read_jobs(tmp_path / "nowhere") == []


def test_a_process_is_known_by_its_birth_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(child.pid)
    assert is_alive(name) is True
    assert is_alive(name.rpartition(":")[0] + ":1.00") is False  # another one had the number before
    assert is_alive(f"another-machine:{child.pid}:1.00") is None
    child.communicate(b"\n")
    assert is_alive(name) is False


# --- how jobs stand -----------------------------------------------------------------------------


def stands(folder: Path, name: str, place: str, id: str | None = None) -> Job:
    (folder / name).mkdir()
    return Job(0, [], "hash", name, [], place, process_name(), id)


def test_states_come_from_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_slurm_queue", lambda: {
        "5_0": "RUNNING", "5_1": "PENDING", "5_3": "RUNNING", "5_4": "COMPLETING"})
    gone = process_name().rpartition(":")[0] + ":1.00"
    jobs = {name: stands(tmp_path, name, "slurm", id) for name, id in {
        "running": "5_0", "queued": "5_1", "vanished": "5_2", "done": "5_3",
        "failed": "5_4"}.items()}
    jobs |= {"here": stands(tmp_path, "here", "here", process_name()),
             "waits": stands(tmp_path, "waits", "local"),
             "gone": replace(stands(tmp_path, "gone", "local"), driver=gone),
             "away": stands(tmp_path, "away", "here", "another-machine:5:1.00")}
    end(tmp_path / "done", 0.5)
    (tmp_path / "failed" / "error.txt").write_text("Traceback\n  line\nValueError: no\n\n")
    (tmp_path / ".submitit" / "5_2").mkdir(parents=True)
    (tmp_path / ".submitit" / "5_2" / "5_2_0_log.err").write_text("one\nslurmstepd: killed\n")
    found = {state.job.directory: state for state in job_states(tmp_path, list(jobs.values()))}
    assert {name: state.status for name, state in found.items()} == {
        "running": "running", "queued": "queued", "vanished": "vanished", "done": "done",
        "failed": "failed", "here": "running", "waits": "queued", "gone": "vanished",
        "away": "elsewhere"}
    assert (found["done"].accuracy, found["done"].step) == (0.5, 10)
    assert found["failed"].error == "ValueError: no"
    assert found["vanished"].error == "slurmstepd: killed"
    assert count_statuses(list(found.values())) == (
        "1 failed, 2 vanished, 2 running, 1 elsewhere, 2 queued, 1 done")
    monkeypatch.setattr(jobs_module, "_slurm_queue", lambda: None)
    assert [state.status for state in job_states(tmp_path, [jobs["running"], jobs["done"]])] == [
        "elsewhere", "done"]


def test_the_newest_numbers_are_found_far_from_the_end(tmp_path: Path) -> None:
    job = stands(tmp_path, "run", "here", process_name())
    lines = [{"step": 5, "accuracy": 0.25}] + [
        {"step": step, "last_step": 4000, "steps_per_second": 50.0, "more": "x" * 100}
        for step in range(6, 2001)]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "run" / "metrics.jsonl").write_text(text + '\n{"step": 2001, "los')
    assert job_states(tmp_path, [job]) == [JobState(job, "running", 2000, 4000, 50.0, 0.25)]
    assert job_states(tmp_path, [job])[0].seconds_left == 40.0
    end(tmp_path / "run", 0.5)
    assert job_states(tmp_path, [job])[0].seconds_left is None


# --- the same sweep again -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_sweep_runs_only_what_is_not_done(door: Door, calls: Calls) -> None:
    assert door(*SWEEP, "seed=1,13,2")[0] == 1
    failed, = Path("sweep").glob("*_1")
    assert seeds(calls) == [1, 13, 2] and (failed / "error.txt").is_file()
    code, out, err = door(*SWEEP, "seed=1,2")
    assert (code, err, calls) == (0, "", []) and "2 more are done" in out
    assert door(*SWEEP, "seed=1,2,3,13", "logger=tensorboard")[0] == 1
    assert calls[1][1] == failed  # it goes on where it was
    assert seeds(calls) == [3, 13]
    assert len([path for path in Path("sweep").iterdir() if path.is_dir()]) == 4
    assert door(*SWEEP, "seed=1,2", "resume=never")[0] == 0 and seeds(calls) == [1, 2]
    assert door(*SWEEP, "seed=1", "task.max=11")[0] == 0 and seeds(calls) == [1]
    assert door("-m", "hydra.sweep.dir=other", "seed=1")[0] == 0 and seeds(calls) == [1]


def test_a_changed_table_is_another_job(door: Door, calls: Calls,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    Path("sums.csv").write_text("question,answer,split\n1+2=,03,train\n2+2=,04,test\n")
    words = [*SWEEP, "task.data=sums.csv", "seed=1"]
    assert door(*words)[0] == 0 and seeds(calls) == [1]
    assert door(*words)[0] == 0 and seeds(calls) == []
    Path("sums.csv").write_text("question,answer,split\n1+2=,04,train\n2+2=,04,test\n")
    code, out, err = door(*words)
    assert code == 0 and seeds(calls) == [1] and "task.data has changed since " in out + err
    assert door(*words)[0] == 0 and seeds(calls) == []
    Path("sums.csv").write_text("question,answer,split\n1+2=,04\n")
    code, out, err = door(*words)
    assert code == 2 and seeds(calls) == [] and "sums.csv, line 2: found 2 cells; legal: 3" in err


def test_jobs_that_are_the_same_count_each(door: Door, calls: Calls) -> None:
    assert door(*SWEEP, "run_type=a,b", "seed=1")[0] == 0 and seeds(calls) == [1, 1]
    assert door(*SWEEP, "run_type=a,b,c", "seed=1")[0] == 0 and seeds(calls) == [1]


def test_a_job_that_goes_on_is_waited_for_not_sent(door: Door, calls: Calls,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a sweep whose driver was killed. The jobs end when they have been seen to run."""
    assert door(*SWEEP, "seed=1,2")[0] == 0
    calls.clear()
    jobs, children = read_jobs(Path("sweep")), list[subprocess.Popen]()
    script = "import sys; input(); open(sys.argv[1], 'w').write(sys.argv[2])"
    for job, name, text in (
            (jobs[0], "summary.json", '{"status": "done", "accuracy": 0.7}'),
            (jobs[1], "error.txt", "ValueError: late\n")):
        directory = Path("sweep") / job.directory
        (directory / "summary.json").unlink()
        children.append(subprocess.Popen([sys.executable, "-c", script, str(directory / name),
                                          text], stdin=subprocess.PIPE))
        append_jobs(Path("sweep"), [replace(job, id=process_name(children[-1].pid))])

    def look(self: Follower, before: Any = Follower.refresh) -> Any:
        found = before(self)
        for child in children:
            if child.returncode is None:
                child.communicate(b"\n")
        return found

    monkeypatch.setattr(Follower, "refresh", look)
    monkeypatch.setattr(follow, "REFRESH_SECONDS", 0.0)
    code, out, err = door(*SWEEP, "seed=1,2")
    assert (code, calls) == (1, [])
    assert "2 running" in out and err == "error: job 1 (seed=2): ValueError: late\n"


def test_a_mistake_in_a_job_is_found_before_any_is_run(door: Door, calls: Calls) -> None:
    code, _, err = door(*SWEEP, "seed=1,2", "rollout.samples=4,-1")
    assert code == 2 and seeds(calls) == [1, 2]
    assert err.count("\n") == 2 and err.startswith("error: job 1 (seed=1 rollout.samples=-1): ")
    assert len(read_jobs(Path("sweep"))) == 2


def test_a_mistake_in_the_words_ends_all(door: Door, calls: Calls) -> None:
    code, _, err = door(*SWEEP, "seed=1,x")
    assert (code, calls, err.count("\n")) == (2, [], 1)
    assert err.startswith("error: seed=x: found 'x'") and "legal: " in err


# --- action=sweep -------------------------------------------------------------------------------


def test_a_sweep_is_shown(door: Door, calls: Calls, tmp_path: Path) -> None:
    assert door("-m", "seed=1,13,2", "task.max=20", "sweep.dir=star_runs/one")[0] == 1
    before = sorted(tmp_path.rglob("*"))
    code, out, err = door("action=sweep")
    assert code == 1 and err.startswith("error: 1 of 3 ")
    assert err.endswith("action=sweep sweep.dir=star_runs/one sweep.retry=failed\n")
    assert "star_runs/one" in out and "1 failed, 2 done" in out and "task.max=20" in out
    row = next(line for line in out.splitlines() if "_0 " in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][1:] == [
        "done", "10/10", "", "0.1000", "", "seed=1"]
    assert "ZeroDivisionError: bad luck" in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words, line", [
    (["sweep.dir=nowhere"], "sweep.dir=nowhere: found no sweep.jsonl"),
    ([], "sweep.dir=null: found no star_runs/*/sweep.jsonl"),
    (["sweep.retry=faild"], "sweep.retry=faild: found 'faild' (did you mean failed?); legal: "),
    (["sweep.retry=failed", "sweep.dir=nowhere"], "sweep.dir=nowhere: found no sweep.jsonl"),
    (["sweep.retry=failed", "seed=3"], "seed=3: found sweep.retry=failed"),
])
def test_what_cannot_be_shown_gets_one_line(words: list[str], line: str, door: Door,
                                            tmp_path: Path) -> None:
    code, out, err = door("action=sweep", *words)
    assert (code, out) == (2, "") and err.startswith(f"error: {line}") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_only_slurm_is_left_alone(door: Door, calls: Calls) -> None:
    code, _, err = door(*SWEEP, "seed=1,2", "sweep.detach=true")
    assert (code, calls) == (2, []) and err.startswith("error: sweep.detach=true: found ")


# --- sweep.retry=failed -------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_lost_is_sent_again_as_it_was(door: Door, calls: Calls,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    assert door(*SWEEP, "seed=1,13", "task.max=20,30")[0] == 1
    assert seeds(calls) == [1, 1, 13, 13]
    path, = Path("sweep").glob("*_2/.hydra/config.yaml")
    path.write_text(path.read_text().replace("  max: 20", "  max: 25"))  # what was sent counts
    before = read_jobs(Path("sweep"))
    code, out, err = door("action=sweep", "sweep.dir=sweep", "sweep.retry=failed")
    assert code == 1 and err.count("\n") == 2
    assert [(config.task.max, directory.name[-2:]) for config, directory in calls] == [
        (25, "_2"), (30, "_3")]
    assert [replace(job, sent="", driver="", id=None) for job in read_jobs(Path("sweep"))] == [
        replace(job, sent="", driver="", id=None) for job in before]
    monkeypatch.setattr(ponder.cli.actions, "run", lambda config, directory: end(directory, 1.0))
    assert door("action=sweep", "sweep.dir=sweep", "sweep.retry=failed")[0] == 0
    code, out, err = door("action=sweep", "sweep.dir=sweep")
    assert (code, err) == (0, "") and "4 done" in out
    assert "action=compare runs=sweep" in out
    assert door("action=sweep", "sweep.dir=sweep", "sweep.retry=failed")[0] == 0


def test_a_configuration_that_is_gone_gets_one_line(door: Door, calls: Calls) -> None:
    assert door(*SWEEP, "seed=13")[0] == 1
    path, = Path("sweep").glob("*_0/.hydra/config.yaml")
    path.write_text("seed: [")
    code, _, err = door("action=sweep", "sweep.dir=sweep", "sweep.retry=failed")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"error: job 0 (seed=13): {path}: ")


# --- the code -----------------------------------------------------------------------------------


def repository(folder: Path) -> Path:
    """A small one, with a commit, a change and a new file."""
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *words], cwd=folder,
                       check=True, capture_output=True)

    (folder / "src/ponder").mkdir(parents=True)
    (folder / "run.py").write_text("a = 1\n")
    (folder / "notes.md").write_text("x\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    (folder / "notes.md").write_text("y\n")  # no code
    return folder


def test_a_run_says_of_which_code_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = repository(tmp_path / "one")
    monkeypatch.setattr(run_directory, "ROOT", root)
    run_directory.code_differences.cache_clear()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True,
                            text=True).stdout.strip()
    assert run_directory.code_revision() == commit
    assert run_directory.code_differences() == f"commit {commit}\n"
    run_directory.code_differences.cache_clear()
    (root / "run.py").write_text("a = 2\n")
    (root / "src/ponder/new.py").write_text("b = 3\n")
    assert run_directory.code_revision() == commit + "+"
    run_directory.save_code_diff(tmp_path)
    again = tmp_path / "again"
    subprocess.run(["git", "clone", "-q", str(root), str(again)], check=True)
    subprocess.run(["git", "apply", str(tmp_path / "git.diff")], cwd=again, check=True)
    assert (again / "run.py").read_text() == "a = 2\n"
    assert (again / "src/ponder/new.py").read_text() == "b = 3\n"
    run_directory.code_differences.cache_clear()


def test_a_copy_is_made_once_and_knows_its_code(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    root = repository(tmp_path / "one")
    monkeypatch.setattr(run_directory, "ROOT", root)
    run_directory.code_differences.cache_clear()
    first, revision = run_directory.freeze_code(tmp_path / "code"), run_directory.code_revision()
    assert run_directory.freeze_code(tmp_path / "code") == first
    (root / "run.py").write_text("a = 2\n")
    second = run_directory.freeze_code(tmp_path / "code")
    assert second != first and (first / "run.py").read_text() == "a = 1\n"
    assert sorted(tmp_path.glob("code/*")) == sorted([first, second])
    monkeypatch.setattr(run_directory, "ROOT", first)
    run_directory.code_differences.cache_clear()
    assert run_directory.code_revision() == revision
    run_directory.code_differences.cache_clear()


@pytest.mark.slow
def test_a_copy_runs(tmp_path: Path) -> None:
    copy = run_directory.freeze_code(tmp_path)
    done = subprocess.run([sys.executable, str(copy / "run.py"), "--cfg", "job"], text=True,
                          capture_output=True, env=clean(PYTHONPATH=str(copy / "src")))
    assert done.returncode == 0 and "max_steps" in done.stdout, done.stderr


def test_no_repository_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run_directory.code_differences.cache_clear()
    assert run_directory.code_revision() is None
    run_directory.save_code_diff(tmp_path)
    assert not list(tmp_path.iterdir())
    run_directory.code_differences.cache_clear()
