"""Vocabularies are wide: logits of some decisions at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROWS = 512  # decisions whose logits are in memory at once
Found = TypeVar("Found")


def in_parts(part: Callable[[Tensor, Tensor], Found], states: Tensor, target: Tensor,
             ) -> list[Found]:
    """What `part` makes of states (M, D) and their tokens (M,), some at a time. Their logits are
    made again in the backward pass.
    """
    again = torch.is_grad_enabled() and states.requires_grad
    return [checkpoint(part, *pair, use_reentrant=False) if again  # type: ignore[misc]
            else part(*pair)
            for pair in zip(states.split(ROWS), target.split(ROWS), strict=True)]
