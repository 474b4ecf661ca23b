r"""PPO (Schulman et al. 2017): clipped ratios, advantages from a value head (GAE), clipped values.

.. math:: L = -\frac{1}{N}\sum_{i,t} \min(\rho A, \mathrm{clip}(\rho) A)
   + \frac{c}{2N}\sum_{i,t} \max\big((V - R)^2, (\mathrm{clip}(V, V_\mathrm{old}) - R)^2\big)

Rewards may come token by token (`reward=interim`) or at the end. Without a value head V = 0.
"""

from __future__ import annotations

from dataclasses import replace

from ponder.config.option import option
from ponder.config.registry import strategy
from ponder.core.credit import gae, sequence_reward, shares, whiten
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, RatioStrategy


@strategy("ppo")
class PPO(RatioStrategy):
    """Clipped ratios, several passes over a round, advantages from a value head (Schulman 2017)."""

    kl_place: str = option("reward", "where the KL is subtracted", legal=("loss", "reward"))
    value: str = option("separate", "value head: none, on the thinker's trunk, or a network of its "
                        "own", legal=("none", "shared", "separate"))
    value_reads: str = option("token", "one value for every token; or one a question, read at its "
                              "last token or averaged over its tokens",
                              legal=("token", "last", "mean"))
    value_weight: float = option(0.5, "weight of the value loss", low=0)
    value_clip: float | None = option(0.2, "values move at most so far from those of the round; "
                                      "null: no clipping", low=0)
    discount: float = option(1.0, "gamma of the returns", low=0, high=1)
    trace: float = option(0.95, "lambda of generalised advantage estimation", low=0, high=1)
    whiten: str = option("batch", "advantages get mean 0 and deviation 1 over this",
                         legal=("none", "sequence", "group", "batch"))

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit by GAE, whitened as `whiten` says; the answerer learns from every row alike."""
        mask = rollouts.learn
        assert rollouts.reward is not None
        given = 0.0 if rollouts.token_reward is None else rollouts.token_reward
        rewards = sequence_reward(rollouts.reward, given - self.penalty(rollouts, step), mask)
        value = torch.zeros_like(rewards) if rollouts.value is None else rollouts.value
        advantage, returns = gae(rewards, value, mask, self.discount, self.trace)
        credit = whiten(advantage, mask, rollouts.group_size, self.whiten, returns.abs().amax())
        return replace(rollouts, returns=returns, credit=credit,
                       weight=torch.ones_like(rollouts.reward))

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        weight = shares(rollouts.learn, self.normalise)[0]
        losses = self.surrogate(rollouts.log_ratio(scores), scores, rollouts, weight, denominator,
                                step)
        if scores.value is not None:
            error = (weight * self._value_error(scores.value, rollouts)).sum() / denominator
            losses["thinker_loss"] = losses["thinker_loss"] + self.value_weight * error
            losses["value_loss"] = error
        return losses

    def _value_error(self, value: Tensor, rollouts: Rollouts) -> Tensor:
        """Half the squared error (B, K): the larger one of the value and the clipped value."""
        assert rollouts.value is not None and rollouts.returns is not None
        error = (value - rollouts.returns).square()
        if (limit := self.value_clip) is not None:
            near = rollouts.value + (value - rollouts.value).clamp(-limit, limit)
            error = torch.maximum(error, (near - rollouts.returns).square())
        return error / 2
