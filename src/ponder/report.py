"""report.html: one page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_report(directory: Path, summary: dict[str, Any], config: dict[str, Any]) -> None:
    """Write `report.html` into a run directory."""
