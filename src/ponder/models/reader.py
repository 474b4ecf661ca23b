"""A language model as a policy: the answer to a passage is the next token of each of its places."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ponder.maths import Sampling, at_least_float32
from ponder.models.policy import Policy
from ponder.models.transformer import Transformer
from ponder.types import Problems, Rollouts, Scores


class Reader(Policy):
    """Reads passages (P, T) without a thought; question holds the tokens, answer the next ones."""

    def next_logits(self, problems: Problems, net: Transformer | None = None) -> Tensor:
        """Logits (P, T, ordinary vocabulary) of the next token of every place."""
        net = net or self.answerer
        hidden = net(problems.question)[0]
        return at_least_float32(net.logits(hidden, slice(0, self.vocabulary.end)))

    def surprise(self, problems: Problems, net: Transformer | None = None) -> Tensor:
        """(P, T): -log p of the next token of every place, in nats."""
        logits = self.next_logits(problems, net)
        return F.cross_entropy(logits.flatten(0, 1), problems.answer.flatten(),
                               reduction="none").view_as(problems.answer)

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Transformer | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(mean log p (P,) of a token of the passage in nats, whether all were the likeliest)."""
        logits = self.next_logits(problems, net)
        right = (logits.argmax(-1) == problems.answer).all(1)
        return -self.surprise(problems, net).mean(1), right

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """The likelihood of the passages, with gradients; there are no thoughts."""
        none = rollouts.thought.new_zeros((len(rollouts), 0), dtype=self.thinker.head.dtype)
        answer = -self.surprise(rollouts.problems).mean(1)
        return Scores(none, none, none[..., None], answer)
