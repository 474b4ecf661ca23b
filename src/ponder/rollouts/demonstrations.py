"""Gold thoughts for a share of the questions, beside thoughts of another source for the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ponder.core.lazy_imports import Tensor, torch
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.rollouts import Source
from ponder.rollouts.sampler import Gold
from ponder.strategies.demonstrated import GIVEN
from ponder.tasks.base import hashed_share

if TYPE_CHECKING:
    from ponder.models.policies.base import Policy


class Demonstrations(Source):
    """Gold thoughts for a share of the questions in the first `steps` (None: in all), and thoughts
    of `inner` for all others.

    A hash of question and seed decides, so it is always the same questions whose thoughts are
    known. In the theory of outcome rewards after demonstrations (Tsilivis et al. 2025, "How
    Reinforcement Learning After Next-Token Prediction Facilitates Learning", arXiv 2510.11495) a
    model first learns texts of which a share p contains the long thought, and then from rewards
    alone: above p = 1/3 greedy answers use the thought after the first phase already, below it
    rewards still spread it to all questions. `share` is that p, and `steps` is the length of the
    first phase.

    Other than there, questions without a known thought are not answered at once in the first
    phase, but thought about and rewarded from the start. So one rule serves rewards after
    demonstrations (`steps`), rewards with demonstrations beside them (None), and a warm-up (a share
    of 1). A question with a known thought weighs as much as another: its group holds `samples`
    equal rows.
    """

    def __init__(self, inner: Source, samples: int, share: float, steps: int | None,
                 seed: int) -> None:
        self.inner, self.samples = inner, samples
        self.share, self.steps, self.seed = share, steps, seed

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        if self.steps is not None and step >= self.steps:
            return self.inner.collect(policy, problems, step, generator)
        known = self.known(problems)
        problems = replace(problems, groups={**problems.groups, GIVEN: known})
        others = problems[(~known).nonzero()[:, 0]]
        gold = Gold().collect(policy, problems[known.nonzero()[:, 0]], step)
        rows = torch.arange(len(gold), device=known.device).repeat_interleave(self.samples)
        gold = gold.select_rows(rows, self.samples)
        if len(others) == 0:
            return gold
        return self.inner.collect(policy, others, step, generator).concatenate(gold)

    def known(self, problems: Problems) -> Tensor:
        """(P,): whether the gold thought of a question is given."""
        words = [" ".join(str(token) for token in row if token != problems.pad)
                 for row in problems.question.tolist()]
        return torch.tensor([hashed_share(f"{self.seed}/known/{text}") < self.share
                             for text in words], device=problems.question.device)

    def withdraw(self) -> None:
        self.inner.withdraw()

    def observe(self, policy: Policy, rollouts: Rollouts, scores: Scores) -> None:
        self.inner.observe(policy, rollouts, scores)

    def sampling(self, step: int) -> Sampling:
        return self.inner.sampling(step)

    def settled(self) -> bool:
        return self.inner.settled()

    def metrics(self) -> dict[str, float]:
        return self.inner.metrics()

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def load(self, state: dict[str, Any]) -> None:
        self.inner.load(state)
