"""What GRPO and PPO share: clipped probability ratios, and a KL penalty to a reference policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ponder.config.option import option, parse_schedule, schedule
from ponder.core.credit import kl_estimate
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import NORMALISE, Losses, Strategy

if TYPE_CHECKING:
    from ponder.config.spine import Config


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


def kl_penalty(rollouts: Rollouts, weight: float, kind: str) -> Tensor:
    """What each chosen token pays in reward for its distance from the reference, (B, K).

    It is 0 without a reference. With k1 the policy gradient of reward minus penalty is exactly that
    of E[r] - weight * KL. With k3 it is not: the change of k3 itself with the policy has no mean of
    zero, and is left out.
    """
    if rollouts.reference is None or weight == 0:
        return torch.zeros_like(rollouts.logprobs)
    return weight * kl_estimate(rollouts.logprobs, rollouts.reference, kind) * rollouts.chosen


class RatioStrategy(Strategy):
    """Clipped ratios with a KL penalty to the reference policy, in the loss or in the reward.

    A round ends early once the policy is too far from the one that sampled it (`kl_stop`).
    """

    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
    clip: int | float | str = schedule(0.2, "probability ratios are clipped to 1 - clip .. "
                                       "1 + clip", low=0)
    clip_high: float | None = option(None, "upper clip, if another (DAPO)", low=0)
    normalise: str = option("tokens", "mean over all tokens (DAPO), over each sequence and then "
                            "over sequences, or over the longest there may be (Dr. GRPO)",
                            legal=NORMALISE)
    kl: int | float | str = schedule(0.0, "weight of the KL to the reference policy, which is the "
                                     "thinker as it began or model.ref_name", low=0)
    kl_place: str = option("loss", "where the KL is subtracted", legal=("loss", "reward"))
    kl_estimator: str = option("auto", "of the KL, from sampled tokens; auto: the one whose "
                               "gradient is right there, k3 in the loss and k1 in the reward",
                               legal=("auto", "k1", "k3"))
    kl_stop: float | None = option(None, "learn no more from a round once the KL to the policy "
                                   "that sampled it exceeds this", low=0)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.kl_place == "loss" and self.kl_estimator == "k1" and self.kl not in (0, 0.0):
            yield ("strategy.kl_estimator=k1: found strategy.kl_place=loss, where its gradient is "
                   "zero on average; legal: k3, or strategy.kl_place=reward")

    def __post_init__(self) -> None:
        self.clip_at = parse_schedule(self.clip)
        self.kl_at = parse_schedule(self.kl)
        by_place = {"loss": "k3", "reward": "k1"}[self.kl_place]
        self.estimator = by_place if self.kl_estimator == "auto" else self.kl_estimator

    def penalty(self, rollouts: Rollouts, step: int = 0) -> Tensor:
        """What each token pays in reward for its distance, (B, K); 0 where the loss has the KL."""
        weight = self.kl_at(step) if self.kl_place == "reward" else 0.0
        return kl_penalty(rollouts, weight, self.estimator)

    def surrogate(self, change: Tensor, scores: Scores, rollouts: Rollouts, weight: Tensor,
                  denominator: Tensor, step: int) -> Losses:
        """`thinker_loss`: the clipped gain of credit at log ratios `change` (B, K), plus the KL.

        Also `clip_fraction`, `kl_old` to the policy that sampled (k3), and `kl` where there is a
        reference; each 0-dim.
        """
        assert rollouts.credit is not None

        def mean(values: Tensor) -> Tensor:
            return (weight * values).sum() / denominator

        gain, clipped = clipped_gain(change, rollouts.credit, self.clip_at(step), self.clip_high)
        old = kl_estimate(rollouts.old_logprobs(scores), scores.logprobs.detach(), "k3")
        found = {"thinker_loss": -mean(gain), "clip_fraction": mean(clipped), "kl_old": mean(old)}
        if rollouts.reference is not None:
            found["kl"] = mean(kl_estimate(scores.logprobs, rollouts.reference, self.estimator))
            if self.kl_place == "loss":
                found["thinker_loss"] = found["thinker_loss"] + self.kl_at(step) * found["kl"]
        return found

    def enough(self, losses: Losses) -> bool:
        """Whether the policy is farther than `kl_stop` from the one that sampled."""
        return self.kl_stop is not None and float(losses["kl_old"]) > self.kl_stop
