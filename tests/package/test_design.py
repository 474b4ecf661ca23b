"""docs/design.md is true: what it names is there, and its example of a plugin runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
PAGES = ["docs/design.md", "docs/internals.md", "docs/api.md", "README.md"]


def test_it_fits_four_screens() -> None:
    assert len(DESIGN.splitlines()) <= 200


def test_every_room_has_a_line() -> None:
    rooms = {path.name for path in (ROOT / "src" / "ponder").iterdir()
             if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", DESIGN, re.M))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for name in re.findall(r"`((?:[\w.]+/)+\w+\.py)`", text):
        assert (ROOT / name).is_file() or (ROOT / "src" / "ponder" / name).is_file(), name
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert ((ROOT / page).parent / name).exists(), name


@pytest.mark.slow
def test_the_plugin_of_the_page_runs(tmp_path: Path) -> None:
    code, = re.findall(r"```python\n(# my_tasks.py.*?)```", DESIGN, re.S)
    (tmp_path / "my_tasks.py").write_text(code)
    words = ["plugins=[my_tasks]", "task=xor", "task.bits=4", "think=true",
             "trainer.max_steps=1", "model.d_model=8", "task.test_questions=3"]
    done = subprocess.run([sys.executable, "-m", "ponder", *words], cwd=tmp_path, text=True,
                          capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
