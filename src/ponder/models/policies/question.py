"""Policies that predict the tokens of an answer after a thought, which consists of tokens or of
vectors that gradients flow through.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.core.math import (
    Sampling,
    at_least_float32,
    columns,
    distribution,
    left_justify,
    right_justify,
    straight_through,
)
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment
from ponder.models.policies.base import Policy


class QuestionPolicy(Policy):
    """Question, thought, answer: the answerer predicts the answer's tokens after the thought."""

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int,
                      net: Backbone | None = None, ragged: bool | None = None) -> Tensor:
        """Logits (B, A, ordinary vocabulary) of the gold answer's tokens, given thoughts (B, T); or
        (B * M, A, ordinary vocabulary), where M questions are asked about each.

        The answerer sees what `rules` allows, and always end-of-thought, which says "answer now".
        Without the question its positions start at 0; `rules.from_end` gives end-of-thought the
        position that it has after the longest thought, so that tokens that are equally far from it
        have equal ones. ragged: whether thoughts differ in length (default: where the thinker stops
        by itself).
        """
        net = net or self.answerer
        answer = problems.answer[:, :-1].repeat_interleave(samples, 0)
        if not self.rules.sees_thought:
            thought = thought.new_full((len(thought), 1), self.vocabulary.end)
        ragged = (self.rules.ragged if ragged is None else ragged) and thought.shape[1] > 1
        if problems.asked is not None:
            return self._asked(net, problems, thought, samples, ragged)
        row, width = torch.cat([thought, answer], 1), problems.answer.shape[1]
        if self.rules.from_end:
            return self._from_end(net, problems, thought, answer, samples, ragged)
        hidden = (self._left_justified(net, problems, thought, row, samples, width) if ragged
                  else self._context(net, problems, row, samples, width))
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))

    def _left_justified(self, net: Backbone, problems: Problems, before: Tensor, row: Tensor,
                        samples: int, width: int) -> Tensor:
        """Hidden states (B, width, D) from the last token of `before` (B, T) on, of rows (B, T')
        that begin with it, without the padding between.
        """
        at = (before != problems.pad).sum(1, keepdim=True) - 1 + torch.arange(
            width, device=row.device)
        row = left_justify(row, problems.pad)
        return columns(self._context(net, problems, row, samples, row.shape[1]), at)

    def _from_end(self, net: Backbone, problems: Problems, thought: Tensor, answer: Tensor,
                  samples: int, ragged: bool) -> Tensor:
        """`answer_logits` where positions count from the end of thoughts (B, T)."""
        first = self._first(problems) + self.rules.tokens + 1 - thought.shape[1]
        row = torch.cat([right_justify(thought, problems.pad) if ragged else thought, answer], 1)
        mask, width = (row != problems.pad) if ragged else None, problems.answer.shape[1]
        if self.rules.sees_question:
            hidden = net.after(problems, row, samples, width, mask=mask, position=first)
        else:
            hidden = net.read(row, mask, keep=False, last=width, position=first)[0]
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))

    def _asked(self, net: Backbone, problems: Problems, thought: Tensor, samples: int,
               ragged: bool) -> Tensor:
        """`answer_logits` of M questions about each thought (B, T), which is read once, unless
        different thoughts would put what is asked at different positions.
        """
        rules, position, mask = self.rules, None, None
        if ragged and not rules.from_end:
            return self._asked_apart(net, problems, thought, samples)
        if ragged:
            thought = right_justify(thought, problems.pad)
            mask = thought != problems.pad
        segments = self._question_read(net, problems)
        if rules.from_end:
            position = self._first(problems) + rules.tokens + 1 - thought.shape[1]
        segments.append(net.read(thought, mask, segments, last=1, position=position)[1])
        position = None if position is None else position + thought.shape[1]
        return self._after_asked(net, problems, samples, segments, position)

    def _asked_apart(self, net: Backbone, problems: Problems, thought: Tensor,
                     samples: int) -> Tensor:
        """The same, with a row for each question."""
        asked, answers = problems.asked, problems.asked_answer
        assert asked is not None and answers is not None
        count, width = asked.shape[1], answers.shape[2]
        asked, answers = (part.repeat_interleave(samples, 0).flatten(0, 1)
                          for part in (asked, answers))
        before = torch.cat([thought.repeat_interleave(count, 0), asked], 1)
        row = torch.cat([before, answers[:, :-1]], 1)
        hidden = self._left_justified(net, problems, before, row, samples * count, width)
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))

    def _after_asked(self, net: Backbone, problems: Problems, samples: int,
                     segments: list[Segment], position: int | None) -> Tensor:
        """(P * samples * M, A, ordinary vocabulary): logits of the answers to what is asked after
        P * samples rows of segments.
        """
        asked, answers = problems.asked, problems.asked_answer
        assert asked is not None and answers is not None
        tail = torch.cat([asked, answers[:, :, :-1]], 2).repeat_interleave(samples, 0)
        hidden = net.read(tail.flatten(0, 1), (tail != problems.pad).flatten(0, 1), segments, False,
                          answers.shape[2], position)[0]
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))

    def _question_read(self, net: Backbone, problems: Problems) -> list[Segment]:
        """The questions (P, Q), where the answerer sees them."""
        if not self.rules.sees_question:
            return []
        return [net.read(problems.question, problems.mask, last=1)[1]]

    def _first(self, problems: Problems) -> int:
        """The position of the first column after the question."""
        return problems.question.shape[1] if self.rules.sees_question else 0

    def _context(self, net: Backbone, problems: Problems, row: Tensor, samples: int,
                 last: int) -> Tensor:
        """Last hidden states (B, last, D) of rows (B, T), after the question if it may be seen."""
        if not self.rules.sees_question:
            return net.read(row, last=last, keep=False)[0]
        return net.after(problems, row, samples, last)

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(log p(answer | context) (B,) in nats, whether the greedy answer is right (B,)); where M
        questions are asked, their mean log p and the share of right answers.
        """
        logits = self.answer_logits(problems, thought, samples, net, ragged)
        gold, asked = _gold(problems, samples)
        right = ((logits.argmax(-1) == gold) | (gold == problems.pad)).all(1)
        logprob = _likelihood(logits, gold, problems.pad)
        if asked == 1:
            return logprob, right
        return logprob.view(-1, asked).mean(1), right.view(-1, asked).float().mean(1)

    def answers_after(self, problems: Problems, begun: Tensor, steps: Tensor) -> Tensor:
        """(P, N): log p(answer) in nats, by the judge, after thoughts that begin with begun (P, L)
        and end with one of N steps (N, k); the mean where several questions are asked. What they
        have in common is read once.
        """
        net, rules, count = self.judge, self.rules, len(steps)
        segments, position = self._question_read(net, problems), None
        if rules.from_end:
            position = self._first(problems) + rules.tokens - begun.shape[1] - steps.shape[1]
        if begun.shape[1]:
            segments.append(net.read(begun, None, segments, last=1, position=position)[1])
            position = None if position is None else position + begun.shape[1]
        gold, asked = _gold(problems, count)
        if problems.asked is not None:
            logits = self._asked_after_each(net, problems, steps, segments, position)
            return _likelihood(logits, gold, problems.pad).view(-1, count, asked).mean(2)
        ended = F.pad(steps, (0, 1), value=self.vocabulary.end).repeat(len(begun), 1)
        row = torch.cat([ended, gold[:, :-1]], 1)
        hidden = net.read(row, None, segments, False, gold.shape[1], position)[0]
        logits = at_least_float32(net.logits(hidden, self.vocabulary.predicted))
        return _likelihood(logits, gold, problems.pad).view(-1, count)

    def _asked_after_each(self, net: Backbone, problems: Problems, steps: Tensor,
                          segments: list[Segment], position: int | None) -> Tensor:
        """(P * N * M, A, ordinary vocabulary): logits of the answers to M questions about the
        thoughts that each of N steps (N, k) ends, all of a problem in one row.
        """
        asked, answers = problems.asked, problems.asked_answer
        assert asked is not None and answers is not None
        tail = torch.cat([asked, answers[:, :, :-1]], 2)
        count, each, width = len(steps), tail.shape[1], tail.shape[2]
        ended = F.pad(steps, (0, 1), value=self.vocabulary.end).expand(len(tail), -1, -1)
        row = torch.cat([ended.flatten(1), tail[:, None].expand(-1, count, -1, -1).flatten(1)], 1)
        visible = tree_of(count, ended.shape[2], each, width, row.device)
        hidden = net.read_tree(row, segments, visible, count * each * width, position)
        hidden = hidden.unflatten(1, (count, each, width))[..., -answers.shape[2]:, :]
        return at_least_float32(net.logits(hidden.flatten(0, 2), self.vocabulary.predicted))

    def reply(self, problems: Problems, thought: Tensor) -> Tensor:
        """Greedy answers (P, A) to P questions with one thought each."""
        answer = problems.answer.clone()
        filled = replace(problems, answer=answer, asked_answer=answer[:, None])
        for column in range(problems.answer.shape[1]):
            logits = self.answer_logits(filled, thought, 1)
            filled.answer[:, column] = logits[:, column].argmax(-1)
        return filled.answer


class FillerPolicy(QuestionPolicy):
    """Every thought is the same token over and over, which the thinker does not choose and never
    learns (Pfau et al. 2024, "Let's Think Dot by Dot"). What a network computes at these places is
    learnt from the answer.
    """

    @property
    def allowed(self) -> slice:
        first = super().allowed.start
        return slice(first, first + 1)

    def think(self, rollouts: Rollouts, sampling: Sampling, net: Backbone | None = None,
              ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The only thought there is has log-probability and entropy 0."""
        nothing = torch.zeros_like(rollouts.logprobs)
        return nothing, nothing, None


def tree_of(stems: int, length: int, leaves: int, width: int, device: torch.device) -> Tensor:
    """(T, T): which columns see which, of `stems` stems of `length` tokens, one behind the other,
    and then the `leaves` leaves of `width` tokens of each stem.
    """
    stem = torch.arange(stems * length, device=device) // length
    leaf = torch.arange(stems * leaves * width, device=device) // width
    sees = torch.block_diag(*[torch.ones(length, length, device=device).tril()] * stems,
                            *[torch.ones(width, width, device=device).tril()] * stems * leaves) > 0
    sees[len(stem):, :len(stem)] = (leaf // leaves)[:, None] == stem
    return sees


def _gold(problems: Problems, samples: int) -> tuple[Tensor, int]:
    """(the right answers (P * samples * M, A), M): M questions are asked about each thought."""
    if problems.asked_answer is None or problems.asked is None:
        return problems.answer.repeat_interleave(samples, 0), 1
    answers = problems.asked_answer
    return answers.repeat_interleave(samples, 0).flatten(0, 1), answers.shape[1]


def _likelihood(logits: Tensor, gold: Tensor, pad: int) -> Tensor:
    """(B,): log p of answers (B, A), padded, of logits (B, A, V) of their tokens, in nats."""
    logprobs = logits.log_softmax(-1).gather(-1, gold[..., None])[..., 0]
    return (logprobs * (gold != pad)).sum(1)


class DifferentiablePolicy(QuestionPolicy):
    r"""Gradients flow from the answer, through the thought, to the question.

    The state h_k before decision k is turned into a message (`say`), which becomes the thinker's
    next input embedding, and part of what the answerer reads (`hear`).

    .. math:: h_{k+1} = f(\mathrm{question}, x_1, \ldots, x_k), \quad
       x_k = \mathrm{hear}(\mathrm{say}(h_k))

    Thoughts always have as many tokens as `rules` allows: a length has no gradient, and Coconut's
    thoughts were as good at a constant length as with a learnt end. Rollouts hold a token where one
    is given, padding where the thinker makes its own, then end-of-thought. Given tokens are read in
    place of the thinker's, and scored as in any thought: a curriculum begins with gold tokens and
    takes them away one by one, from the front.
    """

    draws_vectors = True

    @property
    def noise_width(self) -> int:
        """How many uniform numbers decide what is said at a place; 0: nothing is drawn."""
        return 0

    def say(self, state: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
        """What a state (B, D) says: (B, W)."""
        raise NotImplementedError

    def hear(self, net: Backbone, said: Tensor) -> Tensor:
        """Input embeddings (..., D) of a network for what was said (..., W)."""
        raise NotImplementedError

    def words(self, said: Tensor) -> Tensor:
        """What was said (..., W) as tokens (...); padding where it is none."""
        raise NotImplementedError

    def unroll(self, rollouts: Rollouts, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """(states (B, K, D) before each decision, what each says (B, K, W)).

        The question is computed once for its samples, and no column twice.
        """
        net, problems, samples = self.thinker, rollouts.problems, rollouts.samples
        noise = rollouts.noise
        assert noise is not None
        state, past = net.read(problems.question, problems.mask, last=1)
        state, past = state.repeat_interleave(samples, 0), past.repeat(samples)
        states, said = [], []
        for place in range(self.rules.tokens):
            if place:
                heard = self._heard(net, said[-1], rollouts.thought[:, place - 1])
                state, more = net.read(heard[:, None], prefix=[past])
                past = past.longer(more)
            states.append(state[:, 0])
            said.append(self.say(state[:, 0], noise[:, place], sampling))
        return torch.stack(states, 1), torch.stack(said, 1)

    def _heard(self, net: Backbone, said: Tensor, given: Tensor) -> Tensor:
        """Input embeddings (..., D) of given tokens (...), and of what was said where none is."""
        there = given != self.vocabulary.pad
        tokens = given.where(there, self.vocabulary.end)  # padding may have no embedding
        return torch.where(there[..., None], net.embed(tokens), self.hear(net, said))

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """Log-probabilities are those of tokens, given or said; the answer's has the gradient."""
        assert answer_thought is None, "the configuration check lets no such run begin"
        states, said = self.unroll(rollouts, sampling)
        given = rollouts.thought[:, :-1]
        token = given.where(given != self.vocabulary.pad, self.words(said))
        written = replace(rollouts, thought=torch.cat([token, rollouts.thought[:, -1:]], 1))
        logits = self.thinker.logits(states, self.allowed)
        heard = self._heard(self.answerer, said, given)
        answer, _ = self.answer(rollouts.problems, heard, rollouts.samples)
        return Scores(*self._as_written(written, replace(sampling, temperature=1.0), logits),
                      answer)

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int,
                      net: Backbone | None = None, ragged: bool | None = None) -> Tensor:
        """The same; thoughts may also be the answerer's input embeddings (B, K, D), to which
        end-of-thought is added.
        """
        if not thought.is_floating_point():
            return super().answer_logits(problems, thought, samples, net, ragged)
        net = net or self.answerer
        answer = problems.answer[:, :-1].repeat_interleave(samples, 0)
        end = answer.new_full((len(thought), 1), self.vocabulary.end)
        row = torch.cat([thought, net.embed(torch.cat([end, answer], 1))], 1)
        hidden = self._context(net, problems, row, samples, problems.answer.shape[1])
        return at_least_float32(net.logits(hidden, self.vocabulary.predicted))


class ContinuousPolicy(DifferentiablePolicy):
    """The last hidden state is itself the thought, and the next input (Hao et al. 2024, "Training
    Large Language Models to Reason in a Continuous Latent Space": Coconut).

    Left out: several continuous thoughts in place of one gold token, a new optimizer at every
    stage.
    """

    thinks_in_vectors = True

    def say(self, state: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
        return state

    def hear(self, net: Backbone, said: Tensor) -> Tensor:
        return said

    def words(self, said: Tensor) -> Tensor:
        return said.new_full(said.shape[:-1], self.vocabulary.pad, dtype=torch.long)


class GumbelPolicy(DifferentiablePolicy):
    """Tokens drawn by Gumbel-softmax with straight-through gradients (Jang et al. 2017, Maddison et
    al. 2017). The temperature is that of the gradient alone: tokens are drawn at 1.
    """

    @property
    def noise_width(self) -> int:
        """V: each draw takes a number for every token."""
        return self.allowed.stop - self.allowed.start

    def say(self, state: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
        """Weights (B, V) of the tokens a thinker may choose from: 1 for one of them."""
        logits = at_least_float32(self.thinker.logits(state, self.allowed))
        logprobs = distribution(logits, replace(sampling, temperature=1.0))
        return straight_through(logprobs, noise, sampling.temperature)

    def hear(self, net: Backbone, said: Tensor) -> Tensor:
        return said @ net.embeddings[self.allowed]

    def words(self, said: Tensor) -> Tensor:
        return said.argmax(-1) + self.allowed.start


THOUGHTS = {"tokens": QuestionPolicy, "filler": FillerPolicy, "continuous": ContinuousPolicy,
            "gumbel": GumbelPolicy}  # by what a thought is made of
