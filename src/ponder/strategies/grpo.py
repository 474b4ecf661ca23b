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
from ponder.credit import discounted, flat_groups, group_advantages, shares
from ponder.schedule import parse_schedule
from ponder.strategies.base import Losses, Strategy
from ponder.strategies.ratio import Leash, clipped_gain
from ponder.types import Rollouts, Scores


class GRPO(Strategy):
    def __init__(self, config: Grpo) -> None:
        self.config = config
        self.normalise = config.normalise
        self.clip = parse_schedule(config.clip)
        self.leash = Leash(config)

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward relative to its group; the answerer learns from every row."""
        config = self.config
        reward = rollouts.total_reward - self.leash.price(rollouts, step).sum(1)
        advantage = group_advantages(reward, rollouts.samples, config.baseline, config.scale)
        if config.skip_flat:
            flat = flat_groups(rollouts.total_reward, rollouts.samples)
            flat = flat.repeat_interleave(rollouts.samples)
            rollouts.learn = rollouts.learn & ~flat[:, None]
        rollouts.credit = discounted(advantage, rollouts.learn, 1.0)
        rollouts.weight = torch.ones_like(reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        config, weight = self.config, shares(rollouts.learn, self.normalise)[0]
        change = rollouts.change(scores)
        if config.ratio == "sequence":
            change = (change * rollouts.learn).sum(1, keepdim=True).expand_as(change)
        gain, clipped = clipped_gain(change, rollouts.credit, self.clip(step), config.clip_high)
        loss = -(weight * gain).sum() / denominator
        losses = self.leash.losses(scores, rollouts, weight, denominator, step)
        return {"thinker_loss": loss + losses.pop("penalty"),
                "clip_fraction": (weight * clipped).sum() / denominator, **losses}

    def enough(self, losses: Losses) -> bool:
        return self.leash.torn(losses)
