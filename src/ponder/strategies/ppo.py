r"""PPO (Schulman et al. 2017): clipped ratios, advantages from a value head (GAE), clipped values.

.. math:: L = -\frac{1}{N}\sum_{i,t} \min(\rho A, \mathrm{clip}(\rho) A)
   + \frac{c}{2N}\sum_{i,t} \max\big((V - R)^2, (\mathrm{clip}(V, V_\mathrm{old}) - R)^2\big)

Rewards may come token by token (`reward=interim`) or at the end. Without a value head V = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Ppo
from ponder.core.credit import gae, sequence_reward, shares, whiten
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses
from ponder.strategies.ratio import Ratioed


class PPO(Ratioed):
    def __init__(self, config: Ppo) -> None:
        super().__init__(config)
        self.config = config

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit by GAE, whitened as `whiten` says; the answerer learns from every row alike."""
        config, mask = self.config, rollouts.learn
        assert rollouts.reward is not None
        given = 0.0 if rollouts.token_reward is None else rollouts.token_reward
        rewards = sequence_reward(rollouts.reward, given - self.price(rollouts, step), mask)
        value = torch.zeros_like(rewards) if rollouts.value is None else rollouts.value
        advantage, rollouts.returns = gae(rewards, value, mask, config.discount, config.trace)
        rollouts.credit = whiten(advantage, mask, rollouts.group, config.whiten)
        rollouts.weight = torch.ones_like(rollouts.reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        weight = shares(rollouts.learn, self.normalise)[0]
        losses = self.surrogate(rollouts.change(scores), scores, rollouts, weight, denominator,
                                step)
        if scores.value is not None:
            error = (weight * self._value_error(scores.value, rollouts)).sum() / denominator
            losses["thinker_loss"] = losses["thinker_loss"] + self.config.value_weight * error
            losses["value_loss"] = error
        return losses

    def _value_error(self, value: Tensor, rollouts: Rollouts) -> Tensor:
        """(B, K): half the squared error, the worse one of the value and its clipped self."""
        assert rollouts.value is not None and rollouts.returns is not None
        error = (value - rollouts.returns).square()
        if self.config.value_clip is not None:
            limit = self.config.value_clip
            near = rollouts.value + (value - rollouts.value).clamp(-limit, limit)
            error = torch.maximum(error, (near - rollouts.returns).square())
        return error / 2
