"""Ponder from Python: what the command line does, from a notebook or a script of one's own."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import ponder

SMALL = ["model.d_model=8", "model.layers=1", "task.max=10", "task.test_questions=20",
         "trainer.train_batch_size=4", "trainer.threads=1", "trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def surroundings() -> dict[str, Any]:
    """What a call must leave as it was."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    return {"cwd": os.getcwd(), "argv": [*sys.argv], "handlers": [*logging.root.handlers],
            "level": logging.root.level, "excepthook": sys.excepthook,
            "signals": [signal.getsignal(number) for number in (
                signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)],
            "random": torch.get_rng_state().tolist(), "threads": torch.get_num_threads(),
            "hydra": GlobalHydra.instance().hydra, "job": HydraConfig.instance().cfg}


# --- names ----------------------------------------------------------------------------------------


def test_importing_ponder_loads_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", (
        "import sys, ponder; found = [*sys.modules]; dir(ponder)\n"
        "print([name for name in found if name.startswith('ponder')], "
        "{'torch', 'hydra', 'pandas', 'numpy'} & {*found})")], capture_output=True, text=True)
    assert done.stdout == "['ponder'] set()\n", done.stderr


def test_every_public_name_is_there() -> None:
    for name in ponder.__all__:
        assert getattr(ponder, name) is not None and name in dir(ponder)
    with pytest.raises(AttributeError, match="trian"):
        ponder.trian  # noqa: B018


# --- without Ponder ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recipe_for_plain_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text("utf-8")
    code, = re.findall(r"```python\n(import torch\n.*?)```", text, re.S)
    run = ponder.train(SMALL, trainer__max_steps=20, trainer__lr=0.01, task__max=100)
    for question in ("31+84=", "50+32=", "07+09="):
        reply, = run.load().think([question])
        capsys.readouterr()
        exec(code.replace("star_runs/<run>/checkpoint_<step>", str(run.checkpoint)).replace(
            "31+84=", question), {})
        written, said = capsys.readouterr().out.split("\n")[-2].rsplit(maxsplit=1)
        assert (written.replace(" ", ""), said.strip("#")) == (
            reply.thought.replace(" ", ""), reply.answer)


# --- composing ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compose_gives_the_checked_configuration() -> None:
    config = ponder.compose(["experiment=invent_digits"], seed=3)
    assert (config.seed, config.task.max) == (3, 1000)
    config = ponder.compose("think=true blind=true", trainer__lr=0.5, reward=["softmax"])
    assert (config.trainer.lr, config.answerer.sees) == (0.5, ["thought"])
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_python_values_are_words() -> None:
    config = ponder.compose(action="problems", out="bö=1 (2), 3.csv", task__data=None,
                            rollout__temperature="linear(1, 0.5, 100)", trainer__compile=False,
                            trainer__beta2=0.95, variant=["think", "blind"], run_type="quick")
    assert (config.out, config.task.data, config.run_type) == ("bö=1 (2), 3.csv", None, "quick")
    assert config.answerer.sees == ["thought"] and not config.trainer.compile
    assert config.rollout.temperature == "linear(1, 0.5, 100)" and config.trainer.beta2 == 0.95


@pytest.mark.slow
@pytest.mark.parametrize("words, line", [
    (["trainer.lr=abc"], "trainer.lr=abc: found 'abc'; legal: a number"),
    (["stratgy=grpo"], "stratgy"),
    (["strategy=gpro"], "strategy=gpro: found 'gpro'"),
    (["seed=0,1"], "seed=0,1: found several values"),
    (["-m", "seed=0,1"], "-m: found an option"),
    (["super=true"], r"variant=\[super\]: found thinker.tokens=0"),
])
def test_a_mistake_raises_one_line(words: list[str], line: str) -> None:
    before = surroundings()
    for call in (ponder.compose, ponder.train):
        with pytest.raises(ponder.UserError, match=line) as raised:
            call(words)
        assert "\n" not in str(raised.value)
    assert not list(Path().iterdir()) and surroundings() == before


# --- running --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ponder.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        return ponder.train([*SMALL, "think=true", "blind=true"], seed=3,
                            trainer__max_steps=4, trainer__val_every_n_steps=2)


@pytest.mark.slow
def test_a_run_is_that_of_the_command_line(trained: ponder.Run, tmp_path: Path) -> None:
    """Also in a second call, and in a thread that is not the main one."""
    words = [*SMALL, "think=true", "blind=true", "seed=3", "trainer.max_steps=4",
             "trainer.val_every_n_steps=2"]
    subprocess.run([sys.executable, "-m", "ponder", *words, "hydra.run.dir=typed"], check=True,
                   cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    typed = ponder.Run("typed")
    found: list[ponder.Run] = []
    thread = threading.Thread(target=lambda: found.append(ponder.train(words)))
    thread.start()
    thread.join()
    again, = found
    for run in (trained, again):
        for key in ("weights_sha256", "config_hash", "accuracy", "necessity"):
            assert run.summary[key] == typed.summary[key], key
    assert typed.rollouts.equals(trained.rollouts)


@pytest.mark.slow
def test_a_run_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = surroundings()
    first = ponder.train(SMALL, trainer__max_steps=1)
    assert "step 1" in capsys.readouterr().out  # progress is shown
    second = ponder.train(SMALL, trainer__max_steps=1)
    assert surroundings() == before
    assert first.directory != second.directory  # though begun in the same second
    assert first.summary["weights_sha256"] == second.summary["weights_sha256"]


def test_a_run_can_be_read(trained: ponder.Run) -> None:
    metrics = trained.metrics
    steps, evaluations = (metrics[metrics.kind == kind] for kind in ("train", "eval"))
    assert [*steps.step] == [1, 2, 3, 4] and [*evaluations.step] == [2, 4]
    assert steps.loss.notna().all() and evaluations.accuracy.notna().all()
    assert evaluations.loss.isna().all()
    assert evaluations.accuracy.iloc[-1] == trained.summary["accuracy"]
    rollouts = trained.rollouts
    assert len(rollouts) == 20 and rollouts.correct.mean() == pytest.approx(
        trained.summary["accuracy"])
    assert {"question", "thought", "answer", "gold"} <= {*rollouts.columns}
    assert (trained.config["seed"], trained.config["trainer.max_steps"]) == (3, 4)
    assert trained.config["thinker.tokens"] == trained.config["task.thought_length"]
    assert trained.checkpoint.name == "checkpoint_4" and "accuracy" in repr(trained)


@pytest.mark.slow
def test_a_run_is_shown_in_a_notebook(trained: ponder.Run, tmp_path: Path) -> None:
    """The numbers of its card and of its figures are those of summary.json and metrics.jsonl."""
    card = trained._repr_html_()
    assert f"accuracy <b>{trained.summary['accuracy']:.1%}</b>" in card and "report.html" in card
    assert trained.necessity["own"] == trained.summary["accuracy"]
    for name, value in trained.necessity.items():
        assert f">{name}</td><td>{value:.1%}</td>" in card
    gone = ponder.Run(tmp_path / "<b>")
    assert "&lt;b&gt;</b>: not done." in gone._repr_html_()
    drawn, = trained.plot("loss").axes[0].lines
    losses = trained.metrics[["step", "loss"]].dropna()
    assert [*drawn.get_xdata()] == [*losses["step"]] and [*drawn.get_ydata()] == [*losses["loss"]]
    figure = trained.plot(label="one")
    assert trained.plot(axes=figure.axes[0], label="two") is figure
    assert [one.get_text() for one in figure.axes[0].get_legend().get_texts()] == ["one", "two"]
    heights = [bar.get_height() for bar in trained.plot_necessity().axes[0].patches]
    assert heights == [*trained.necessity.dropna()]
    line = r"plot\('los'\): found no such metric; legal: accuracy, "
    with pytest.raises(ponder.UserError, match=line):
        trained.plot("los")


def test_a_checkpoint_is_evaluated(trained: ponder.Run) -> None:
    found = ponder.evaluate(trained.checkpoint)
    assert found.summary["accuracy"] == trained.summary["accuracy"]
    assert found.summary["weights_sha256"] == trained.summary["weights_sha256"]
    assert [*found.metrics.kind] == ["eval"]
    fewer = ponder.evaluate(trained.checkpoint, task__test_questions=10)
    assert len(fewer.rollouts) == 10


@pytest.mark.slow
def test_a_checkpoint_thinks_and_answers(trained: ponder.Run) -> None:
    before, model, rows = surroundings(), trained.load(), trained.rollouts
    replies = model.think([*rows.question[:5]])
    assert [reply.thought for reply in replies] == [
        thought.replace("</think>", "") for thought in rows.thought[:5]]
    assert all(reply.thought_logprob <= 0 and reply.answer_logprob <= 0 for reply in replies)
    assert model.score([*rows.question], [*rows.gold.str.lstrip("#")]) == pytest.approx(
        trained.summary["accuracy"])
    with pytest.raises(ponder.UserError, match="legal"):
        ponder.generate(trained.checkpoint, "2+3=")
    with pytest.raises(ponder.UserError, match="nowhere"):
        ponder.load("nowhere")
    assert surroundings() == before


@pytest.mark.slow
def test_runs_are_found_and_compared(trained: ponder.Run) -> None:
    one = ponder.train(SMALL, seed=1, trainer__max_steps=1, hydra__run__dir="runs/a")
    two = ponder.train(SMALL, seed=2, trainer__max_steps=1, hydra__run__dir="runs/b")
    other = ponder.train(SMALL, trainer__max_steps=2, hydra__run__dir="runs/c")
    assert [run.directory for run in ponder.runs("runs/*")] == [
        run.directory for run in (one, two, other)]
    table = ponder.compare("runs")
    assert len(table) == 2 and sorted(table.seeds) == [1, 2]
    mean = (one.summary["accuracy"] + two.summary["accuracy"]) / 2
    assert table[table.seeds == 2].accuracy.item() == pytest.approx(mean)
    with pytest.raises(ponder.UserError, match="runs=nowhere"):
        ponder.runs("nowhere")


@pytest.mark.slow
def test_a_run_goes_on(trained: ponder.Run) -> None:
    done = ponder.train([f"resume={trained.directory}"])
    assert done.directory == trained.directory
    assert done.summary["steps"] == 4


@pytest.mark.slow
def test_an_unexpected_failure_keeps_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    import ponder.cli.actions

    def fail(config: object, directory: Path) -> None:
        raise ZeroDivisionError("a bug")

    before = surroundings()
    monkeypatch.setattr(ponder.cli.actions, "run", fail)
    with pytest.raises(ponder.JobFailed, match="ZeroDivisionError: a bug") as raised:
        ponder.train(SMALL, hydra__run__dir="run")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert "in fail" in Path("run/error.txt").read_text() and surroundings() == before


@pytest.mark.slow
def test_an_interrupt_saves_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from ponder.training.session import Session

    before, log = surroundings(), Session.log_metrics

    def interrupted(self: Session, progress: Any, metrics: Any) -> None:
        log(self, progress, metrics)
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "log_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ponder.train(SMALL, trainer__max_steps=4, hydra__run__dir="run")
    assert surroundings() == before and not Path("run/summary.json").exists()
    assert ponder.train(["resume=run"]).summary["steps"] == 4
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_first_call_knows_a_plugin_and_its_name_may_have_underscores() -> None:
    Path("mine.py").write_text(
        "from ponder import Problem, ToyTask, task\n\n\n@task('my_task')\nclass Mine(ToyTask):\n"
        "    'The last digit.'\n\n    def problem(self, random):\n"
        "        n = random.randrange(50)\n        return Problem(str(n), str(n % 5))\n")
    script = ("import ponder\n"
              "config = ponder.compose('experiment=my_task_think', plugins=['mine'])\n"
              "print(config.task.name, config.thinker.tokens)\n"
              "from ponder.reports.runs import resolve_setting\n"
              "told = {'task.name': 'my_task', 'task.thought_length': '${ponder.thought_length:}',"
              " 'thinker.tokens': '${task.thought_length}'}\n"
              "print(resolve_setting(told, 'thinker.tokens'))\n"
              "try:\n"
              "    ponder.compose('task=my_task', task__thought_length=4)\n"
              "except ponder.UserError as error:\n"
              "    print(error)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "my_task 1", "1", "task.thought_length=4: found another length than the gold thought has; "
        "legal: 1 (set thinker.tokens for more)"]


def test_a_call_leaves_search_path_and_plugins_of_child_processes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registers_nothing.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before = sys.path[:]
    assert ponder.compose(plugins=["registers_nothing"]).plugins == ["registers_nothing"]
    assert sys.path == before and "PONDER_PLUGINS" not in os.environ


def test_rewards_as_a_dictionary_and_words_that_are_none() -> None:
    assert ponder.compose(reward={"log_likelihood": 2, "length": -0.5}).reward == {
        "log_likelihood": 2.0, "length": -0.5}
    with pytest.raises(ponder.UserError, match=r"^task=': cannot be read "):
        ponder.compose("task='")
