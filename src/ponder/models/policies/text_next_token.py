"""A language model of Hugging Face that learns text: the next token of every place of a passage."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import rows_at_once
from ponder.models.huggingface.model import Model
from ponder.models.policies.question import Rules
from ponder.models.policies.thinker import TextThinker
from ponder.tokenizers.vocabulary import TextVocabulary


class TextReader(TextThinker):
    """Reads passages (P, T) without a thought; question holds the tokens, answer the next ones."""

    answers_in_text = False  # what is learnt is the passage, not what was written

    def __init__(self, net: Model, vocabulary: TextVocabulary, rules: Rules) -> None:
        super().__init__(net, vocabulary, rules)

    def _states(self, problems: Problems) -> Tensor:  # type: ignore[override]
        """(P, T, D)"""
        return self.net.read(problems.question, keep=False)[0]

    def foresee(self, problems: Problems) -> tuple[Tensor, Tensor]:
        """(-log p (P, T) of the next token of every place in nats, the likeliest token (P, T))."""
        return foreseen(self.net, problems)

    def surprise(self, problems: Problems) -> Tensor:
        """(P, T): -log p of the next token of every place, in nats."""
        return self.foresee(problems)[0]

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,  # type: ignore[override]
               net: Model | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(mean log p (P,) of a token of the passage in nats, whether all were the likeliest)."""
        loss, guess = self.foresee(problems)
        return -loss.mean(1), (guess == problems.answer).all(1)

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """The likelihood of the passages, with gradients. There are no thoughts."""
        problems = rollouts.problems
        states = self._states(problems)
        loss, _ = self.net.predict(states, problems.answer)
        none = loss.new_zeros(len(rollouts), 0)
        return Scores(none, none, none[..., None], -loss.view(len(rollouts), -1).mean(1))


@torch.no_grad()
def foreseen(net: Model, problems: Problems, words: slice | None = None,
             ) -> tuple[Tensor, Tensor]:
    """(-log p (P, T) of the next token of every place in nats, the likeliest token (P, T)), among
    the first words where a slice says so.
    """
    count, width = problems.question.shape
    found = []
    for part in rows_at_once(count, width, problems.question.device):
        some = problems[part]
        states, _ = net.read(some.question, keep=False)
        found.append(net.predict(states, some.answer, words))
    loss, guess = (torch.cat(values) for values in zip(*found, strict=True))
    return loss, guess
