"""How a configuration key says its default, its sentence of help and its legal values."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, doc: str, *, legal: tuple = (), low: float | None = None,
           high: float | None = None) -> Any:
    """A dataclass field that knows its sentence of help and its legal values."""
    metadata = {"doc": doc, "legal": legal, "low": low, "high": high}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def schedule(default: float | str, doc: str, *, low: float | None = None,
             high: float | None = None) -> Any:
    """A field that takes a number or a schedule such as `linear(0.5, 0, 1000)`."""
    return field(default=default,
                 metadata={"doc": doc, "schedule": True, "low": low, "high": high})
