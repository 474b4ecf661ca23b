r"""REINFORCE (Williams 1992): the score-function gradient of what was sampled.

.. math:: L = -\frac{1}{N}\sum_{i,t} \gamma^{n_t} (r_i - b_i) \log p(z_{i,t})

n_t counts the tokens of row i after t; N is the tokens that learn, or as `normalise` says. r_i is
what is left of the reward when :math:`\beta \log (p(z_i) / q(z_i))` is paid, q the reference: with
discount 1 the exact gradient of :math:`E[r] - \beta\,\mathrm{KL}(p, q)`. Left out: ratios and
clipping.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, ClassVar

from ponder.config.option import option, parse_schedule, schedule
from ponder.config.registry import strategy
from ponder.core.credit import discounted, group_advantages, kl_estimate, shares
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import NORMALISE, EngineCorrected, Losses, kl_penalty


@strategy("reinforce")
class REINFORCE(EngineCorrected):
    """Policy gradient on every sampled thought (Williams 1992)."""

    offers: ClassVar[set[str]] = {"flowing"}

    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
    baseline: str = option("group_mean", "subtracted from the reward",
                           legal=("none", "group_mean", "leave_one_out", "running_mean"))
    scale: str = option("none", "divide advantages by the standard deviation of the group, of the "
                        "batch, or not", legal=("none", "group", "batch"))
    discount: float = option(1.0, "reward of token t times discount^(tokens left)", low=0, high=1)
    decay: float = option(0.95, "decay of the running-mean baseline", low=0, high=0.9999)
    kl: int | float | str = schedule(0.0, "weight of the KL to the reference policy (as of ppo), "
                                     "which is subtracted from every thought's reward", low=0)
    normalise: str = option("tokens", "mean over all tokens, over each sequence and then over "
                            "sequences, or over the longest there may be", legal=NORMALISE)

    def __post_init__(self) -> None:
        self.kl_at = parse_schedule(self.kl)
        self.running: float | None = None

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit from the reward minus a baseline; the answerer learns from every row alike."""
        reward = rollouts.total_reward - kl_penalty(rollouts, self.kl_at(step), "k1").sum(1)
        if self.baseline == "running_mean":
            mean = float(reward.mean())
            self.running = mean if self.running is None else self.running
            baseline, self.running = self.running, (
                self.decay * self.running + (1 - self.decay) * mean)
        else:
            baseline = 0.0
        advantage = group_advantages(reward, rollouts.group_size, self.baseline, self.scale,
                                     baseline)
        return replace(rollouts, credit=discounted(advantage, rollouts.learn, self.discount),
                       weight=torch.ones_like(reward))

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        weight = shares(rollouts.learn, self.normalise)[0]
        gain = (weight * rollouts.credit * scores.logprobs).sum() / denominator
        found = {"thinker_loss": -gain}
        if rollouts.reference is not None:
            kl = kl_estimate(scores.logprobs.detach(), rollouts.reference, "k3")
            found["kl"] = (weight * kl).sum() / denominator
        return found

    def constants(self, step: int) -> Hashable | None:
        return None if self.baseline == "running_mean" else self.kl_at(step)

    def state(self) -> dict[str, Any]:
        return {"running": self.running}

    def load(self, state: dict[str, Any]) -> None:
        self.running = state["running"]
