"""Rewards of answers: each a function of judged rollouts that returns one number a row.

A new reward is one function here or in a plugin, decorated with `@reward`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ponder.config.registry import REWARDS, reward
from ponder.core.distributed import is_distributed, local_range, merge_parts
from ponder.core.lazy_imports import F, Tensor, torch
from ponder.core.types import Rollouts

if TYPE_CHECKING:
    from ponder.models.policies.base import Policy

ANSWERS, QUESTIONS = {"answers"}, {"questions", "answers"}
ROWS_AT_ONCE = 16_384  # answers to parts of thoughts that are judged in one go


@dataclass
class Judged:
    """Rollouts and what the answerer says of them, computed when a reward first asks.

    Rows are B = P * G, groups side by side. reference is a policy that answers without thoughts;
    task has the keys of the task, for rewards of written texts.
    """

    policy: Policy
    rollouts: Rollouts
    reference: Policy | None = None
    task: Any = None

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor]:
        r = self.rollouts
        if r.answered is not None:
            return r.answered[:, 0], r.answered[:, 1] >= 1
        if not is_distributed():
            return self.policy.answer(r.problems, r.thought, r.samples, self.policy.judge)
        return self._shared()

    def _shared(self) -> tuple[Tensor, Tensor]:
        """The same; each process computes its share of the problems."""
        r, part = self.rollouts, local_range(len(self.rollouts.problems))
        found = torch.zeros(len(r), 2, dtype=torch.float64, device=r.thought.device)
        rows = slice(part.start * r.samples, part.stop * r.samples)
        if part:
            logprob, right = self.policy.answer(r.problems[slice(part.start, part.stop)],
                                                r.thought[rows], r.samples, self.policy.judge)
            found[rows] = torch.stack([logprob.double(), right.double()], 1)
        found = merge_parts(found)
        return found[:, 0].to(r.logprobs.dtype), found[:, 1] > 0

    @property
    def logprob(self) -> Tensor:
        """(B,): log p(answer | thought), in nats."""
        return self._own[0]

    @property
    def right(self) -> Tensor:
        """(B,): whether the greedy answer is right."""
        return self._own[1]

    @cached_property
    def score(self) -> Tensor:
        """(B,): how right the answer is, from 0 to 1: 1 where it is right, and between where the
        task's verifier says so of an answer that was written.
        """
        r = self.rollouts
        if r.answered is None and self.policy.answers_in_text:
            return self.policy.judge_thoughts(r.problems, r.thought, r.samples)[:, 1]
        return self.right.float() if r.answered is None else r.answered[:, 1]

    @property
    def grouped(self) -> Tensor:
        """(P, G): the log-probabilities by group."""
        return self.logprob.view(-1, self.rollouts.group_size)

    @property
    def gold(self) -> Tensor:
        """(B, K + 1): the gold thought of each row, padded to the width of the thoughts."""
        problems, width = self.rollouts.problems, self.rollouts.thought.shape[1]
        assert problems.thought is not None, "the configuration check lets no such run begin"
        gold = problems.thought[:, :width]
        gold = F.pad(gold, (0, width - gold.shape[1]), value=problems.pad)
        return gold.repeat_interleave(self.rollouts.samples, 0)


@reward(requires=ANSWERS)
def log_likelihood(judged: Judged) -> Tensor:
    """log p(answer | thought), in nats."""
    return judged.logprob


@reward(requires=ANSWERS)
def probability(judged: Judged) -> Tensor:
    """p(answer | thought)."""
    return judged.logprob.exp()


@reward(requires=ANSWERS)
def exact_match(judged: Judged) -> Tensor:
    """1 where the greedy answer is right."""
    return judged.right.float()


@reward(requires=ANSWERS)
def score(judged: Judged) -> Tensor:
    """How right the answer is by the task's verifier, from 0 to 1."""
    return judged.score


@reward(requires={"gold_thoughts"})
def gold_thought(judged: Judged) -> Tensor:
    """1 where the whole thought is the gold one."""
    return (judged.rollouts.thought == judged.gold).all(1).float()


@reward(requires={"gold_thoughts"})
def gold_tokens(judged: Judged) -> Tensor:
    """Share of the thought's tokens that equal the gold token at the same position."""
    own, gold = judged.rollouts.thought[:, :-1], judged.gold[:, :-1]
    real = own != judged.rollouts.problems.pad
    return ((own == gold) & real).sum(1) / real.sum(1).clamp_min(1)


@reward(requires=ANSWERS)
def softmax(judged: Judged) -> Tensor:
    """Softmax over the group of log p(answer | thought): what a right thought among wrong earns.

    Needs an answerer that knows the language; then it is close to `gold_thought`.
    """
    return judged.grouped.softmax(1).flatten()


@reward(requires=ANSWERS)
def gain(judged: Judged) -> Tensor:
    """log p(answer | thought) - log p(answer | no thought): easy answers do not pay."""
    return judged.logprob - judged.policy.unthinking(judged.rollouts)


@reward(requires=ANSWERS, needs=["model.ref_name"])
def reference(judged: Judged) -> Tensor:
    """log p(answer | thought) - log p_ref(answer | question): easy answers do not pay."""
    assert judged.reference is not None, "the configuration check lets no such run begin"
    return judged.logprob - judged.reference.unthinking(judged.rollouts)


@reward(requires=ANSWERS)
def variance(judged: Judged) -> Tensor:
    """(p_i - mean_group p)^2, p the probability of the answer: rewards thoughts that matter."""
    p = judged.grouped.exp()
    return (p - p.mean(1, keepdim=True)).square().flatten()


@reward(weight=-0.1)
def repetition(judged: Judged) -> Tensor:
    """Share of a thought's tokens that repeat the one before."""
    return judged.rollouts.repeats.sum(1) / judged.rollouts.lengths.clamp_min(1)


@reward(weight=-0.1)
def length(judged: Judged) -> Tensor:
    """Thought length as a share of the longest allowed."""
    return judged.rollouts.lengths / max(judged.rollouts.thought.shape[1] - 1, 1)


@reward(requires=QUESTIONS)
def interim(judged: Judged) -> Tensor:
    """(B, K): what each token adds to log p(answer), if the thought ended after it."""
    width = judged.rollouts.thought.shape[1]
    at_once = max(1, ROWS_AT_ONCE // (judged.rollouts.samples * width))
    column = torch.arange(width, device=judged.rollouts.thought.device)
    worth = []
    every = torch.arange(len(judged.rollouts.problems), device=column.device)
    for problems in every.split(at_once):
        r = judged.rollouts[problems]
        cut = torch.minimum(column, r.lengths[:, None])[..., None]  # (b, K + 1, 1): where it ends
        ended = r.thought[:, None].expand(-1, width, -1)
        ended = ended.where(column < cut, judged.policy.vocabulary.end)
        ended = ended.where(column <= cut, r.problems.pad).flatten(0, 1)
        worth.append(judged.policy.answer(r.problems, ended, r.samples * width,
                                          judged.policy.judge, ragged=True)[0])
    return torch.cat(worth).view(-1, width).diff(dim=1)


class Reward:
    """The weighted sum of some rewards, of rows and of tokens. `rollouts.parts` keeps each."""

    def __init__(self, weights: dict[str, float], reference: Policy | None = None,
                 task: Any = None) -> None:
        self.weights = weights
        self.reference = reference
        self.task = task

    def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
        """New rollouts with `parts`, `reward` (B,) and, where there is one, `token_reward` (B, K).
        """
        with torch.no_grad():
            judged = Judged(policy, rollouts, self.reference, self.task)
            parts = {name: REWARDS[name].target(judged) for name in self.weights}
            reward = torch.zeros(len(rollouts), device=rollouts.thought.device)
            token_reward = rollouts.token_reward
            for name, weight in self.weights.items():
                earned = weight * parts[name]
                if earned.dim() == 1:
                    reward = reward + earned
                else:
                    token_reward = earned if token_reward is None else token_reward + earned
        return replace(rollouts, parts=parts, reward=reward, token_reward=token_reward)
