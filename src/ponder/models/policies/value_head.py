"""The value head: what reward a policy expects before each token of a thought, or of a question."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponder.core.math import at_least_float32
from ponder.models.backbone import Backbone


class ValueHead(nn.Module):
    """A linear head that predicts the reward from the hidden states of the thinker, or of a network
    of its own (`trunk`). Its first predictions are 0.

    reads: token (the state before each token), or one value a question: last (the state of its last
    token) or mean (over the states of its tokens). It never reads the token that it is a baseline
    for, which would bias the gradient.
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
        """(P,): one value for each question (P, Q), padded on the left."""
        last = self.reads == "last"
        hidden, _ = net.read(question, mask, keep=False, last=1 if last else None)
        if last:
            return self(hidden[:, -1])
        real = torch.ones_like(question, dtype=hidden.dtype) if mask is None else mask.to(
            hidden.dtype)
        return self((hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True))
