"""Large libraries, which are loaded when they are wanted."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str = "transformers") -> Any:
    """A library that is loaded when it is wanted. Its types would keep a type checker busy for
    longer than all of ours.
    """
    return importlib.import_module(name)
