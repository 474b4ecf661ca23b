"""The examples of CONTRIBUTING.md, word for word, as plugins in a directory of their own: in all
that begins another process, or reads what an earlier one wrote.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.plugin import PLUGINS, examples, write_plugins
from support.processes import run
from support.questions import save_language_model

SMALL = ["trainer.max_steps=2", "trainer.train_batch_size=8", "task.test_questions=20",
         "trainer.device=cpu", "trainer.log_every_n_steps=1", "model.d_model=16"]
PARITY = ["task=xor", "task.bits=4"]
TEXTS = """
from ponder import task
from ponder.tasks.text.passages import Corpus, Text

@task("story")
class Story(Text):
    '''Stories.'''

@task("tales")
class Tales(Corpus):
    '''Beginnings of tales.'''
"""
pytestmark = pytest.mark.slow


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugins and a run that uses all that fit together."""
    path = tmp_path_factory.mktemp("elsewhere")
    write_plugins(path)
    said = run(path, PLUGINS, "--config-dir", "my", *PARITY, *SMALL, "think=true",
                  "together=true", "reward=half", "strategy=plain", "strategy.scaled=2",
                  "logger=lines", "trainer.engine=again", "hydra.run.dir=run")
    assert "step 1: {" in said and "step 2: {" in said  # by the tracker
    return path


def test_all_kinds_of_plugins_in_one_run(folder: Path) -> None:
    """parity of 4 bits: 16 questions, 2 answers."""
    config = json.loads((folder / "run" / "checkpoint_2" / "ponder.json").read_text())["config"]
    assert (config["task"]["bits"], config["strategy"]["scaled"]) == (4, 2.0)
    assert (config["answerer"]["model"], config["reward"]) == ("shared", {"half": 0.5})
    assert summary(folder / "run")["steps"] == 2
    kept = (folder / "run" / "git.diff").read_text()
    assert "+++ b/my_strategies.py" in kept and "+class Plain(Strategy):" in kept


def test_a_search(folder: Path) -> None:
    run(folder, PLUGINS, *PARITY, *SMALL, "think=true", "search=true", "rollout.method=guess",
           "rollout.guess.tries=3", "hydra.run.dir=searched")
    assert summary(folder / "searched")["steps"] == 2


def test_a_data_set_of_multiple_choice_questions(folder: Path) -> None:
    """Of the numbers below 40 about a fifth is held out; up to 8 of these are asked about."""
    save_language_model(folder / "llama")
    words = ["task=even", "task.numbers=40", "task.test_questions=8", "task.thought_length=4",
             "task.answer=cloze", "model=hf", "model.name=llama", "answerer.model=shared",
             "variant=[think]", "rollout=sample", "rollout.samples=2", "reward=exact_match",
             "strategy=star", "strategy.keep=correct", "trainer=text", "trainer.max_steps=2",
             "trainer.device=cpu"]
    run(folder, PLUGINS, *words, "hydra.run.dir=asked")
    assert 0 <= summary(folder / "asked")["accuracy"] <= 1
    table, = [*(folder / "asked").glob("val_2/generated.csv")]
    rows = [*csv.DictReader(table.open())]
    assert 0 < len(rows) <= 8 and all("even or odd?" in str(row) for row in rows)


def test_texts_of_ones_own(folder: Path) -> None:
    """A subclass of a registered task has its keys, its policy and its evaluation."""
    (folder / "my_texts.py").write_text(TEXTS)
    (folder / "text.txt").write_text("a bad cat sat on a mat; the mat was red.\n" * 60)
    words = ["plugins=my_texts", "task.data=text.txt", "task.length=8", "task.test_passages=4",
             "model.d_model=16", "rollout=sample", "trainer.train_batch_size=4",
             "trainer.max_steps=2"]
    run(folder, *words, "task=story", "variant=[]", "hydra.run.dir=story")
    run(folder, *words, "task=tales", "variant=[think]", "task.thought_length=3",
           "answerer.model=shared", "reward=whitespace", "hydra.run.dir=tales")
    assert summary(folder / "story")["steps"] == summary(folder / "tales")["steps"] == 2
    for name in ("story", "tales"):
        assert run(folder, "action=generate", f"model.name={name}/checkpoint_2", "prompt=a bad",
                      "generate.tokens=3")


def test_workers_resume_evaluation_and_generation_know_plugins(folder: Path) -> None:
    run(folder, "-m", "hydra/launcher=local", PLUGINS, *PARITY, *SMALL, "think=true",
           "reward=half", "strategy=plain,star", "rollout=search", "rollout.method=guess",
           "hydra.sweep.dir=sweep")
    done = [json.loads(file.read_text()) for file in folder.glob("sweep/*/summary.json")]
    assert [one["status"] for one in done] == ["done", "done"]
    copies = [*folder.glob("sweep/.code/*/src/my_searches.py")]
    assert [copy.read_text() for copy in copies] == [examples()["my_searches.py"]]
    run(folder, "resume=run", "trainer.max_steps=3")
    assert summary(folder / "run")["steps"] == 3
    run(folder, "action=evaluate", "model.name=run/checkpoint_3", "hydra.run.dir=judged")
    assert 0 <= summary(folder / "judged")["accuracy"] <= 1
    assert run(folder, "action=generate", "model.name=run/checkpoint_3", "prompt=0110")


def test_help_and_refusals_name_them(folder: Path) -> None:
    """In one process, as help and mistakes begin nothing."""
    lines = {
        "task=xor model=smollm2": "but it needs a GPT-2 of our own",
        "task=even model=tiny": "but it needs a Hugging Face model",
        "task=corpus reward=half task.data=a.txt variant=[think]": "reward=half: found task=corpus",
        "strategy=plain strategy.scaled=-1": "strategy.scaled=-1.0: found -1.0; legal: at least 0",
        "rollout=search rollout.method=gues": "(did you mean guess?)",
        "rollout=search rollout.guess.tries=0": "rollout.guess.tries=0: found 0; legal: at least 1",
        "variant=[togethr]": "(did you mean together?)",
        "logger=linse": "(did you mean lines?)",
        "trainer.engine=agian": "(did you mean again?)"}
    (folder / "a.txt").write_text("a b c")
    code = ("import sys; from ponder.cli.main import main\n"
            f"first = [{PLUGINS!r}, '--config-dir', 'my']\nmain([*first, '--help'])\n"
            f"for words in {list(lines)!r}:\n"
            "    assert main([*first, *words.split()]) == 2, words\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("xor", "even", "half", "plain", "guess", "together", "lines", "again"):
        assert f"\n      {name} " in done.stdout, name
    said = done.stderr.splitlines()
    assert len(said) == len(lines)
    for line, part in zip(said, lines.values(), strict=True):
        assert part in line, line
