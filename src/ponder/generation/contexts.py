"""Decoding contexts: a network as a `LanguageModel`. What it has read stays in its key/value cache
and is not read again: neither the tokens of a text that grows, nor the beginning that a new prompt
shares with the last one.

The number of positions is limited. A text that needs one more is truncated to its later half, which
is read again as if the text began there: each token beyond the limit is read twice on average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.core.math import GREEDY, Sampling, at_least_float32
from ponder.models.backbone import Backbone, Decoder, Segment
from ponder.models.policies.next_token import PositionPolicy
from ponder.rollouts.sampler import choose

CHUNK = 128  # tokens by which a cache grows
UNLIMITED = 2**31  # positions of a model that names no number of them


class DecodingContext:
    """The last `limit` tokens of N texts that grow together, read by one network.

    words: ids of the tokens that may come, over which probabilities add up to 1; None: all that the
        network may write.
    ends: tokens that end a text.
    vectors (T, D): input embeddings that the network reads before every text; their positions are
        not available to the text.

    tokens (N, T) are those in the context; truncations counts how often they lost their earlier
    half, tokens_read how many tokens the network has read in all.
    """

    @torch.inference_mode()
    def __init__(self, net: Backbone, words: slice | None, ends: tuple[int, ...],
                 vectors: Tensor | None = None) -> None:
        self.net, self.words, self.ends, self.device = net, words, ends, net.device
        self.limit = net.positions or UNLIMITED
        self.prefix: Segment | None = None  # of the vectors
        if vectors is not None:
            self.prefix = net.read(vectors[None], last=1)[1]
            self.limit -= len(vectors)
        self.cache = self.prefix  # the keys and values that new tokens attend to
        self.decoder: Decoder | None = None  # the cache with all tokens of the texts
        self.tokens = torch.empty(1, 0, dtype=torch.long, device=self.device)
        self.truncations = self.tokens_read = 0

    @torch.inference_mode()
    def start(self, prompt: list[int]) -> Tensor:
        """See `LanguageModel`. Raises ValueError for an empty prompt or one of more than `limit`
        tokens.
        """
        return self._logprobs(self._start(prompt))

    def _start(self, prompt: list[int]) -> Tensor:
        """The state (1, D) at the end of a prompt."""
        if not 0 < len(prompt) <= self.limit:
            raise ValueError(f"{len(prompt)} tokens, with {self.limit} positions")
        tokens = torch.tensor([prompt], device=self.device)
        width = min(len(prompt) - 1, self.tokens.shape[1])  # the last one's state is asked for
        same = int((tokens[0, :width] == self.tokens[0, :width]).long().cumprod(0).sum())
        self.truncations = 0
        return self._read(tokens, same)

    @torch.inference_mode()
    def extend(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See `LanguageModel`."""
        if not torch.equal(rows, torch.arange(len(self.tokens), device=self.device)):
            self._select(rows)
        both = torch.cat([self.tokens, tokens[:, None]], 1)
        if both.shape[1] > self.limit:
            self.truncations += 1
            return self._logprobs(self._read(both[:, -max(1, self.limit // 2):], 0))
        self.tokens = both
        self.tokens_read += len(tokens)
        return self._logprobs(self._step(tokens))

    def _read(self, tokens: Tensor, cached: int) -> Tensor:
        """Read tokens (N, T), the first `cached` of which are the first text's so far: last states
        (N, D).
        """
        if cached == 0:
            self.cache = self.prefix
        elif self.decoder is not None:
            before = 0 if self.prefix is None else self.prefix.mask.shape[1]
            first = torch.zeros(1, dtype=torch.long, device=self.device)
            self.cache = self.decoder.segment(first).first(slice(0, 1), before + cached)
        self.tokens = tokens
        self.tokens_read += tokens[:, cached:].numel()
        before = [] if self.cache is None else [self.cache.repeat(len(tokens))]
        states, segment = self.net.read(tokens[:, cached:], None, before, last=1)
        self.cache = before[0].longer(segment) if before else segment
        self.decoder = self.net.decoder(self.cache, 1, CHUNK)
        return states[:, 0]

    def _step(self, tokens: Tensor) -> Tensor:
        """States (N, D) of one more token (N,) a text."""
        return self._with_room(1).step(tokens)

    def _with_room(self, count: int) -> Decoder:
        """The decoder, with room for `count` more tokens."""
        assert self.decoder is not None
        if self.decoder.written + count > self.decoder.room:
            self.decoder = self.decoder.grow(max(CHUNK, count))
        return self.decoder

    def _select(self, rows: Tensor) -> None:
        """Keep some texts by index (n,)."""
        assert self.decoder is not None
        self.tokens, self.decoder = self.tokens[rows], self.decoder.select(rows)

    def _logprobs(self, states: Tensor) -> Tensor:
        """Log-probabilities (N, V) of the next token, of states (N, D)."""
        logprobs = at_least_float32(self.net.logits(states, self.words)).log_softmax(-1)
        return logprobs if self.words is None else among(logprobs, self.words, len(self.net.head))


def among(logprobs: Tensor, words: slice, count: int) -> Tensor:
    """Log-probabilities (N, count), -inf but for some words (N, W), whose ids are a slice."""
    start, stop, _ = words.indices(count)
    return F.pad(logprobs, (start, count - stop), value=-torch.inf)


class ThinkingContext(DecodingContext):
    """Thinks at the last position of each of N texts before it predicts the next token. The
    prediction after the thought is mixed with the one without, as in `PositionPolicy`, over the
    words that may come.

    A thought is decoded into the cache and removed again, so that no later position sees it. Its
    positions are not available to the text, which is truncated so much earlier. Thoughts are
    recorded: see `thoughts`.
    """

    words: slice

    def __init__(self, policy: PositionPolicy, words: slice, ends: tuple[int, ...]) -> None:
        super().__init__(policy.thinker, words, ends)
        self.policy = policy
        self.limit -= policy.rules.tokens + 1
        # Every (prompt, tokens so far) that was looked at is a node of a tree, with a thought.
        self.node: list[int] = []  # of each text
        self.recorded: list[list[int]] = []  # of each node: its thought
        self.children: dict[tuple[int, int], int] = {}  # (node, token) -> node
        self.prepare(GREEDY)

    def prepare(self, sampling: Sampling, texts: int = 1, seed: int = 0) -> None:
        """Set how to think from the next `start` on, which begins so many texts side by side: each
        has thoughts, and random numbers, of its own.
        """
        self.sampling = sampling
        self.seeds = range(seed, seed + texts)
        self.random: list[torch.Generator] = []

    @torch.inference_mode()
    def start(self, prompt: list[int]) -> Tensor:
        """See `LanguageModel`: (N, V)."""
        state = self._start(prompt)
        self.random = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        rows = torch.zeros(len(self.seeds), dtype=torch.long, device=self.device)
        self.node, self.recorded, self.children = [*range(len(rows))], [], {}
        self._select(rows)
        return self._logprobs(state[rows])

    @torch.inference_mode()
    def extend(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See `LanguageModel`."""
        kept, first = rows.tolist(), len(self.recorded)
        for node, (row, token) in enumerate(zip(kept, tokens.tolist(), strict=True), first):
            self.children[self.node[row], token] = node
        self.node = [*range(first, first + len(kept))]
        self.random = [self.random[row] for row in kept]
        return super().extend(rows, tokens)

    @property
    def thought(self) -> list[int]:
        """The last thought of the first text, with its end."""
        return self.recorded[self.node[0]]

    def thoughts(self, completion: list[int], number: int = 0) -> list[list[int]]:
        """The thought before each token of a completion of the n-th text that was begun."""
        found, node = [], number
        for token in completion:
            found.append(self.recorded[node])
            node = self.children.get((node, token), -1)
        return found

    def _logprobs(self, states: Tensor) -> Tensor:
        thought, after = self._think(states)
        pad = self.policy.vocabulary.pad
        self.recorded += [[token for token in row if token != pad] for row in thought.tolist()]
        mixed = self.policy.mixture(states, after)[:, self.words]
        return among(mixed.log_softmax(-1), self.words, len(self.policy.vocabulary))

    def _think(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(thoughts (N, <= K + 1), states (N, D) after them), from the texts' last states (N, D).
        Thoughts that have ended are still decoded; their tokens are ignored.
        """
        count, vocabulary = self.policy.rules.tokens, self.policy.vocabulary
        noise, after, written = self._noise(count), state, []
        going = torch.ones(len(state), dtype=torch.bool, device=self.device)
        close = torch.full_like(going, vocabulary.end, dtype=torch.long)
        with self._temporarily(count + 1):
            for step in range(count + 1):
                token = close if step == count else choose(self.policy, state, self.sampling,
                                                           noise[:, step])[0]
                written.append(token.where(going, vocabulary.pad))
                state = self._step(token)
                after = torch.where(going[:, None], state, after)
                going = going & (token != vocabulary.end)
                if self.policy.rules.stops and not going.any():
                    break
        return torch.stack(written, 1), after

    @contextlib.contextmanager
    def _temporarily(self, count: int) -> Iterator[None]:
        """Remove what is decoded meanwhile, at most `count` tokens a text, from the cache again."""
        decoder = self._with_room(count)
        written = decoder.written
        yield
        decoder.rewind(written)

    def _noise(self, count: int) -> Tensor:
        """(N, K): uniform numbers that decide each thought."""
        drawn = [torch.rand(count, generator=own) for own in self.random]
        return torch.stack(drawn).to(self.device)
