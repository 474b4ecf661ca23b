"""Every command on a page of the documentation means something today.

Commands of Ponder are composed and checked, in one process of their own; those that only write or
print something are run. Of the others the file, the target or the extra must be there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ponder
from ponder.cli.legacy import KEYS
from support.pages import FENCE, KNOWN, PAGES, ROOT, commands, furnish
from support.small import Door

OURS = list({tuple(one.words): one for one in commands() if one.ours}.values())
OTHERS = [one for one in commands() if not one.ours]
QUICK = [one for one in OURS if "action=problems" in one.words]
PYTHON = [(str(page.relative_to(ROOT)), block) for page in PAGES
          for _, language, block in FENCE.findall(page.read_text("utf-8"))
          if language == "python"]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Any]]:
    """Words of each command -> what composing them came to."""
    folder = tmp_path_factory.mktemp("reader")
    done = subprocess.run(
        [sys.executable, "-m", "support.pages", str(folder)], cwd=folder, text=True,
        capture_output=True, timeout=900, check=False, env=os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])})
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {tuple(line["words"]): line for line in lines}


def test_there_are_many() -> None:
    """Fewer would mean that they are not found any more."""
    assert len(OURS) >= 80 and len(OTHERS) >= 35 and len(QUICK) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("command", OURS, ids=lambda one: f"{one.page}: {one.text[:60]}")
def test_it_composes(command: Any, said: dict[tuple[str, ...], dict[str, Any]]) -> None:
    found = said[tuple(command.words)]
    if "pip install" in found.get("error", ""):
        pytest.skip(found["error"])  # of a package that not everybody needs
    assert "jobs" in found, found.get("error")


@pytest.mark.slow
def test_a_wrong_command_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.pages import compose

    monkeypatch.chdir(tmp_path)
    for words in (["strategy=grop"], ["strategy.beta=1"], ["-m", "seed=0,1", "trainer.lt=1e-3"]):
        with pytest.raises(Exception, match=r"grop|beta|trainer\.lt|lt"):
            compose(words)


@pytest.mark.parametrize("command", QUICK, ids=lambda one: one.text[:60])
def test_what_writes_a_table_is_run(command: Any, tmp_path: Path, door: Door) -> None:
    furnish(tmp_path)
    code, _, errors = door(*command.words)
    assert code == 0, errors
    out = next(word for word in command.words if word.startswith("out=")).partition("=")[2]
    assert len((tmp_path / out).read_text().splitlines()) > 20


@pytest.mark.parametrize("command", OTHERS, ids=lambda one: f"{one.page}: {one.text[:60]}")
def test_what_others_name_is_there(command: Any) -> None:
    text = command.text.partition("  #")[0]
    assert text.split(" ")[0] in KNOWN, "a line of a shell block that is no command that is known"
    for target in re.findall(r"^make ([\w-]+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"((?:bench|tests)/[\w/.-]+\.(?:py|sh))", text):
        assert (ROOT / name).is_file()
    for module in re.findall(r"^python -m (ponder[\w.]*)", text):
        assert (ROOT / "src" / f"{module.replace('.', '/')}.py").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"'\.\[(\w+)\]'", text):
        assert extra in project["optional-dependencies"]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda part: part[:40])
def test_python_is_python(page: str, block: str) -> None:
    """Blocks that are a whole file; what they ask of ponder is there."""
    if block.startswith("    "):  # a method, shown alone
        block = f"class Shown:\n{block}"
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ponder":
            assert node.attr in ponder.__all__


def test_the_table_of_old_keys_is_the_one_of_the_code() -> None:
    page = (ROOT / "docs" / "guides" / "migrating.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", page, re.MULTILINE))
    assert {old: rows.get(old) for old in KEYS} == KEYS
