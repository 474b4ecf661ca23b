r"""Any strategy beside demonstrations: given thoughts are learnt by likelihood, others as it says.

.. math:: L = L_\mathrm{inner}, \quad A_{i,t} = 1 \text{ for the tokens of a given thought } i

A given token has no probability of having been chosen, so its ratio is 1 and is never clipped
(`Rollouts.old_logprobs`): with an advantage of 1 the gradient of every policy gradient is that of
log p(token).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ponder.core.lazy_imports import Tensor
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy
from ponder.strategies.star import keep_all

GIVEN = "given"  # the group of a round's problems whose thoughts are given


class Demonstrated(Strategy):
    """The credit of `inner` for sampled thoughts, computed without the given ones beside them.

    Chosen by `rollout.gold_share`, not by name. A value head learns nothing from given thoughts:
    their return is what it says.
    """

    inner: Strategy

    def __post_init__(self) -> None:
        self.rows_alone = self.inner.rows_alone

    @property
    def needs_correctness(self) -> bool:
        return self.inner.needs_correctness

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    def needs_reward(self, samples: int) -> bool:
        return self.inner.needs_reward(samples)

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        given = rollouts.problems.groups.get(GIVEN)
        if given is None or not given.any():
            return self.inner.credit(rollouts, step)
        shown = keep_all(rollouts[given.nonzero()[:, 0]])
        shown = replace(shown, returns=shown.value)
        if given.all():
            return shown
        sampled = self.inner.credit(rollouts[(~given).nonzero()[:, 0]], step)
        return sampled.concatenate(shown)

    def count(self, rollouts: Rollouts) -> Tensor:
        return self.inner.count(rollouts)

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        return self.inner.loss(scores, rollouts, denominator, step)

    def enough(self, losses: Losses) -> bool:
        return self.inner.enough(losses)

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def load(self, state: dict[str, Any]) -> None:
        self.inner.load(state)
