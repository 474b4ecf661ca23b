"""A language model as a policy: the answer to a passage is the next token of each of its places."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.core.math import Sampling, at_least_float32
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone
from ponder.models.policies.question import Policy, Rules
from ponder.tokenizers.vocabulary import Vocabulary

TOKENS_AT_ONCE, LOGITS_AT_ONCE = 2**13, 2**24  # that are looked at at the same time


class Further(nn.Module):
    """Foresees tokens further ahead from the same states: a residual layer for each of the `count`
    tokens behind the next one, whose outputs the network's own head reads (Gloeckle et al. 2024,
    with a layer in place of a block).
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """States (P, T - k, D) for the k-th token behind the next one, k = 1, 2, ..."""
        return [hidden[:, :-k] + F.gelu(layer(hidden[:, :-k]))
                for k, layer in enumerate(self.layers, start=1)]


class Reader(Policy):
    """Reads passages (P, T) without a thought; question holds the tokens, answer the next ones.

    ahead: so many next tokens of every place are learnt, which should make states plan; only the
    first of them is ever asked for.
    """

    def __init__(self, net: Backbone, vocabulary: Vocabulary, rules: Rules,
                 ahead: int = 1) -> None:
        super().__init__(net, None, vocabulary, rules)
        self.further = Further(net.width, ahead - 1) if ahead > 1 else None

    @property
    def attached(self) -> dict[str, nn.Module]:
        return {} if self.further is None else {"further": self.further}

    def next_logits(self, problems: Problems, net: Backbone | None = None) -> Tensor:
        """Logits (P, T, ordinary vocabulary) of the next token of every place."""
        net = net or self.answerer
        return self._logits(net, net.read(problems.question, keep=False)[0])

    def _logits(self, net: Backbone, hidden: Tensor) -> Tensor:
        return at_least_float32(net.logits(hidden, slice(0, self.vocabulary.end)))

    def foresee(self, problems: Problems, net: Backbone | None = None,
                ) -> tuple[Tensor, Tensor]:
        """(-log p (P, T) of the next token of every place in nats, the likeliest token (P, T))."""
        found = []
        for part in self.in_parts(problems, problems.question.shape[1]):
            logits = self.next_logits(problems[part], net)
            found.append((_surprise(logits, problems.answer[part]), logits.argmax(-1)))
        surprise, likeliest = zip(*found, strict=True)
        return torch.cat(surprise), torch.cat(likeliest)

    def in_parts(self, problems: Problems, each: int) -> Iterator[slice]:
        """Some problems at a time, of `each` tokens or branches, as their logits are many."""
        count = max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // self.vocabulary.end) // each)
        return (slice(start, start + count) for start in range(0, len(problems), count))

    def surprise(self, problems: Problems, net: Backbone | None = None) -> Tensor:
        """(P, T): -log p of the next token of every place, in nats."""
        return self.foresee(problems, net)[0]

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(mean log p (P,) of a token of the passage in nats, whether all were the likeliest)."""
        surprise, likeliest = self.foresee(problems, net)
        return -surprise.mean(1), (likeliest == problems.answer).all(1)

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """The likelihood of the passages, with gradients: the mean over how far ahead a token is.
        There are no thoughts.
        """
        problems, net = rollouts.problems, self.thinker
        hidden, _ = net.read(problems.question, keep=False)
        states = [hidden, *(self.further(hidden) if self.further is not None else [])]
        losses = [_surprise(self._logits(net, state), problems.answer[:, number:]).mean(1)
                  for number, state in enumerate(states)]
        none = hidden.new_zeros(len(rollouts), 0)
        return Scores(none, none, none[..., None], -torch.stack(losses).mean(0))


def _surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p (P, T) of tokens (P, T) under logits (P, T, V)."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
