"""The task of docs/own_task.md, word for word, run from a directory outside of the repository."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from support.processes import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/own_task.md", "CONTRIBUTING.md")
SMALL = ("task=xor", "task.bits=4", "model.d_model=16", "model.layers=1", "trainer.max_steps=2",
         "trainer.threads=1")
pytestmark = pytest.mark.slow


def code_of(page: str) -> str:
    """The Python block of a page that begins with the name of its file."""
    blocks = re.findall(r"```python\n(# my_tasks\.py\n.*?)```", (ROOT / page).read_text(), re.S)
    assert len(blocks) == 1
    return blocks[0]


def ponder(folder: Path, *words: str) -> str:
    """What `run.py plugins=[my_tasks]` prints in a folder, where it ends well."""
    return run(folder, "plugins=[my_tasks]", *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the plugin and a run of it."""
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "my_tasks.py").write_text(code_of(PAGES[0]))
    ponder(path, *SMALL, "variant=[think,super]", "hydra.run.dir=super")
    return path


def test_all_pages_print_the_same_task() -> None:
    assert len({code_of(page) for page in PAGES}) == 1


@pytest.mark.parametrize("variant", ["think", "think,fixed,blind", "think,search"])
def test_variants(folder: Path, variant: str) -> None:
    name = variant.replace(",", "_")
    ponder(folder, *SMALL, f"variant=[{variant}]", f"hydra.run.dir={name}")
    summary = json.loads((folder / name / "summary.json").read_text())
    assert summary["steps"] == 2
    assert set(summary["necessity"]) == {"own", "shuffled", "random", "constant", "dropped"}


def test_super_evaluate_report_and_generate(folder: Path) -> None:
    """What 0 1 1 0 is answered with is one of the two words that there are."""
    assert (folder / "super" / "report.html").is_file()
    model = "model.name=super/checkpoint_2"
    ponder(folder, "action=evaluate", model, "hydra.run.dir=evaluated")
    summary = json.loads((folder / "evaluated" / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 1
    said = ponder(folder, "action=generate", model, "prompt=0110", "out=said.csv")
    assert said
    assert len(list(csv.DictReader((folder / "said.csv").open()))) >= 1


def test_problems_and_help(folder: Path) -> None:
    """4 bits make 16 questions; the thought of 0 1 1 0 is its parity so far: 0 1 0."""
    ponder(folder, "task=xor", "task.bits=4", "action=problems", "out=p.csv")
    rows = {row["question"]: row for row in csv.DictReader((folder / "p.csv").open())}
    assert len(rows) == 16
    assert (rows["0 1 1 0"]["answer"], rows["0 1 1 0"]["thought"]) == ("0", "0 1 0")
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    assert "xor" in ponder(folder, "--help")


def test_all_rows_of_a_table_of_ones_own_are_questions(folder: Path) -> None:
    """The checkpoint was trained on other problems: 16 of the 16 questions are asked."""
    bits = [f"{number:04b}" for number in range(16)]
    rows = [f"{' '.join(word)},{word.count('1') % 2}\n" for word in bits]
    (folder / "mine.csv").write_text("question,answer\n" + "".join(rows))
    ponder(folder, "action=evaluate", "model.name=super/checkpoint_2", "task.data=mine.csv",
           "hydra.run.dir=own")
    found = list((folder / "own").glob("val_*/generated.csv"))
    assert len(list(csv.DictReader(found[0].open()))) == 16
