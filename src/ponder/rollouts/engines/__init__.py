"""Who writes texts (`rollout.engine`): one interface, and our own decoding behind it.

Prompts are token ids, and so is what comes back, with the log-probability of each token under the
distribution that it was drawn from. No engine sees text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ponder.config.errors import EngineFailed
from ponder.core.math import Sampling, precise
from ponder.core.types import Problems
from ponder.models.huggingface.model import Model
from ponder.rollouts.engine import Writer
from ponder.tokenizers.vocabulary import TextVocabulary

Row = tuple[Sequence[int], Sequence[float]]  # tokens up to what ended them, log-probabilities


@dataclass(frozen=True)
class Order:
    """`samples` continuations of each problem, of up to `room` tokens, from `sampling`.

    seed: decides every token, as far as an engine can promise that. at_once: about so many rows are
    decoded side by side. heard: called now and then with the numbers of tokens sampled and of rows
    that have ended since it was last called; what it raises ends the order.
    """

    problems: Problems
    samples: int
    room: int
    sampling: Sampling
    seed: int
    at_once: int = 256
    heard: Callable[[int, int], None] = lambda tokens, rows: None

    @property
    def rows(self) -> int:
        return len(self.problems) * self.samples

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each question, without padding."""
        pad = self.problems.pad
        return [[token for token in row if token != pad]
                for row in self.problems.question.tolist()]

    def noise(self) -> Tensor:
        """(B, room): a uniform number for each token of each row."""
        return torch.rand(self.rows, self.room, generator=self._random())

    def seeds(self) -> list[int]:
        """A seed for each row; those of a question's rows follow each other."""
        first = torch.randint(2**62, (len(self.problems),), generator=self._random()).tolist()
        return [seed + number for seed in first for number in range(self.samples)]

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Engine:
    """Writes texts with the weights of a network; this one is our own decoding.

    own: its log-probabilities are those of our forward pass, by construction.
    """

    name = "own"
    own = True

    def identity(self) -> Any:
        """What decides its texts beside weights and orders, as plain values; None: nothing."""
        return None

    def hand_over(self, net: Model, words: TextVocabulary, version: str,
                  heard: Callable[[], None] = lambda: None) -> None:
        """Make it write with the present weights of a network. version: a hash of them; heard: is
        called while that takes its time.
        """

    def write(self, net: Model, words: TextVocabulary, order: Order) -> tuple[Tensor, Tensor]:
        """(tokens (B, room + 1), log-probabilities (B, room)) as of `Writer.write`."""
        writer = Writer(net, words, order.samples, order.room, order.sampling, order.at_once,
                        order.heard)
        return writer.write(order.problems, order.noise().to(order.problems.question.device))

    def close(self) -> None:
        """End what it has started."""


def tabled(rows: Iterable[Row], net: Model, words: TextVocabulary, order: Order,
           ) -> tuple[Tensor, Tensor]:
    """Rows as `Writer.write` returns them, on the device of the questions. They are cut after the
    token that completes one of `words.stops`. Raises `EngineFailed` for a token that there is not.
    """
    device, room = order.problems.question.device, order.room
    tokens = torch.full((order.rows, room + 1), order.problems.pad)
    logprobs = torch.zeros(order.rows, room, dtype=precise(net.dtype))
    for number, (written, likely) in enumerate(rows):
        strange = next((token for token in written if not 0 <= token < len(words)), None)
        if strange is not None:
            raise EngineFailed(f"rollout.engine: found token {strange}, which the thinker does not "
                               f"have; legal: an engine with its {len(words)} tokens")
        count = _length(written, words)
        tokens[number, :count] = torch.tensor(written[:count])
        logprobs[number, :count] = torch.tensor(likely[:count], dtype=logprobs.dtype)
        stopped = words.stops and words.stopped([*written[:count]])
        if count == room and written[count - 1] not in words.ends and not stopped:
            tokens[number, room] = words.end
    return tokens.to(device), logprobs.to(device)


def _length(written: Sequence[int], words: TextVocabulary) -> int:
    """How many tokens of a row are left of it where stop strings end texts."""
    if words.stops:
        for count, token in enumerate(written, 1):
            if words.stop_tokens[token] and words.stopped([*written[:count]]):
                return count
    return len(written)
