"""What can be continued, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Language(Protocol):
    """Says how likely each of V tokens is behind texts that grow together.

    Log-probabilities are in nats, -inf for tokens that may not come. ends are the tokens that end
    a text.
    """

    ends: tuple[int, ...]

    def begin(self, tokens: list[int]) -> Tensor:
        """Begin one text with these tokens: log-probabilities (1, V) of the next. Or several texts,
        (N, V), where they differ by more than their tokens.
        """
        ...

    def append(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Of the texts so far keep some by index (N,), in this order, as often as they come, and
        append a token (N,) to each: log-probabilities (N, V) of the next.
        """
        ...


@dataclass(frozen=True)
class Text:
    """What was written behind a prompt.

    tokens with the one that ended it, where one did (`ended`); logprob is the sum of their
    log-probabilities under the language itself, in nats; score is what a beam search ranked it by.
    """

    tokens: list[int]
    logprob: float
    ended: bool
    score: float | None = None
