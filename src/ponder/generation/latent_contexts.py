"""Texts that grow behind what is no text: vectors that stand in the place of thought tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.generation.contexts import OwnWindow
from ponder.models.gpt2.model import Transformer


class VectorWindow(OwnWindow):
    """A GPT-2 of ours that has heard input embeddings (T, D) before every text. A text must end
    before the positions do that these leave, as it cannot slide on.
    """

    @torch.inference_mode()
    def __init__(self, net: Transformer, words: slice, heard: Tensor) -> None:
        super().__init__(net, words, ())
        self.before = len(heard)
        self.limit -= self.before
        self.cache = net.cache(net(heard[None], last=1)[1], 0)

    def _keep(self, count: int) -> None:
        assert self.cache is not None
        past = [kv[:1, :self.before + count] for kv in self.cache.kv]
        self.cache = self.net.cache(past, 0)
