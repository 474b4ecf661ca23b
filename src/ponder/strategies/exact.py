r"""The exact policy gradient: every thought there is, weighted by its probability.

.. math:: L = -\frac{1}{P} \sum_{questions} \sum_z p(z)\, r(z)

The upper bound of all estimators, where thoughts are few enough to enumerate.
"""

from __future__ import annotations

from torch import Tensor

from ponder.config.strategies import Exact as ExactConfig
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy


class Exact(Strategy):
    """Groups must hold every thought once, with its log-probability."""

    def __init__(self, config: ExactConfig) -> None:
        del config

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """The answerer learns from each thought as often as it would be sampled."""
        rollouts.credit = rollouts.total_reward[:, None] * rollouts.learn
        rollouts.weight = rollouts.logprobs.sum(1).exp()
        return rollouts

    def count(self, rollouts: Rollouts) -> Tensor:
        return rollouts.weight.new_tensor(len(rollouts.problems))  # type: ignore[union-attr]

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        probability = (scores.logprobs * rollouts.learn).sum(1).exp()
        return {"thinker_loss": -(probability * rollouts.total_reward).sum() / denominator}
