"""Large libraries that are loaded when something of them is first used.

    from ponder.core.lazy_imports import F, Tensor, nn, torch

A file that registers a task, reward, strategy or search imports torch this way, so that `--help`
need not load it. What is used once is remembered, so that later uses cost no more than a module's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


def library(name: str = "transformers") -> Any:
    """A library as a value without type: its types would keep a type checker busy for long."""
    return importlib.import_module(name)


class Lazy:
    """Stands for a module, which is imported when an attribute is first asked for."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        self.__dict__[attribute] = value
        return value


if TYPE_CHECKING:
    import numpy
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import Tensor, nn
else:
    numpy, torch, nn = Lazy("numpy"), Lazy("torch"), Lazy("torch.nn")
    F, dist = Lazy("torch.nn.functional"), Lazy("torch.distributed")

    class _TensorType(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, torch.Tensor)

    class Tensor(metaclass=_TensorType):
        """Stands for `torch.Tensor` in annotations and in `isinstance`."""

__all__ = ["F", "Lazy", "Tensor", "dist", "library", "nn", "numpy", "torch"]
