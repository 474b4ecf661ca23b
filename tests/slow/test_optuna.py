"""Sweeps as studies of Optuna's, with runs whose accuracy is known beforehand."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import ponder.cli.actions
from ponder.config.errors import UserError
from ponder.config.spine import Config
from ponder.sweeps import jobs as jobs_module
from ponder.sweeps.optuna import Study, read_space
from support.small import Door
from support.sweeps import SMALL, clean

pytestmark = pytest.mark.nightly

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None,
                                  reason="optuna is not installed: pip install -e .[optuna]")
STUDY = ["-m", "hydra/sweeper=optuna", "hydra.sweep.dir=here"]
LR = "trainer.lr=tag(log, interval(1e-4, 1e-1))"
ENTROPY = "strategy.entropy=choice(0,0.01)"


def hill(config: Config) -> float:
    """The accuracy of a run: 1 at lr 0.01 with an entropy bonus, less everywhere else."""
    bonus = 0.0 if float(config.strategy.entropy) else 0.3
    return 1 - (math.log10(config.trainer.lr) + 2) ** 2 / 4 - bonus


class Runs:
    """Stands in for runs: what each was asked for, and a way to break the one with a number."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.directories: list[str] = []
        self.breaks: dict[int, BaseException] = {}
        self.returns: Callable[[Config], float | None] = hill

    def __call__(self, config: Config, directory: Path) -> float | None:
        self.rates.append(config.trainer.lr)
        self.directories.append(str(directory))
        broken = self.breaks.pop(len(self.rates) - 1, None)
        if broken is not None:
            raise broken
        accuracy = self.returns(config)
        (directory / "summary.json").write_text(
            json.dumps({"status": "done", "accuracy": accuracy}))
        return accuracy


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(ponder.cli.actions, "run", found)
    return found


def results() -> dict:
    return yaml.safe_load(Path("here/optimization_results.yaml").read_text())


# --- what is found ------------------------------------------------------------------------------


@pytest.mark.slow
@needs_optuna
def test_a_study_finds_the_top_of_a_hill(door: Door, runs: Runs) -> None:
    code, out, err = door(*STUDY, LR, ENTROPY, "hydra.sweeper.n_trials=16",
                          "hydra.sweeper.n_jobs=2", "+hydra.sweeper.sampler.n_startup_trials=6")
    found = results()
    assert (code, err, len(runs.rates), found["trials"], found["failed"]) == (0, "", 16, 16, 0)
    rate = found["best_params"]["trainer.lr"]
    assert 0.005 < rate < 0.02 and found["best_params"]["strategy.entropy"] == "0.01"
    assert found["best_value"] == 1 - (math.log10(rate) + 2) ** 2 / 4
    off = [abs(math.log10(rate) + 2) for rate in runs.rates]
    assert sum(off[6:]) / 10 < sum(off[:6]) / 6  # it has learnt where to look
    assert found["best_directory"] == runs.directories[found["best_trial"]]
    last = out.splitlines()[-1]
    assert found["best_directory"] in last and last.endswith(
        f"trainer.lr={rate} strategy.entropy=0.01")


@needs_optuna
def test_the_least_may_be_wanted(door: Door, runs: Runs) -> None:
    code, _, _ = door(*STUDY, "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=5", LR)
    worst = min(1 - (math.log10(rate) + 2) ** 2 / 4 - 0.3 for rate in runs.rates)
    assert code == 0 and results()["best_value"] == pytest.approx(worst)


@pytest.mark.slow
@needs_optuna
def test_the_seed_decides_what_is_tried(door: Door, runs: Runs) -> None:
    def tried(*words: str) -> list[float]:
        runs.rates.clear()
        assert door("-m", "hydra/sweeper=optuna", LR, "hydra.sweeper.n_trials=5", *words,
                    "+hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweeper.n_jobs=3")[0] == 0
        return list(runs.rates)

    seven = tried("hydra.sweep.dir=a", "hydra.sweeper.sampler.seed=7")
    assert seven == tried("hydra.sweep.dir=b", "hydra.sweeper.sampler.seed=7")
    assert len({*seven, *tried("hydra.sweep.dir=c")}) == 10


# --- failures and interruptions -----------------------------------------------------------------


@needs_optuna
def test_a_run_that_fails_is_a_failed_trial(door: Door, runs: Runs) -> None:
    runs.breaks = {0: ZeroDivisionError("bug"), 2: UserError("x=1: found 1")}
    runs.returns = lambda config: math.nan if len(runs.rates) == 4 else 0.25
    code, out, err = door(*STUDY, LR, "hydra.sweeper.n_trials=5")
    assert (code, err.count("\n"), len(runs.rates)) == (0, 2, 5)
    assert err.startswith("error: ZeroDivisionError: bug") and "here/" in err
    assert "#1" in out and "0.2500" in out
    assert (results()["trials"], results()["failed"], results()["best_value"]) == (5, 3, 0.25)


@needs_optuna
def test_a_study_without_any_accuracy_gets_one_line(door: Door, runs: Runs) -> None:
    runs.returns = lambda config: None
    code, _, err = door(*STUDY, LR, "hydra.sweeper.n_trials=2")
    assert code == 2 and err.startswith("error: hydra/sweeper=optuna: found no accuracy")
    assert err.count("\n") == 1 and not Path("here/optimization_results.yaml").exists()


@pytest.mark.slow
@needs_optuna
@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(
        jobs: int, door: Door, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [LR, "hydra.sweeper.n_trials=6", f"hydra.sweeper.n_jobs={jobs}",
             "+hydra.sweeper.sampler.n_startup_trials=2"]
    assert door("-m", "hydra/sweeper=optuna", "hydra.sweep.dir=plain", *words)[0] == 0
    undisturbed = list(runs.rates)
    runs.__init__()
    runs.breaks = {4: KeyboardInterrupt()}
    assert door(*STUDY, *words)[0] == 130
    before = 4 - 4 % jobs  # how many had come back
    assert runs.rates == undisturbed[:5] and not Path("here/optimization_results.yaml").exists()
    interrupted = runs.directories[4]
    runs.__init__()
    monkeypatch.setattr(jobs_module, "is_alive", lambda name: False)  # as in another process
    code, out, _ = door(*STUDY, *words)
    assert code == 0 and f"{before} of 6" in out
    assert runs.rates == undisturbed[4:]  # what had ended does not run again
    assert runs.directories[0] == interrupted  # and what had not goes on where it was
    assert results()["trials"] == 6
    runs.__init__()
    assert door(*STUDY, *words)[0] == 0 and runs.rates == []  # there is nothing left to do
    assert door(*STUDY, *words, "hydra.sweeper.n_trials=7")[0] == 0 and len(runs.rates) == 1


@needs_optuna
def test_other_words_in_the_same_directory_are_another_study(door: Door, runs: Runs) -> None:
    for words in ([LR], [LR, "seed=1"], ["seed=1", LR]):  # the last two are the same
        assert door(*STUDY, *words, "hydra.sweeper.n_trials=2")[0] == 0
    assert len(runs.rates) == 4


# --- one line -----------------------------------------------------------------------------------


def test_without_optuna_one_line_says_how_to_get_it(door: Door, runs: Runs,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    import ponder.sweeps.optuna

    monkeypatch.setattr(ponder.sweeps.optuna, "find_spec", lambda name: None)
    code, out, err = door(*STUDY, LR)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: hydra/sweeper=optuna: ") and "pip install ponder[optuna]" in err
    assert not Path("here").exists()


def test_a_sweeper_without_a_sweep_gets_one_line(door: Door, runs: Runs) -> None:
    code, _, err = door("hydra/sweeper=optuna", "trainer.lr=0.1")
    assert code == 2 and err.startswith("error: hydra/sweeper=optuna: found no -m")
    assert "legal: -m" in err and err.count("\n") == 1
    assert door("hydra/sweeper=optuna", "--cfg", "hydra", "-p", "hydra.sweeper")[0] == 0


@needs_optuna
@pytest.mark.parametrize("words, line", [
    (["seed=1"], "hydra/sweeper=optuna: found no key"),
    (["trainer.lr=interval(2,1)"], "trainer.lr=interval(2,1): found nothing"),
    (["trainer.lr=tag(log,interval(0,1))"], "trainer.lr=tag(log,interval(0,1)): found nothing"),
    (["trainer.lrr=interval(0,1)"], "trainer.lrr: no such key (did you mean lr?); legal here: "),
    (["trainer.lr=interval(-2,-1)"], "trainer.lr=-"),
    (["seed=interval(0,1)"], "seed=0."),
    ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: found 0; legal: at least 1"),
    ([LR, "hydra.sweeper.n_jobs=x"], "hydra.sweeper.n_jobs=x: found 'x'; legal: a whole number"),
    ([LR, "hydra.sweeper.direction=up"], "hydra.sweeper.direction=up: found 'up'; legal: maximize"),
    ([LR, "hydra.sweeper.sampler.name=tpee"], "hydra.sweeper.sampler.name=tpee: found 'tpee' (did "
     "you mean tpe?); legal: tpe, random, gp, cmaes"),
    ([LR, "+hydra.sweeper.sampler.foo=1"], "hydra.sweeper.sampler=tpe: found "),
    ([LR, "hydra.sweeper.storage=/proc/no"], "hydra.sweeper.storage=/proc/no: "),
    ([LR, "hydra.sweeper.storage=foo://x"], "hydra.sweeper.storage=foo://x: "),
    ([LR, "sweep.detach=true"], "sweep.detach=true: found hydra/sweeper=optuna"),
    ([LR, "hydra/sweeper=optuno"], "hydra/sweeper=optuno: found 'optuno' (did you mean optuna?); "),
])
def test_a_mistake_gets_one_line_and_runs_nothing(words: list[str], line: str, door: Door,
                                                  runs: Runs) -> None:
    code, _, err = door(*STUDY, *words)
    assert (code, runs.rates, err.count("\n")) == (2, [], 1), err
    assert err.startswith(f"error: {line}"), err


def test_an_interval_without_optuna_is_told_of_it(door: Door, runs: Runs) -> None:
    code, _, err = door("-m", "hydra.sweep.dir=here", LR)
    assert (code, runs.rates, err.count("\n")) == (2, [], 1)
    assert err.startswith("error: interval(...): found ") and "hydra/sweeper=optuna" in err


@needs_optuna
def test_trials_on_another_table_are_another_study(door: Door, runs: Runs) -> None:
    table = "question,answer,split\n1+2=,03,train\n2+2=,04,test\n"
    Path("sums.csv").write_text(table)
    words = [*STUDY, "hydra.sweeper.n_trials=1", LR, "task.data=sums.csv"]
    assert door(*words)[0] == 0 == door(*words)[0]
    Path("sums.csv").write_text(table.replace("1+2=,03", "1+3=,04"))
    code, _, err = door(*words)
    assert code == 2 and err.startswith("error: task.data: found another content than in earlier")


@needs_optuna
def test_a_name_that_other_words_have_is_refused(door: Door, runs: Runs) -> None:
    named = ["hydra.sweeper.study_name=mine", "hydra.sweeper.n_trials=1"]
    assert door(*STUDY, *named, LR)[0] == 0
    code, _, err = door(*STUDY, *named, LR, "seed=1")
    assert code == 2 and err.startswith("error: hydra.sweeper.study_name=mine: found ")
    assert "here/optuna.journal (maximize trainer.lr=" in err


# --- the parts ----------------------------------------------------------------------------------


@needs_optuna
@pytest.mark.parametrize("word, kind, about", [
    ("a=interval(1,5)", "FloatDistribution", {"low": 1.0, "high": 5.0, "log": False}),
    ("a=int(interval(1,5))", "IntDistribution", {"low": 1, "high": 5, "step": 1}),
    ("a=tag(log, interval(1e-4, 0.1))", "FloatDistribution", {"low": 1e-4, "log": True}),
    ("a=range(1,10,4)", "IntDistribution", {"low": 1, "high": 9, "step": 4}),
    ("a=range(9,0,-4)", "IntDistribution", {"low": 1, "high": 9, "step": 4}),
    ("a=range(0,1,0.25)", "FloatDistribution", {"low": 0.0, "high": 0.75, "step": 0.25}),
    ("a=shuffle(range(3))", "CategoricalDistribution", {}),
    ("+a=[x],[x,y]", "CategoricalDistribution", {"choices": ("[x]", "[x,y]")}),
    ("a='b c',null,1", "CategoricalDistribution", {"choices": ("'b c'", "null", "1")}),
])
def test_words_are_distributions(word: str, kind: str, about: dict) -> None:
    (key, found), = read_space([word, "b=1", "b=2"], None).distributions.items()
    assert type(found).__name__ == kind and key == word.partition("=")[0]
    assert {name: getattr(found, name) for name in about} == about


@needs_optuna
def test_a_trial_that_was_cut_off_before_it_was_known_does_not_count(tmp_path: Path) -> None:
    """Killed between Optuna's number and the values for it."""
    from ponder.config.running import StudyConfig

    space = read_space(["seed=int(interval(0,9))"], None)
    settings = OmegaConf.structured(StudyConfig(n_trials=2))
    study = Study(settings, space, tmp_path)
    study.storage.ask()
    trial, = study.new_trials()
    assert (trial.number, study.done) == (1, 0)
    assert space.overrides(trial.params) == [f"seed={trial.params['seed']}"]
    again = Study(settings, space, tmp_path)
    assert [(one.number, one.params) for one in again.unfinished()] == [(1, trial.params)]
    again.tell(trial, 0.5)
    best = again.best()
    assert (again.done, again.unfinished(), best.number, best.value) == (1, [], 1, 0.5)


# --- real runs ----------------------------------------------------------------------------------


@needs_optuna
@pytest.mark.slow
def test_help_and_plain_runs_do_not_load_optuna(tmp_path: Path) -> None:
    script = ("import sys; import ponder.cli.main; code = ponder.cli.main.main(sys.argv[1:]); "
              "print(code, 'optuna' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script, *SMALL, "trainer.max_steps=1"],
                          capture_output=True, text=True, cwd=tmp_path, env=clean(), check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
