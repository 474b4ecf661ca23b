"""Every combination of task, model, thoughts, rollout, strategy and answers: it runs, or one line
says why not; nothing ends in a traceback.

All combinations are composed and checked. Of those that pass, so many take two steps that every
pair of values that some legal combination has is in one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ponder.cli.main import main
from ponder.cli.shorthand import rewrite
from ponder.config.checker import check
from ponder.config.errors import UserError
from ponder.config.players import KINDS
from ponder.config.registry import STRATEGIES
from ponder.config.spine import CONF, register, schemas
from support.questions import file_of, save_language_model

pytestmark = pytest.mark.nightly

TASKS = {
    "add": ["task.max=10", "task.test_questions=8"],
    "addition": ["task.digits=2", "task.epoch_size=8", "task.test_questions=8",
                 "thinker.vocabulary=20"],
    "cups": ["task.steps=2", "task.test_questions=8"],
    "qa": ["task.data=questions.csv", "task.thought_length=4", "task.test_questions=4"],
    "mmlu": ["task.data=questions.csv", "task.thought_length=4", "task.test_questions=4"],
    "text": ["task.data=text.txt", "task.length=12", "task.place_count=2", "task.thought_length=2",
             "task.test_passages=4", "answerer.model=shared"],
    "corpus": ["task.data=text.txt", "task.length=4", "task.thought_length=3",
               "task.test_passages=4", "answerer.model=shared", "reward=whitespace"],
}
ANSWERS = {"add": ("number", "digits"), "qa": ("generated", "letter", "cloze"),
           "mmlu": ("generated", "letter", "cloze")}
MODELS = {"tiny": ["model.d_model=16", "model.layers=1", "model.heads=2"],
          "hf": ["model.name=llama"]}
SMALL = ["trainer.max_steps=2", "trainer.train_batch_size=4", "trainer.gen_batch_size=4",
         "trainer.device=cpu", "trainer.log_every_n_steps=1", "trainer.val_every_n_steps=2"]
AXES = ("task", "model", "kind", "rollout", "strategy", "answer")
Combination = tuple[str, ...]  # one value for each of AXES


def combinations() -> Iterator[Combination]:
    for task in TASKS:
        yield from itertools.product((task,), MODELS, KINDS, schemas("rollout"),
                                     STRATEGIES.names(), ANSWERS.get(task, ("-",)))


def start(task: str, model: str, answer: str) -> list[str]:
    """The words of a combination without what `swapped` says."""
    answers = [] if answer == "-" else [f"task.answer={answer}"]
    return ["variant=[think]", f"task={task}", f"model={model}", *answers, *TASKS[task],
            *MODELS[model], *SMALL]


def words_of(one: Combination) -> list[str]:
    task, model, kind, rollout, strategy, answer = one
    return [*start(task, model, answer), f"thinker.kind={kind}", f"rollout={rollout}",
            f"strategy={strategy}", "rollout.samples=2"]


def refusal(node: Any, one: Combination) -> str | None:
    """The line that a combination gets from the check; None if it is let through."""
    _, _, kind, rollout, strategy, _ = one
    node = node.copy()
    node.thinker.kind = kind
    node.rollout = OmegaConf.structured(schemas("rollout")[rollout](samples=2))
    node.strategy = OmegaConf.structured(schemas("strategy")[strategy])
    try:
        check(OmegaConf.to_object(node))  # type: ignore[arg-type]
    except UserError as error:
        return str(error)
    return None


def covering(legal: list[Combination]) -> list[Combination]:
    """A few combinations that have every pair of values that any of them has (greedy)."""
    def pairs(one: Combination) -> set[Any]:
        return {*itertools.combinations(zip(AXES, one, strict=True), 2)}

    missing, chosen = set().union(*map(pairs, legal)), []
    while missing:
        best = max(legal, key=lambda one: len(pairs(one) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return chosen


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with questions, a text and a language model."""
    monkeypatch.chdir(tmp_path)
    file_of(Path("questions.csv"), count=20)
    Path("text.txt").write_text("a bad cat sat on a mat; the mat was red.\n" * 60)
    save_language_model(Path("llama"))
    return tmp_path


def test_every_combination_runs_or_is_refused_by_one_line(
        place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    legal, refused, nodes = [], 0, {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for one in combinations():
            key = (one[0], one[1], one[5])
            if key not in nodes:
                nodes[key] = compose("config", overrides=rewrite(start(*key), CONF))
            line = refusal(nodes[key], one)
            assert line is None or ("found " in line and "legal: " in line and "\n" not in line)
            refused += line is not None
            if line is None:
                legal.append(one)
    runs, failed, late = covering(legal), [], []
    for number, one in enumerate(runs):
        GlobalHydra.instance().clear()
        code = main([*words_of(one), f"hydra.run.dir=run_{number}"])
        said = capsys.readouterr().err
        if code == 2:
            late.append((one, said))
        elif code:
            failed.append((one, said))
    with capsys.disabled():
        print(f"\n{len(legal) + refused} combinations: {len(legal)} compose, {refused} are refused;"
              f" {len(runs)} ran, {len(late)} of them refused while built, {len(failed)} failed")
        for one, said in (*failed, *late):
            print(one, said.strip()[-300:])
    assert not failed
    assert len(legal) > 40 and all(said.count("error: ") == 1 for _, said in late)


@pytest.mark.parametrize("words", [
    ["task=add", "model=smollm2"], ["task=qa", "task.data=questions.csv"]])
def test_a_task_without_its_kind_of_model_is_refused(
        words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {words[0]}: found model=") and "; legal: with model=" in line


def test_what_a_checkpoint_of_a_toy_task_cannot_do(
        place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=add", *TASKS["add"], *MODELS["tiny"], *SMALL, "hydra.run.dir=own"]) == 0
    for words in (["task=qa", "variant=[think]", "rollout=sample", "task.data=questions.csv"],
                  ["experiment=normal_smollm2", "task.data=text.txt"]):
        GlobalHydra.instance().clear()
        capsys.readouterr()
        assert main([*words, "model=hf", "model.name=own/checkpoint_2"]) == 2
        assert "own/checkpoint_2: found a checkpoint of task=add, which knows no words; " in (
            capsys.readouterr().err)
