"""A language whose next token is foreseen behind a thought: texts think behind every place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.core.math import GREEDY, Sampling
from ponder.generation.contexts import OwnWindow, TextWindow, Window
from ponder.models.policies.positions import PassageThinker
from ponder.models.policies.text_positions import TextPassageThinker
from ponder.rollouts.sampler import choose


class Thinking(Window):
    """Before it says what comes next it thinks behind the last place of each of N texts; what is
    foreseen behind the thought is mixed with what is foreseen without, as in
    `PassageThinker.foresight`, over the words that may come.

    A thought is written behind what its text has in memory and taken out again, so that no place
    behind it ever sees it. The positions that a thought takes are not the text's, which slides on
    so much earlier. Thoughts are noted: see `thoughts`.
    """

    words: slice

    def thinks(self, policy: PassageThinker) -> None:
        """Make it think as a policy does, whose network it reads with."""
        self.policy = policy
        self.limit -= policy.rules.tokens + 1
        self.node: list[int] = []  # of each text: where it is among all that were looked at
        self.noted: list[list[int]] = []  # of each node: the thought behind it
        self.grown: dict[tuple[int, int], int] = {}  # (node, token) -> node
        self.prepare(GREEDY)

    def prepare(self, sampling: Sampling, texts: int = 1, seed: int = 0) -> None:
        """How to think from the next `begin` on, which begins so many texts side by side, as each
        has thoughts of its own. So are a text's random numbers, and company changes nothing.
        """
        self.sampling = sampling
        self.seeds = range(seed, seed + texts)
        self.random: list[torch.Generator] = []

    @torch.inference_mode()
    def begin(self, tokens: list[int]) -> Tensor:
        """See `Language`: (N, V)."""
        state = self._begun(tokens)
        self.random = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        rows = torch.zeros(len(self.seeds), dtype=torch.long, device=self.device)
        self.node, self.noted, self.grown = [*range(len(rows))], [], {}
        self.held = self.held[rows]
        self._select(rows)
        return self._logprobs(state[rows])

    @torch.inference_mode()
    def append(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See `Language`."""
        at, first = rows.tolist(), len(self.noted)
        for number, (row, token) in enumerate(zip(at, tokens.tolist(), strict=True), first):
            self.grown[self.node[row], token] = number
        self.node = [*range(first, first + len(at))]
        self.random = [self.random[row] for row in at]
        return super().append(rows, tokens)

    @property
    def thought(self) -> list[int]:
        """The last thought of the first text, with its end."""
        return self.noted[self.node[0]]

    def thoughts(self, text: list[int], number: int = 0) -> list[list[int]]:
        """The thoughts in front of the tokens that continued the n-th of the texts begun."""
        found = []
        for token in text:
            found.append(self.noted[number])
            number = self.grown.get((number, token), -1)
        return found

    def _logprobs(self, hidden: Tensor) -> Tensor:
        thought, after = self._think(hidden)
        pad = self.policy.vocabulary.pad
        self.noted += [[token for token in row if token != pad] for row in thought.tolist()]
        mixed = self.policy.mixture(hidden, after)
        some = mixed[:, self.words].log_softmax(-1)
        count = len(self.policy.vocabulary)
        start, stop, _ = self.words.indices(count)
        return F.pad(some, (start, count - stop), value=-torch.inf)

    def _think(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(thoughts (N, K + 1) at most, states (N, D) behind them), from the texts' last states. A
        thought that has ended runs on unheard.
        """
        count, vocabulary = self.policy.rules.tokens, self.policy.vocabulary
        noise, after, said = self._noise(count), state, []
        going = torch.ones(len(state), dtype=torch.bool, device=self.device)
        close = torch.full_like(going, vocabulary.end, dtype=torch.long)
        with self._aside(count + 1):
            for step in range(count + 1):
                token = close if step == count else choose(self.policy, state, self.sampling,
                                                           noise[:, step])[0]
                said.append(token.where(going, vocabulary.pad))
                state = self._extend(token)
                after = torch.where(going[:, None], state, after)
                going = going & (token != vocabulary.end)
                if self.policy.rules.stops and not going.any():
                    break
        return torch.stack(said, 1), after

    def _aside(self, count: int) -> contextlib.AbstractContextManager[None]:
        """What is written meanwhile, so many tokens at most, is taken out of the memory again."""
        raise NotImplementedError

    def _noise(self, count: int) -> Tensor:
        """(N, K): what decides each thought."""
        drawn = [torch.rand(count, generator=own) for own in self.random]
        return torch.stack(drawn).to(self.device)


class PlaceWindow(Thinking, OwnWindow):
    """That of a GPT-2 of ours."""

    def __init__(self, policy: PassageThinker, words: slice, ends: tuple[int, ...]) -> None:
        super().__init__(policy.thinker, words, ends)
        self.thinks(policy)

    @contextlib.contextmanager
    def _aside(self, count: int) -> Iterator[None]:
        cache = self._roomy(count)
        length, position = cache.length, cache.position
        yield
        cache.length, cache.position = length, position


class TextPlaceWindow(Thinking, TextWindow):
    """That of a model of Hugging Face."""

    def __init__(self, policy: TextPassageThinker, ends: tuple[int, ...]) -> None:
        super().__init__(policy.net, ends)
        self.words = policy.ordinary
        self.thinks(policy)

    @contextlib.contextmanager
    def _aside(self, count: int) -> Iterator[None]:
        at = self.buffer.at
        yield
        self.buffer.at = at
