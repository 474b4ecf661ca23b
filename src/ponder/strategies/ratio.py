"""What GRPO and PPO share: clipped probability ratios, and a leash to a reference policy."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.schedule import parse_schedule
from ponder.config.strategies import Ratio
from ponder.core.credit import kl_estimate
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy


def clipped_gain(change: Tensor, advantage: Tensor, low: float, high: float | None,
                 ) -> tuple[Tensor, Tensor]:
    r"""(surrogate gain, whether the clip took its gradient), each (B, T) (Schulman et al. 2017).

    .. math:: \min(\rho A, \mathrm{clip}(\rho, 1 - low, 1 + high) A), \quad \rho = e^{change}

    high defaults to low; a wider one lets rare tokens grow (DAPO, Yu et al. 2025).
    """
    ratio = change.exp()
    bounded = ratio.clamp(1 - low, 1 + (low if high is None else high))
    gain = torch.minimum(ratio * advantage, bounded * advantage)
    return gain, (bounded * advantage < ratio * advantage).detach()


def price(rollouts: Rollouts, weight: float, kind: str) -> Tensor:
    """(B, K): what each chosen token pays in reward for its distance from the reference, if any.

    Of k1 the policy gradient of reward and price is exactly that of E[r] - weight * KL. Of k3 it is
    not: what k3 itself changes with the policy has no mean of zero, and is left out.
    """
    if rollouts.reference is None or weight == 0:
        return torch.zeros_like(rollouts.logprobs)
    return weight * kl_estimate(rollouts.logprobs, rollouts.reference, kind) * rollouts.chosen


class Ratioed(Strategy):
    """Clipped ratios on a leash: KL to the reference policy, as a penalty in the loss or as a price
    in the reward; and an end to a round whose policy has gone too far from the one that sampled it.
    """

    def __init__(self, config: Ratio) -> None:
        self.bounds = config
        self.normalise = config.normalise
        self.clip = parse_schedule(config.clip)
        self.kl = parse_schedule(config.kl)

    def price(self, rollouts: Rollouts, step: int = 0) -> Tensor:
        """(B, K): what each token pays in reward for its distance; 0 where the loss takes it."""
        weight = self.kl(step) if self.bounds.kl_place == "reward" else 0.0
        return price(rollouts, weight, self.bounds.estimator)

    def surrogate(self, change: Tensor, scores: Scores, rollouts: Rollouts, weight: Tensor,
                  denominator: Tensor, step: int) -> Losses:
        """`thinker_loss`: the clipped gain of credit at log ratios `change` (B, K), and penalty;
        `clip_fraction`, `kl_old` to the policy that sampled (k3), `kl` where there is a reference.
        """
        assert rollouts.credit is not None

        def mean(values: Tensor) -> Tensor:
            return (weight * values).sum() / denominator

        gain, clipped = clipped_gain(change, rollouts.credit, self.clip(step),
                                     self.bounds.clip_high)
        old = kl_estimate(rollouts.old(scores), scores.logprobs.detach(), "k3")
        found = {"thinker_loss": -mean(gain), "clip_fraction": mean(clipped), "kl_old": mean(old)}
        if rollouts.reference is not None:
            found["kl"] = mean(kl_estimate(scores.logprobs, rollouts.reference,
                                           self.bounds.estimator))
            if self.bounds.kl_place == "loss":
                found["thinker_loss"] = found["thinker_loss"] + self.kl(step) * found["kl"]
        return found

    def enough(self, losses: Losses) -> bool:
        """Whether the policy is farther than `kl_stop` from the one that sampled."""
        limit = self.bounds.kl_stop
        return limit is not None and float(losses["kl_old"]) > limit
