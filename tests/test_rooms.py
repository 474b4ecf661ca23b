"""Imports go down only, and files stay small. Read from the source, which is not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ponder

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ponder"
FILES = sorted(SOURCE.rglob("*.py"))
# From the top down: a room imports rooms that stand below it, and nothing else.
ROOMS = ("cli", "sweeps", "reports", "generation", "training", "evaluation", "rollouts", "rewards",
         "strategies", "models", "tasks", "tokenizers", "core", "config")
HOMES = {f"ponder.{name}": module for name, module in ponder._HOME.items()}
DOOR = ("__init__", "__main__", "lm_eval")  # the package itself, which may use all
HEAVY = {"torch", "transformers", "pandas", "numpy", "peft", "accelerate", "datasets", "wandb",
         "matplotlib", "lm_eval", "rich", "safetensors", "pyarrow", "submitit", "optuna",
         "trackio", "mlflow"}


def part_of(file: Path) -> str:
    """`src/ponder/tasks/toy/add.py` -> `tasks`: the room of a file."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, with `from x import y` as `x.y`."""
    package = ("ponder", *file.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[:len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield ast.unparse(node)


def parts_imported(file: Path) -> set[str]:
    """The parts of the package that a file imports; a public name is where it is defined."""
    words = (HOMES.get(name, name).split(".") for name in imported(file))
    return {word[1] for word in words if word[0] == "ponder" and len(word) > 1} - {"__version__"}


def test_every_file_is_in_a_room() -> None:
    assert {part_of(file) for file in FILES} - {*DOOR} == {*ROOMS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_down(file: Path) -> None:
    own = part_of(file)
    if own in DOOR:
        return
    below = ROOMS[ROOMS.index(own):]
    for other in parts_imported(file):
        assert other in below, f"{own} imports {other}, which is above it"


def test_config_loads_nothing_heavy() -> None:
    """Not even by way of something else; and the command line is read before torch is loaded."""
    modules = [".".join(("ponder", *file.relative_to(SOURCE).with_suffix("").parts))
               for file in FILES if part_of(file) == "config"]
    assert len(modules) >= 8
    loads = "; ".join(f"import {name.removesuffix('.__init__')}" for name in modules)
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; {loads}; import ponder.cli.main, ponder.cli.help; "
         f"print(sorted({HEAVY!r} & set(sys.modules)), 'ponder.config.checker' in sys.modules)"],
        capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_are_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 40, f"{node.name} has {length} lines"


def test_the_reader_of_imports_sees_every_kind(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would pass for want of eyes."""
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "tasks").mkdir()
    file = tmp_path / "tasks" / "x.py"
    file.write_text("import ponder.core.types\nfrom ponder import training\n"
                    "from ponder.models.gpt2 import f\nfrom .tree import g\n"
                    "from .. import rollouts\nimport os.path\n"
                    "def h():\n    from ponder.config.spine import Config\n")
    assert part_of(file) == "tasks"
    assert parts_imported(file) == {"core", "training", "models", "tasks", "rollouts", "config"}


def test_no_test_imports_another_test() -> None:
    """What tests share is in tests/support."""
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        for name in imported_names(file):
            assert not name.split(".")[-1].startswith("test_"), f"{file} imports {name}"


def imported_names(file: Path) -> Iterator[str]:
    """The modules that a file imports, absolutely."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by name alone."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))
