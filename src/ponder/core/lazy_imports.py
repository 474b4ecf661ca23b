"""Large libraries that are loaded when something of them is first used.

    from ponder.core.lazy_imports import F, Tensor, nn, torch

A file that registers a task, reward, strategy or search imports torch this way, so that `--help`
does not load it. An attribute is looked up once and then kept, so later uses cost no more than with
the module itself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar


def library(name: str = "transformers") -> Any:
    """A library as a value without type: its types would keep a type checker busy for long."""
    return importlib.import_module(name)


Function = TypeVar("Function", bound=Callable[..., Any])


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


def no_grad(function: Function) -> Function:
    """`torch.no_grad` as a decorator that does not load torch."""
    @functools.wraps(function)
    def without_gradients(*arguments: Any, **more: Any) -> Any:
        with torch.no_grad():
            return function(*arguments, **more)

    return without_gradients  # type: ignore[return-value]


__all__ = ["F", "Lazy", "Tensor", "dist", "library", "nn", "no_grad", "numpy", "torch"]
