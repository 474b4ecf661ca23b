r"""GRPO (Shao et al. 2024): advantages relative to the group, clipped probability ratios (PPO).

.. math:: L = -\frac{1}{N}\sum_{i,t}
   \min(\rho A_i, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A_i),
   \quad \rho = p(z_{i,t}) / p_\mathrm{old}(z_{i,t})

scale=none is Dr. GRPO (Liu et al. 2025). Left out: the KL penalty; N counts tokens, not sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Grpo
from ponder.maths import discounted, group_advantages
from ponder.types import Rollouts, Scores


class GRPO:
    def __init__(self, config: Grpo) -> None:
        self.config = config

    def needs_reward(self, samples: int) -> bool:
        return True

    def credit(self, rollouts: Rollouts) -> Rollouts:
        """Credit from the reward relative to its group; the answerer learns from every row."""
        assert rollouts.reward is not None
        advantage = group_advantages(rollouts.reward, rollouts.samples, "group_mean",
                                     self.config.scale)
        rollouts.credit = discounted(advantage, rollouts.learn, 1.0)
        rollouts.weight = torch.ones_like(rollouts.reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor) -> Tensor:
        assert rollouts.credit is not None
        old = torch.where(rollouts.chosen, rollouts.logprobs, scores.logprobs.detach())
        ratio = (scores.logprobs - old).exp()
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        gain = torch.minimum(ratio * rollouts.credit, clipped * rollouts.credit)
        return -gain.sum() / denominator
