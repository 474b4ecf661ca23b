r"""REINFORCE (Williams 1992): the score-function gradient of what was sampled.

.. math:: L = -\frac{1}{N}\sum_{i,t} \gamma^{n_t} (r_i - b_i) \log p(z_{i,t})

N counts the tokens that learn, n_t the tokens of row i after t. Left out: ratios and clipping.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Reinforce
from ponder.maths import discounted, group_advantages
from ponder.types import Rollouts, Scores


class REINFORCE:
    def __init__(self, config: Reinforce) -> None:
        self.config = config
        self.running: float | None = None

    def needs_reward(self, samples: int) -> bool:
        return True

    def credit(self, rollouts: Rollouts) -> Rollouts:
        """Credit from the reward minus a baseline; the answerer learns from every row alike."""
        config, reward = self.config, rollouts.reward
        assert reward is not None
        if config.baseline == "running_mean":
            mean = float(reward.mean())
            self.running = mean if self.running is None else self.running
            baseline, self.running = self.running, (
                config.decay * self.running + (1 - config.decay) * mean)
        else:
            baseline = 0.0
        advantage = group_advantages(reward, rollouts.samples, config.baseline, config.scale,
                                     baseline)
        rollouts.credit = discounted(advantage, rollouts.learn, config.discount)
        rollouts.weight = torch.ones_like(reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor) -> Tensor:
        assert rollouts.credit is not None
        return -(rollouts.credit * scores.logprobs).sum() / denominator
