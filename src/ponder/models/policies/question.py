"""A policy that thinks in tokens and then predicts the tokens of an answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ponder.core.math import at_least_float32, left_justify
from ponder.core.types import Problems
from ponder.models.backbone import Backbone
from ponder.models.policies.base import Policy


class QuestionPolicy(Policy):
    """Question, thought, answer: the answerer predicts the answer's tokens after the thought."""

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int,
                      net: Backbone | None = None, ragged: bool | None = None) -> Tensor:
        """Logits (B, A, ordinary vocabulary) of the gold answer's tokens, given thoughts (B, T).

        The answerer's context is what `rules` lets it see; where the question is not in it,
        positions restart at 0. End-of-thought is always there: it says "answer now". ragged:
        whether thoughts differ in length (default: where the thinker stops by itself).
        """
        net = net or self.answerer
        answer = problems.answer[:, :-1].repeat_interleave(samples, 0)
        if not self.rules.sees_thought:
            thought = thought.new_full((len(thought), 1), self.vocabulary.end)
        row = torch.cat([thought, answer], 1)
        ragged = (self.rules.stops if ragged is None else ragged) and thought.shape[1] > 1
        row = left_justify(row, problems.pad) if ragged else row
        width = problems.answer.shape[1]
        if not ragged:
            hidden = self._context(net, problems, row, samples, width)
        else:
            start = (thought != problems.pad).sum(1, keepdim=True) - 1
            at = start + torch.arange(width, device=row.device)
            hidden = self._context(net, problems, row, samples, row.shape[1])
            hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))

    def _context(self, net: Backbone, problems: Problems, row: Tensor, samples: int,
                 last: int) -> Tensor:
        """Last hidden states (B, last, D) of rows (B, T) behind the question, if it may be seen."""
        if not self.rules.sees_question:
            return net.read(row, last=last, keep=False)[0]
        return net.after(problems, row, samples, last)

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(log p(answer | context) (B,) in nats, whether the greedy answer is right (B,))."""
        logits = self.answer_logits(problems, thought, samples, net, ragged)
        gold = problems.answer.repeat_interleave(samples, 0)
        real = gold != problems.pad
        logprobs = logits.log_softmax(-1).gather(-1, gold[..., None])[..., 0]
        right = ((logits.argmax(-1) == gold) | ~real).all(1)
        return (logprobs * real).sum(1), right

    def reply(self, problems: Problems, thought: Tensor) -> Tensor:
        """Greedy answers (P, A) to P questions with one thought each."""
        filled = replace(problems, answer=problems.answer.clone())
        for column in range(problems.answer.shape[1]):
            logits = self.answer_logits(filled, thought, 1)
            filled.answer[:, column] = logits[:, column].argmax(-1)
        return filled.answer
