r"""REINFORCE (Williams 1992): the score-function gradient of what was sampled.

.. math:: L = -\frac{1}{N}\sum_{i,t} \gamma^{n_t} (r_i - b_i) \log p(z_{i,t})

n_t counts the tokens of row i after t; N is the tokens that learn, or as `normalise` says. r_i is
what is left of the reward when :math:`\beta \log (p(z_i) / q(z_i))` is paid, q the reference: with
discount 1 the exact gradient of :math:`E[r] - \beta\,\mathrm{KL}(p, q)`. Left out: ratios and
clipping.
"""

from __future__ import annotations

from typing import Any

import torch

from ponder.config.schedule import parse_schedule
from ponder.config.strategies import Reinforce
from ponder.core.credit import discounted, group_advantages, kl_estimate, shares
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy
from ponder.strategies.ratio import price


class REINFORCE(Strategy):
    def __init__(self, config: Reinforce) -> None:
        self.config = config
        self.normalise = config.normalise
        self.kl = parse_schedule(config.kl)
        self.running: float | None = None

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward minus a baseline; the answerer learns from every row alike."""
        config = self.config
        reward = rollouts.total_reward - price(rollouts, self.kl(step), "k1").sum(1)
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
        gain = (weight * rollouts.credit * scores.logprobs).sum() / denominator
        found = {"thinker_loss": -gain}
        if rollouts.reference is not None:
            kl = kl_estimate(scores.logprobs.detach(), rollouts.reference, "k3")
            found["kl"] = (weight * kl).sum() / denominator
        return found

    def state(self) -> dict[str, Any]:
        return {"running": self.running}

    def load(self, state: dict[str, Any]) -> None:
        self.running = state["running"]
