"""The learnt value of an unfinished thought, for tree search (`rollout.tree.value=model`).

In a file of its own, as no policy knows it: a network beside the thinker, trained by the search.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponder.models.gpt2.layers import Shape
from ponder.models.gpt2.model import Transformer


class ValueModel(nn.Module):
    """A transformer trunk with a scalar head that reads the last real token of a row."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.trunk = Transformer(shape)
        self.head = nn.Linear(shape.d_model, 1)

    def forward(self, tokens: Tensor, pad: int) -> Tensor:
        """Values (B,) of rows (B, T), padding on either side."""
        mask = tokens != pad
        hidden = self.trunk(tokens, mask=mask)[0]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        last = (mask * columns).argmax(1)
        return self.head(hidden[torch.arange(len(tokens), device=tokens.device), last])[:, 0]
