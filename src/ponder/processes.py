"""Several processes as one: sums over all of them; with one process, nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def several() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def everywhere(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same in each."""
    if several():
        dist.all_reduce(value)
    return value


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes, in one message.

    Losses are divided by denominators of the whole step, so gradients add up and are not averaged.
    """
    if not several():
        return
    weights = [p for p in parameters if p.requires_grad]
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    grads = [weight.grad for weight in weights if weight.grad is not None]
    message = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(message)
    for grad, part in zip(grads, message.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def keep_memory() -> None:
    """Memory that was freed stays with the process. glibc hands large blocks back at once, and the
    system then clears each new one page by page: a third of the time of a CPU in large models.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        most_mappings, trim_threshold = -4, -1
        mallopt(most_mappings, 0)
        mallopt(trim_threshold, -1)
