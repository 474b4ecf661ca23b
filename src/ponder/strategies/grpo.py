r"""GRPO (Shao et al. 2024): advantages relative to the group, clipped probability ratios (PPO).

.. math:: L = -\frac{1}{N}\sum_{i,t}
   \min(\rho A_i, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon') A_i) - \beta\,\mathrm{KL}_t,
   \quad \rho = p(z_{i,t}) / p_\mathrm{old}(z_{i,t})

A family by its keys: scale=none is Dr. GRPO (Liu et al. 2025), clip_high and normalise=tokens are
DAPO's (Yu et al. 2025), baseline=leave_one_out with ratio=sequence is RLOO (Ahmadian et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Grpo
from ponder.core.credit import discounted, flat_groups, group_advantages, shares
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses
from ponder.strategies.ratio import Ratioed


class GRPO(Ratioed):
    def __init__(self, config: Grpo) -> None:
        super().__init__(config)
        self.config = config

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward relative to its group; the answerer learns from every row."""
        config = self.config
        reward = rollouts.total_reward - self.price(rollouts, step).sum(1)
        advantage = group_advantages(reward, rollouts.group, config.baseline, config.scale)
        if config.skip_flat:
            flat = flat_groups(rollouts.total_reward, rollouts.group)
            flat = flat.repeat_interleave(rollouts.group)
            rollouts.learn = rollouts.learn & ~flat[:, None]
        rollouts.credit = discounted(advantage, rollouts.learn, 1.0)
        rollouts.weight = torch.ones_like(reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        weight, change = shares(rollouts.learn, self.normalise)[0], rollouts.change(scores)
        if self.config.ratio == "sequence":
            change = (change * rollouts.learn).sum(1, keepdim=True).expand_as(change)
        return self.surrogate(change, scores, rollouts, weight, denominator, step)
