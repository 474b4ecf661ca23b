"""The value head of PPO: what reward a thought will earn, before each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponder.core.math import at_least_float32
from ponder.models.backbone import Backbone


class Critic(nn.Module):
    """A scalar head on the thinker's trunk, or on a trunk of its own.

    reads: token (the state before each token), or one value a question: last (of its last token)
    or mean (over its tokens). It never reads the token it is a baseline for: such a baseline would
    take away what it should only steady. It begins at 0.
    """

    def __init__(self, width: int, reads: str, trunk: Backbone | None = None) -> None:
        super().__init__()
        self.reads = reads
        self.trunk = trunk
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)"""
        return at_least_float32(self.head(hidden))[..., 0]

    def of_question(self, net: Backbone, question: Tensor, mask: Tensor | None) -> Tensor:
        """(P,): one value of each question (P, Q), padding on the left."""
        hidden = net.read(question, mask, keep=False, last=1 if self.reads == "last" else None)[0]
        if self.reads == "last":
            return self(hidden[:, -1])
        real = torch.ones_like(question, dtype=hidden.dtype) if mask is None else mask.to(
            hidden.dtype)
        return self((hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True))
