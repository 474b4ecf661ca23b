"""Networks as languages. What a network has read it keeps as keys and values, and reads no token
twice: neither that of a text that grows, nor the beginning that a new prompt shares with the last.

Its positions are the one thing that ends. A text that needs one more slides on: its later half is
read again as if it began there, so that a token behind the end is read twice on average.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.core.math import at_least_float32
from ponder.models.backbone import Segment
from ponder.models.gpt2.model import Cache, Transformer
from ponder.models.huggingface.attention import Buffer
from ponder.models.huggingface.model import Model

CHUNK = 128  # tokens for which room is made at once
ENDLESS = 2**31  # positions of a model that names no number of them


class Window:
    """N texts that grow together, and the last `limit` tokens of each that the network sees.

    held (N, T) are these tokens, slid counts how often they lost their earlier half, and read how
    many tokens the network has read in all.
    """

    def __init__(self, ends: tuple[int, ...], limit: int, device: torch.device) -> None:
        self.ends, self.limit, self.device = ends, limit, device
        self.held = torch.empty(1, 0, dtype=torch.long, device=device)
        self.slid = self.read = 0

    @torch.inference_mode()
    def begin(self, tokens: list[int]) -> Tensor:
        """See `Language`. Raises ValueError where there are none, or more than positions."""
        return self._logprobs(self._begun(tokens))

    def _begun(self, tokens: list[int]) -> Tensor:
        """The last state (1, D) of a text that begins with these tokens."""
        if not 0 < len(tokens) <= self.limit:
            raise ValueError(f"{len(tokens)} tokens, with {self.limit} positions")
        prompt = torch.tensor([tokens], device=self.device)
        width = min(len(tokens) - 1, self.held.shape[1])  # the last one's state is asked for
        same = int((prompt[0, :width] == self.held[0, :width]).long().cumprod(0).sum())
        self.slid = 0
        self._keep(same)
        return self._reading(prompt, same)

    @torch.inference_mode()
    def append(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See `Language`."""
        if not torch.equal(rows, torch.arange(len(self.held), device=self.device)):
            self.held = self.held[rows]
            self._select(rows)
        if self.held.shape[1] == self.limit:
            self.slid += 1
            self._keep(0)
            held = torch.cat([self.held, tokens[:, None]], 1)
            return self._logprobs(self._reading(held[:, -max(1, self.limit // 2):], 0))
        self.held = torch.cat([self.held, tokens[:, None]], 1)
        self.read += len(tokens)
        return self._logprobs(self._extend(tokens))

    def _reading(self, tokens: Tensor, same: int) -> Tensor:
        """Read tokens (N, T) of which the first `same` are in the memory: last states (N, D)."""
        self.held = tokens
        self.read += tokens[:, same:].numel()
        return self._read(tokens[:, same:])

    def _read(self, tokens: Tensor) -> Tensor:
        """Last states (N, D) of tokens (N, T) behind what is in the memory."""
        raise NotImplementedError

    def _extend(self, tokens: Tensor) -> Tensor:
        """States (N, D) of one more token (N,) a text."""
        raise NotImplementedError

    def _select(self, rows: Tensor) -> None:
        """Keep the memory of some texts by index."""
        raise NotImplementedError

    def _keep(self, count: int) -> None:
        """Keep the memory of the first `count` tokens of the first text alone."""
        raise NotImplementedError

    def _logprobs(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V)"""
        raise NotImplementedError


class OwnWindow(Window):
    """A GPT-2 of ours. words are the ids that may come, over which probabilities add up to 1."""

    def __init__(self, net: Transformer, words: slice, ends: tuple[int, ...]) -> None:
        super().__init__(ends, net.shape.positions, net.head.device)
        self.net, self.words = net, words
        self.cache: Cache | None = None

    def _read(self, tokens: Tensor) -> Tensor:
        past = None if self.cache is None else self._past(self.cache)
        hidden, present = self.net(tokens, past, last=1)
        self.cache = self.net.cache(present, 0)
        return hidden[:, 0]

    @staticmethod
    def _past(cache: Cache) -> list[Tensor]:
        return [kv[:, :cache.length] for kv in cache.kv]

    def _extend(self, tokens: Tensor) -> Tensor:
        return self.net.extend(tokens, self._roomy(1))

    def _roomy(self, count: int) -> Cache:
        """The memory, with room for so many tokens more."""
        assert self.cache is not None
        length = self.cache.length
        if length + count > self.cache.kv[0].shape[1]:
            room = min(max(CHUNK, count), self.net.shape.positions - length)
            self.cache = self.net.cache(self._past(self.cache), room)
        return self.cache

    def _select(self, rows: Tensor) -> None:
        assert self.cache is not None
        self.cache = self.cache.select(rows)

    def _keep(self, count: int) -> None:
        if self.cache is not None:
            past = [kv[:1, :count] for kv in self.cache.kv]
            self.cache = self.net.cache(past, 0) if count else None

    def _logprobs(self, hidden: Tensor) -> Tensor:
        some = at_least_float32(self.net.logits(hidden, self.words)).log_softmax(-1)
        start, stop, _ = self.words.indices(self.net.shape.vocabulary)
        return F.pad(some, (start, self.net.shape.vocabulary - stop), value=-torch.inf)


class TextWindow(Window):
    """A model of Hugging Face: a prompt's keys and values exist once for all texts behind it."""

    def __init__(self, net: Model, ends: tuple[int, ...]) -> None:
        config: Any = net.network.config
        super().__init__(ends, getattr(config, "max_position_embeddings", None) or ENDLESS,
                         net.device)
        self.net = net
        self.prompt: Segment | None = None
        self.buffer = Buffer(0, torch.zeros(1, dtype=torch.long, device=self.device))

    def _read(self, tokens: Tensor) -> Tensor:
        past = [] if self.prompt is None else [self.prompt]
        hidden, more = self.net.read(tokens, None, past)
        self.prompt = more if self.prompt is None else self.prompt.longer(more)
        self.buffer = Buffer(CHUNK, torch.zeros(len(tokens), dtype=torch.long, device=self.device))
        return hidden[:, -1]

    def _extend(self, tokens: Tensor) -> Tensor:
        assert self.prompt is not None
        written, room = int(self.buffer.at[0]), self.buffer.room
        if written == room:
            self.buffer = Buffer(room + CHUNK, self.buffer.at, {
                layer: (F.pad(key, (0, 0, 0, CHUNK)), F.pad(value, (0, 0, 0, CHUNK)))
                for layer, (key, value) in self.buffer.kv.items()})
        return self.net.write(tokens, self.buffer, [self.prompt], written + 1)

    def _select(self, rows: Tensor) -> None:
        assert self.prompt is not None
        if len(self.prompt.mask) > 1:
            self.prompt = self.prompt.select(rows)
        self.buffer = self.buffer.select(rows)

    def _keep(self, count: int) -> None:
        if count == 0 or self.prompt is None:
            self.prompt = None
            return
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        memory = self.prompt.select(first)
        if self.buffer.kv:
            written = self.buffer.select(first)
            at = int(written.at[0])
            memory = memory.longer(Segment(
                torch.ones_like(self.held[:1, :at], dtype=torch.bool), memory.length + at,
                {layer: (key[:, :, :at], value[:, :, :at])
                 for layer, (key, value) in written.kv.items()}))
        self.prompt = Segment(memory.mask[:, :count], torch.full_like(memory.length, count),
                              {layer: (key[:, :, :count], value[:, :, :count])
                               for layer, (key, value) in memory.kv.items()})

    def _logprobs(self, hidden: Tensor) -> Tensor:
        return at_least_float32(self.net.logits(hidden)).log_softmax(-1)

