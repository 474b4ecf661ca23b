r"""REINFORCE (Williams 1992): the score-function gradient of what was sampled.

.. math:: L = -\frac{1}{N}\sum_{i,t} \gamma^{n_t} (r_i - b_i) \log p(z_{i,t})

n_t counts the tokens of row i after t; N is the tokens that learn, or as `normalise` says. Left
out: ratios and clipping.
"""

from __future__ import annotations

from typing import Any

import torch

from ponder.config.strategies import Reinforce
from ponder.credit import discounted, group_advantages, shares
from ponder.strategies.base import Losses, Strategy
from ponder.types import Rollouts, Scores


class REINFORCE(Strategy):
    def __init__(self, config: Reinforce) -> None:
        self.config = config
        self.normalise = config.normalise
        self.running: float | None = None

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward minus a baseline; the answerer learns from every row alike."""
        config, reward = self.config, rollouts.total_reward
        if config.baseline == "running_mean":
            mean = float(reward.mean())
            self.running = mean if self.running is None else self.running
            baseline, self.running = self.running, (
                config.decay * self.running + (1 - config.decay) * mean)
        else:
            baseline = 0.0
        advantage = group_advantages(reward, rollouts.group, config.baseline, config.scale,
                                     baseline)
        rollouts.credit = discounted(advantage, rollouts.learn, config.discount)
        rollouts.weight = torch.ones_like(reward)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: torch.Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        weight = shares(rollouts.learn, self.normalise)[0]
        return {"thinker_loss": -(weight * rollouts.credit * scores.logprobs).sum() / denominator}

    def state(self) -> dict[str, Any]:
        return {"running": self.running}

    def load(self, state: dict[str, Any]) -> None:
        self.running = state["running"]
