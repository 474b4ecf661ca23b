"""Small files that come with the package, so that every experiment runs without a download."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = "example:"  # what a value begins with that names one of them
FOLDER = Path(__file__).resolve().parents[1] / "tasks" / "examples"


def located(name: str | Path) -> Path:
    """Where a file is that a key names: `example:questions.csv` is one of the package. The name
    itself stays in configurations, as the package may lie elsewhere tomorrow.
    """
    shipped, word = str(name).startswith(EXAMPLE), str(name).removeprefix(EXAMPLE)
    return FOLDER / Path(word).name if shipped else Path(name)


def examples(kinds: tuple[str, ...]) -> str:
    """The examples that end so, as they are typed."""
    return ", ".join(f"{EXAMPLE}{path.name}" for path in sorted(FOLDER.glob("*"))
                     if path.name.endswith(kinds))
