"""Is it the token that carries the state? A causal test, by swaps of tokens between thoughts.

One token of a thought is replaced by the one that another thought has at the same step (an
interchange intervention: Geiger et al. 2021, "Causal Abstractions of Neural Networks"). Where the
true states after that step are the same, no answer may change; where they differ, the answers must
be those of the other state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ponder.core.math import row_codes
from ponder.core.types import Problems
from ponder.models.policies.question import QuestionPolicy

ROWS = 256  # thoughts that are tried, which also give the tokens
OFTEN = 2  # how many answers a state and a question need on average to show that they decide it


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
    thoughts (P, K + 1) of the longest problems.

    - swap/same_state: as before the swap, of a token at a random step, with the same state there.
    - swap/other_state: those of the other state, the last token being one of another state.
      swap/before: the same answers before that swap. Left out where the last state does not decide
      what is answered (a sum has more digits than one).

    Empty without states, or where token k is not about step k: where thoughts have another number
    of tokens than their problems have states.
    """
    rows = _comparable(policy, problems, thought)
    if len(rows) < 2:
        return {}
    generator = torch.Generator().manual_seed(seed)
    asked, own = problems[rows], thought[rows]
    assert asked.states is not None
    states = asked.states[:, :int((asked.states[0] >= 0).sum())]
    step = torch.randint(states.shape[1], (len(rows),), generator=generator).to(rows.device)
    there = states.T[step]  # (N, N): the states of all rows at the step of each
    donor, found = _donors(there == there.diagonal()[:, None], generator)
    if not found.any():
        return {}
    before = _replies(policy, asked, own)
    after = _replies(policy, asked, _swapped(own, step, donor))
    last = states[:, -1]
    metrics = {"swap/same_state": _share((before == after).all(-1), found)}
    donor, found = _donors(last[:, None] != last, generator)
    if found.any() and _decides(asked, last):
        step = torch.full_like(step, states.shape[1] - 1)
        other = _with_questions_of(asked, donor)
        metrics |= {name: _share((_replies(policy, other, used) == _gold(other)).all(-1), found)
                    for name, used in (("swap/other_state", _swapped(own, step, donor)),
                                       ("swap/before", own))}
    return metrics


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


def _donors(legal: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(a random other row for each (N,), whether there is one (N,)); legal (N, N): which may be."""
    legal = legal & ~torch.eye(len(legal), dtype=torch.bool, device=legal.device)
    lottery = torch.rand(legal.shape, generator=generator).to(legal.device)
    best, donor = lottery.masked_fill(~legal, -1.0).max(1)
    return donor, best >= 0


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


def _decides(problems: Problems, state: Tensor) -> bool:
    """Whether the same state (N,) and the same question always have the same answer, in problems
    that show it.
    """
    answers, asked = _gold(problems), problems.asked
    context = state[:, None, None].expand(-1, answers.shape[1], 1)
    context = context if asked is None else torch.cat([context, asked], 2)
    contexts = int(row_codes(context.flatten(0, 1)).max()) + 1
    together = int(row_codes(torch.cat([context, answers], 2).flatten(0, 1)).max()) + 1
    return contexts == together and contexts * OFTEN <= answers.shape[0] * answers.shape[1]


def _share(right: Tensor, rows: Tensor) -> float:
    """The share of answers (N, M) that are as they should be, of some rows (N,)."""
    return float(right[rows].float().mean())
