"""Ponder: thinking before answering in language models.

`import ponder` loads nothing else: each of the names below is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ponder.cli.api import Run, compare, compose, evaluate, generate, load, runs, train
    from ponder.config.errors import JobFailed, UserError
    from ponder.config.option import option
    from ponder.config.registry import engine, reward, search, strategy, task, tracker, verifier
    from ponder.core.types import Problem
    from ponder.tasks.toy.base import ToyTask

__all__ = ["JobFailed", "Problem", "Run", "ToyTask", "UserError", "compare", "compose", "engine",
           "evaluate", "generate", "load", "option", "reward", "runs", "search", "strategy", "task",
           "tracker", "train", "verifier"]
_HOME = {
    **dict.fromkeys(__all__, "ponder.cli.api"),
    **dict.fromkeys(("JobFailed", "UserError"), "ponder.config.errors"),
    "option": "ponder.config.option",
    "Problem": "ponder.core.types",
    "ToyTask": "ponder.tasks.toy.base",
    **dict.fromkeys(("engine", "reward", "search", "strategy", "task", "tracker", "verifier"),
                    "ponder.config.registry"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ponder' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
