"""What GRPO and PPO share: clipped probability ratios, and a leash to a reference policy."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Ratio
from ponder.credit import kl_estimate
from ponder.schedule import parse_schedule
from ponder.strategies.base import Losses
from ponder.types import Rollouts, Scores


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


class Leash:
    """KL to the reference policy, as a penalty in the loss or as a price in the reward; and an end
    to a round whose policy has gone too far from the one that sampled it.
    """

    def __init__(self, config: Ratio) -> None:
        self.config = config
        self.weight = parse_schedule(config.kl)

    def price(self, rollouts: Rollouts, step: int = 0) -> Tensor:
        """(B, K): what each token pays in reward for its distance; 0 where the loss takes it."""
        if rollouts.reference is None or self.config.kl_place != "reward":
            return torch.zeros_like(rollouts.logprobs)
        kl = kl_estimate(rollouts.logprobs, rollouts.reference, self.config.kl_estimator)
        return self.weight(step) * kl * rollouts.chosen

    def losses(self, scores: Scores, rollouts: Rollouts, weight: Tensor, denominator: Tensor,
               step: int = 0) -> Losses:
        """`penalty` for the loss, and what is logged: `kl` to the reference where there is one,
        `kl_old` to the policy that sampled (k3).
        """
        old = kl_estimate(rollouts.old(scores), scores.logprobs.detach(), "k3")
        found = {"penalty": torch.zeros_like(denominator, dtype=weight.dtype),
                 "kl_old": (weight * old).sum() / denominator}
        if rollouts.reference is not None:
            kl = kl_estimate(scores.logprobs, rollouts.reference, self.config.kl_estimator)
            found["kl"] = (weight * kl).sum() / denominator
            if self.config.kl_place == "loss":
                found["penalty"] = self.weight(step) * found["kl"]
        return found

    def torn(self, losses: Losses) -> bool:
        """Whether the policy is farther than `kl_stop` from the one that sampled."""
        limit = self.config.kl_stop
        return limit is not None and float(losses["kl_old"]) > limit
