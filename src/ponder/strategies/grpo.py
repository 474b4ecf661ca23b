r"""GRPO (Shao et al. 2024): advantages relative to the group, clipped probability ratios (PPO).

.. math:: L = -\frac{1}{N}\sum_{i,t}
   \min(\rho A_i, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon') A_i) - \beta\,\mathrm{KL}_t,
   \quad \rho = p(z_{i,t}) / p_\mathrm{old}(z_{i,t})

A family by its keys: scale=none is Dr. GRPO (Liu et al. 2025), clip_high and normalise=tokens are
DAPO's (Yu et al. 2025), baseline=leave_one_out with ratio=sequence is RLOO (Ahmadian et al. 2024).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ponder.config.option import option
from ponder.config.registry import strategy
from ponder.core.credit import discounted, flat_groups, group_advantages, shares
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, RatioStrategy


@strategy("grpo")
class GRPO(RatioStrategy):
    """Policy gradient with advantages relative to the group, clipped ratios (Shao et al. 2024)."""

    offers: ClassVar[set[str]] = {"trl"}

    baseline: str = option("group_mean", "subtracted from the reward",
                           legal=("none", "group_mean", "leave_one_out"))
    scale: str = option("group", "divide advantages by the standard deviation of the group, of the "
                        "batch, or not (Dr. GRPO)", legal=("none", "group", "batch"))
    ratio: str = option("token", "ratios of single tokens or of whole thoughts",
                        legal=("token", "sequence"))
    skip_flat: bool = option(False, "leave groups whose rewards are all equal out of the "
                             "denominators (DAPO)")

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward relative to its group; the answerer learns from every row."""
        reward = rollouts.total_reward - self.penalty(rollouts, step).sum(1)
        advantage = group_advantages(reward, rollouts.group_size, self.baseline, self.scale)
        learn = rollouts.learn
        if self.skip_flat:
            flat = flat_groups(rollouts.total_reward, rollouts.group_size)
            learn = learn & ~flat.repeat_interleave(rollouts.group_size)[:, None]
        return replace(rollouts, learn=learn, credit=discounted(advantage, learn, 1.0),
                       weight=torch.ones_like(reward))

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        weight, change = shares(rollouts.learn, self.normalise)[0], rollouts.log_ratio(scores)
        if self.ratio == "sequence":
            change = (change * rollouts.learn).sum(1, keepdim=True).expand_as(change)
        return self.surrogate(change, scores, rollouts, weight, denominator, step)
