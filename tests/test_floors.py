"""The house stands: imports go down only, rooms stay small. Read from the source, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ponder"
FILES = sorted(SOURCE.rglob("*.py"))
ROOF = 6

# Part of the package -> its floor. Parts of one floor do not import each other, but for those of
# the ground floor, of the roof, and these neighbours.
FLOORS = {
    "config": 0, "compat": 0, "legacy": 0, "launch": 0, "check": 0, "elsewhere": 0,
    "errors": 0, "help": 0, "reference": 0, "metrics": 0, "signals": 0, "schedule": 0, "hold": 0,
    "types": 1, "maths": 1, "credit": 1, "processes": 1, "sharding": 1, "spelling": 1,
    "strategies": 2, "tasks": 2, "tokens": 2,
    "models": 3,
    "rollout": 4, "search": 4, "rewards": 4, "cache": 4,
    "latent": 4, "generate": 4, "writing": 4, "preload": 4, "pairs": 4, "places": 4,
    "decoding": 4, "text_rewards": 4,
    "trainer": 5, "progress": 5, "collector": 5, "learner": 5, "optimizers": 5, "evaluate": 5,
    "report": 5, "figures": 5, "records": 5, "log": 5, "console": 5, "watch": 5, "checkpoint": 5,
    "resume": 5, "pretrained": 5, "trl_engine": 5,
    "builders": ROOF, "session": ROOF, "scribe": ROOF, "summary": ROOF,
    "actions": ROOF, "compare": ROOF, "cli": ROOF, "job": ROOF, "sweeps": ROOF, "snapshot": ROOF,
    "speaking": ROOF,
}
NEIGHBOURS = {("search", "rollout"), ("tasks", "tokens"), ("report", "figures"),
              ("report", "records"),
              ("trainer", "learner"), ("learner", "optimizers"),
              ("trainer", "collector"), ("trainer", "progress"), ("collector", "progress"),
              ("trl_engine", "trainer"), ("trl_engine", "progress"), ("resume", "checkpoint"),
              ("checkpoint", "pretrained"), ("writing", "generate"),
              ("latent", "rollout"), ("rewards", "text_rewards"),
              ("writing", "cache"), ("writing", "rollout"), ("preload", "rollout"),
              ("places", "rollout"), ("decoding", "rollout"),
              ("sharding", "processes")}
HEAVY = {"torch", "transformers", "pandas", "numpy", "peft", "accelerate", "datasets", "wandb",
         "plotly", "rich", "safetensors", "pyarrow", "submitit", "optuna"}


def part_of(file: Path) -> str:
    """`src/ponder/search/tree.py` -> `search`; `src/ponder/cli.py` -> `cli`."""
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
    """The parts of the package that a file imports."""
    words = (name.split(".") for name in imported(file))
    return {word[1] for word in words if word[0] == "ponder" and len(word) > 1} - {"__version__"}


def test_every_file_has_a_floor() -> None:
    parts = {part_of(file) for file in FILES} - {"__init__"}
    assert parts <= set(FLOORS)
    assert {"config", "types", "tasks", "models", "rollout", "trainer", "cli"} <= parts


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_down(file: Path) -> None:
    own = part_of(file)
    if own == "__init__":
        assert not parts_imported(file)
        return
    for other in parts_imported(file) - {own}:
        assert other in FLOORS, f"{other} has no floor"
        inside_ground = FLOORS[own] == FLOORS[other] == 0
        inside_roof = FLOORS[own] == FLOORS[other] == ROOF
        assert (FLOORS[other] < FLOORS[own] or inside_ground or inside_roof
                or (own, other) in NEIGHBOURS), f"{own} imports {other}"


def test_only_the_roof_builds() -> None:
    users = {part_of(file) for file in FILES if "builders" in parts_imported(file)}
    assert "actions" in users and users <= {"builders", "session", "actions", "cli", "speaking"}


def test_the_ground_floor_is_light() -> None:
    ground = [file for file in FILES if FLOORS.get(part_of(file)) == 0]
    assert len(ground) >= 8
    for file in [*ground, SOURCE / "cli.py"]:
        assert not HEAVY & {name.split(".")[0] for name in imported(file)}, file


def test_the_ground_floor_does_not_load_torch() -> None:
    """Not even by way of something else."""
    modules = [".".join(("ponder", *file.relative_to(SOURCE).with_suffix("").parts))
               for file in FILES if FLOORS.get(part_of(file)) == 0]
    loads = "; ".join(f"import {name.removesuffix('.__init__')}" for name in modules)
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; {loads}; import ponder.cli; "
         f"print(sorted({HEAVY!r} & set(sys.modules)), 'ponder.check' in sys.modules)"],
        capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_are_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 250
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 40, f"{node.name} has {length} lines"


def test_the_reader_of_imports_sees_every_kind(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would pass for want of eyes."""
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "search").mkdir()
    file = tmp_path / "search" / "x.py"
    file.write_text("import ponder.types\nfrom ponder import builders\nfrom ponder.maths import f\n"
                    "from .tree import g\nfrom .. import rollout\nimport os.path\n"
                    "def h():\n    from ponder.trainer import Trainer\n")
    assert part_of(file) == "search"
    assert parts_imported(file) == {"types", "builders", "maths", "search", "rollout", "trainer"}
