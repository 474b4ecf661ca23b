"""Is it the token that carries the state? A causal test, by swaps of tokens between thoughts.

One token of a thought is replaced by the one that another thought has at the same step (an
interchange intervention: Geiger et al. 2021, "Causal Abstractions of Neural Networks"). Where the
true states after that step are the same, no answer may change; where they differ, the answers must
be those of the other state, or of the state that follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ponder.core.math import GREEDY, columns, left_justify, row_codes
from ponder.core.types import Problems
from ponder.models.policies.question import QuestionPolicy
from ponder.rollouts.sampler import choose

ROWS = 128  # thoughts that are tried, which also give the tokens
OFTEN = 2  # how often, on average, a state needs each question or move to show what it decides


def asked_together(problems: Problems, probes: Mapping[str, Problems]) -> Problems:
    """The problems with the questions of all probes about each thought; as they are without any."""
    asked = [one.asked for one in probes.values() if one.asked is not None]
    answers = [one.asked_answer for one in probes.values() if one.asked_answer is not None]
    if not asked:
        return problems
    return replace(problems, asked=torch.cat(asked, 1), asked_answer=torch.cat(answers, 1))


def swap_test(policy: QuestionPolicy, problems: Problems, thought: Tensor, seed: int = 0,
              ) -> dict[str, float]:
    """Shares of answers that are as they should be after a swap, of all questions asked about the
    thoughts (P, K + 1) of the longest problems, as `Swaps` has them.

    Empty without states, or where token k is not about step k: where thoughts have another number
    of tokens than their problems have states.
    """
    rows = _comparable(policy, problems, thought)
    if len(rows) < 2:
        return {}
    asked = problems[rows]
    assert problems.states is not None and asked.states is not None
    states = asked.states[:, :int((asked.states[0] >= 0).sum())]
    swaps = Swaps(policy, asked, thought[rows], states, _decided(asked, states[:, -1]),
                  torch.Generator().manual_seed(seed))
    return {**swaps.same_state(), **swaps.other_state(), **swaps.earlier_state(problems)}


@dataclass(frozen=True)
class Swaps:
    """N problems of S steps with their thoughts own (N, K + 1), the true states (N, S) after each
    step, and which of the M questions asked about each are decided (N, M) by its last state.
    """

    policy: QuestionPolicy
    problems: Problems
    own: Tensor
    states: Tensor
    decided: Tensor
    generator: torch.Generator

    def same_state(self) -> dict[str, float]:
        """swap/same_state: answers as before the swap, of a token at a random step, with the same
        state there.
        """
        step = self._steps(self.states.shape[1])
        there = self.states.T[step]  # (N, N): the states of all rows at the step of each
        donor, found = self._donors(there == there.diagonal()[:, None])
        if not found.any():
            return {}
        before = _replies(self.policy, self.problems, self.own)
        after = _replies(self.policy, self.problems, _swapped(self.own, step, donor))
        return {"swap/same_state": float((before == after).all(-1)[found].float().mean())}

    def other_state(self) -> dict[str, float]:
        """swap/other_state: answers that are those of the other state, the last token being one of
        another state; swap/before: the same answers before that swap.
        """
        last = self.states[:, -1]
        donor, found = self._donors(last[:, None] != last)
        step = torch.full_like(donor, self.states.shape[1] - 1)
        return {**self._followed("swap/other_state", _swapped(self.own, step, donor), donor, found),
                **self._followed("swap/before", self.own, donor, found)}

    def earlier_state(self, problems: Problems) -> dict[str, float]:
        """swap/earlier_state: answers that are those of the last state to which the problem's
        further steps lead from another one, where a token before the last is one of that state and
        the thinker goes on from there.

        How steps lead from state to state is read from all problems; empty where that is not clear.
        """
        count = self.states.shape[1]
        moves, table = _moves(self.problems, count), _transitions(problems, count)
        if count < 2 or table is None:
            return {}
        step = self._steps(count - 1)
        there = self.states.T[step]
        donor, found = self._donors(there != there.diagonal()[:, None])
        state = there.gather(1, donor[:, None])[:, 0]
        for k in range(1, count):
            after = table[state, moves[:, k]].where(state >= 0, -1)
            state = after.where(step < k, state)
        last = self.states[:, -1]
        alike, there_is = self._donors(state[:, None] == last)
        thought = _gone_on(self.policy, self.problems, _swapped(self.own, step, donor), step)
        return self._followed("swap/earlier_state", thought, alike,
                              found & there_is & (state != last))

    def _steps(self, count: int) -> Tensor:
        """(N,): a random one of the first steps for each row."""
        step = torch.randint(max(count, 1), (len(self.own),), generator=self.generator)
        return step.to(self.own.device)

    def _donors(self, legal: Tensor) -> tuple[Tensor, Tensor]:
        """(a random other row for each (N,), whether there is one (N,)); legal (N, N): which may
        be.
        """
        legal = legal & ~torch.eye(len(legal), dtype=torch.bool, device=legal.device)
        lottery = torch.rand(legal.shape, generator=self.generator).to(legal.device)
        best, donor = lottery.masked_fill(~legal, -1.0).max(1)
        return donor, best >= 0

    def _followed(self, name: str, thought: Tensor, donor: Tensor, rows: Tensor,
                  ) -> dict[str, float]:
        """The share of right answers to what is asked about the thoughts of donors (N,), with
        thoughts in their place, of some rows (N,); empty where states decide none of them.
        """
        counted = self.decided[donor] & rows[:, None]
        if not counted.any():
            return {}
        other = _with_questions_of(self.problems, donor)
        right = (_replies(self.policy, other, thought) == _gold(other)).all(-1)
        return {name: float(right[counted].float().mean())}


def _comparable(policy: QuestionPolicy, problems: Problems, thought: Tensor) -> Tensor:
    """(N,): the first problems that have the most states, and as many tokens in their thoughts."""
    none = torch.zeros(0, dtype=torch.long, device=thought.device)
    if problems.states is None or not policy.rules.sees_thought or policy.rules.filler:
        return none
    vocabulary: Any = policy.vocabulary
    steps = (problems.states >= 0).sum(1)
    tokens = ((thought != vocabulary.pad) & (thought != vocabulary.end)).sum(1)
    longest = int(steps.max()) if len(steps) else 0
    return ((steps == longest) & (tokens == longest) & (longest > 0)).nonzero()[:ROWS, 0]


def _swapped(own: Tensor, step: Tensor, donor: Tensor) -> Tensor:
    """Thoughts (N, K + 1) with the token at one step (N,) of each from its donor's (N,)."""
    return own.scatter(1, step[:, None], own[donor].gather(1, step[:, None]))


def _with_questions_of(problems: Problems, donor: Tensor) -> Problems:
    """The problems with what is asked about the thoughts of their donors (N,), and the answers."""
    asked, answers = problems.asked, problems.asked_answer
    return replace(problems, answer=problems.answer[donor],
                   asked=None if asked is None else asked[donor],
                   asked_answer=None if answers is None else answers[donor])


def _gold(problems: Problems) -> Tensor:
    """(N, M, A): the right answers to all that is asked."""
    answers = problems.asked_answer
    return problems.answer[:, None] if answers is None else answers


def _replies(policy: QuestionPolicy, problems: Problems, thought: Tensor) -> Tensor:
    """(N, M, A): the likeliest tokens of the answers to all that is asked, each after the right
    ones before it; padding where the right answers have it.
    """
    gold = _gold(problems)
    said = policy.answer_logits(problems, thought, 1).argmax(-1).view_as(gold)
    return said.where(gold != problems.pad, problems.pad)


def _decided(problems: Problems, state: Tensor) -> Tensor:
    """(N, M): whether a question that is asked has the same answer wherever the state (N,) is the
    same: a sum has other digits than its last one. All False where too few show it.
    """
    answers, asked = _gold(problems), problems.asked
    shape = answers.shape[:2]
    context = state[:, None, None].expand(-1, shape[1], 1)
    question = torch.zeros_like(context) if asked is None else asked
    context = torch.cat([context, question], 2)
    number, asks = row_codes(context.flatten(0, 1)), row_codes(question.flatten(0, 1))
    pairs = torch.stack([number, row_codes(answers.flatten(0, 1))], 1).unique(dim=0)
    several = pairs[:, 0].bincount() > 1
    bad = torch.zeros(int(asks.max()) + 1, device=asks.device).index_add(
        0, asks, several[number].float()) > 0
    found = ~bad[asks]
    enough = len(number[found].unique()) * OFTEN <= int(found.sum())
    return (found & enough).view(shape)


def _moves(problems: Problems, count: int) -> Tensor:
    """(P, count): the last symbols of each question, without its padding."""
    question = problems.question
    real = (question != problems.pad).sum(1, keepdim=True)
    at = real - count + torch.arange(count, device=question.device)
    return columns(left_justify(question, problems.pad), at.clamp_min(0))


def _transitions(problems: Problems, count: int) -> Tensor | None:
    """(C, V): the state after each state and move, -1 where the problems of `count` steps never
    have them; None where one state and move lead to several states, or too few problems show it.
    """
    states = problems.states
    assert states is not None
    whole = ((states >= 0).sum(1) == count) & ((problems.question != problems.pad).sum(1) >= count)
    states, moves = states[whole][:, :count], _moves(problems[whole], count)
    known = int(states.max()) + 1 if states.numel() else 0
    before, move, after = (part.flatten() for part in (states[:, :-1], moves[:, 1:], states[:, 1:]))
    table = states.new_full((known, int(problems.question.max()) + 1), -1)
    table[before, move] = after
    cells = int((table >= 0).sum())
    clear = bool((table[before, move] == after).all())
    return table if clear and 0 < cells * OFTEN <= len(after) else None


def _gone_on(policy: QuestionPolicy, problems: Problems, thought: Tensor, step: Tensor) -> Tensor:
    """Thoughts (N, K + 1) with the tokens behind a step (N,) of each replaced by the thinker's own
    greedy ones.
    """
    hidden, segment = policy.thinker.read(problems.question, problems.mask, last=1)
    last, state = policy.rules.tokens - 1, hidden[:, 0]
    decoder = policy.thinker.decoder(segment, 1, last, True)
    found = torch.full_like(thought, problems.pad)
    going, noise = torch.ones_like(step, dtype=torch.bool), torch.zeros(step.shape)
    for k in range(last + 1):
        own, _ = choose(policy, state, GREEDY, noise.to(step.device))
        token = own.where(step < k, thought[:, k])
        found[:, k] = token.where(going, problems.pad)
        going = going & ~policy.is_end(token)
        if k < last and going.any():
            state = decoder.step(token)
    found[:, -1].masked_fill_(going, policy.end)
    return found
