"""Files that come with the package: what is in them, and that a value names them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ponder.config.examples import FOLDER, examples, located
from ponder.config.inputs import content_hash, inputs
from ponder.config.spine import CONF, register
from ponder.tasks.base import read_table
from ponder.tasks.choice.questions import HELD_OUT, read_questions
from support.small import Door


def test_the_questions_are_whole() -> None:
    found = read_questions(Path("example:questions.csv"))
    assert len(found) == len({one.question for one in found}) == 227
    assert all(len({*one.choices}) == 4 and all(one.choices) for one in found)
    assert sum(one.split in HELD_OUT for one in found) == 67
    letters = Counter(one.letter for one in found)
    assert max(letters.values()) - min(letters.values()) <= 1  # no letter is a better guess
    longest = sum(len(one.choices[one.answer]) == max(map(len, one.choices)) for one in found)
    assert longest < 0.6 * len(found)


def test_a_name_is_found_and_leaves_no_folder() -> None:
    assert located("example:questions.csv") == FOLDER / "questions.csv"
    assert located("example:../../x.csv") == FOLDER / "x.csv"
    assert located("my/example:x.csv") == Path("my/example:x.csv")
    assert examples((".txt",)) == "example:shakespeare.txt"


def test_rows_are_named_as_they_are_typed() -> None:
    assert read_table(Path("example:questions.csv"))[0][0] == "example:questions.csv, line 2"


def test_its_content_is_an_input_of_the_run() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_object(compose("config", ["experiment=normal"]))
    assert config.task.data == "example:shakespeare.txt"  # wherever the package lies
    assert inputs(config)["task.data"] == content_hash(FOLDER / "shakespeare.txt")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "told"), [
    ("task=qa task.data=example:questions.csv", "227 problems written to p.csv"),
    ("task=free task.data=free.csv", "3 problems written to p.csv")])
def test_a_table_needs_no_language_model(door: Door, words: str, told: str) -> None:
    Path("free.csv").write_text("question,answer,split\n1+1?,2,train\n1+2?,3,train\n2+2?,4,test\n")
    code, out, err = door("action=problems", "out=p.csv", *words.split())
    assert (code, out.strip(), err) == (0, told, "")
    rows = read_table(Path("p.csv"))
    assert len(rows) == int(told.split()[0]) and rows[0][1]["split"] == "train"


@pytest.mark.slow
def test_a_name_that_is_none(door: Door) -> None:
    assert door("experiment=normal", "task.data=example:book.txt") == (
        2, "", "error: task.data=example:book.txt: found no such text; legal: files that end in "
        ".txt, .jsonl or .parquet, <owner>/<name> of the hub, or example:shakespeare.txt\n")
