"""The interface of a strategy: credit + loss, and the keys that all have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.config.option import WithOptions, option, parse_schedule, schedule
from ponder.config.registry import STRATEGIES
from ponder.core.credit import kl_estimate, limited_weights, shares
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores

if TYPE_CHECKING:
    from ponder.config.spine import Config


Losses = dict[str, Tensor]
NORMALISE = ("tokens", "sequences", "constant")
UNSOLVED = ("the answerer learns from groups without a right answer too, or it would never begin; "
            "null: unless thoughts are text")


class Strategy(WithOptions):
    """Two functions of tensors: `credit` before learning starts, `loss` of a micro-batch.

    All else has a default for a strategy that needs nothing special; the trainer knows no names. A
    subclass with `@strategy(name)` is a strategy; its `option` fields are its keys.
    requires: what it needs of the task (`ponder.config.registry.ABILITIES`) where there are
    thoughts.
    """

    requires: ClassVar[set[str]] = set()
    normalise = "tokens"
    thoughts = "sampled"  # what it learns from: sampled ones, the task's gold ones, or all
    rows_alone = False  # whether, once credit is given, a row means the same without its group
    corrects = False  # whether it weighs what an engine wrote (`EngineCorrected`)
    weighs_whole_thoughts = False  # so that single tokens cannot be left out

    entropy: int | float | str = schedule(0.0, "weight of the thought-entropy bonus")
    tokens_per_rollout: int = option(0, "learn from so many random tokens of each thought, as "
                                     "neighbours teach nearly the same; 0: from all", low=0)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why.

        `self` has the keys only.
        """
        rollout, name = config.rollout, config.strategy.name
        learns = config.thinker.tokens and config.trainer.learns and not config.thinker.flows
        baseline = getattr(self, "baseline", "none")
        if self.tokens_per_rollout and STRATEGIES[name].target.weighs_whole_thoughts:
            yield (f"strategy.tokens_per_rollout={self.tokens_per_rollout}: found strategy={name}, "
                   "which weighs whole thoughts; legal: 0")
        if learns and rollout.samples < 2 and baseline in ("group_mean", "leave_one_out"):
            yield (f"rollout.samples={rollout.samples}: found one sample, from which "
                   f"strategy={name} with baseline {baseline} learns nothing; legal: at least 2")
        if getattr(self, "scale", "") == "group" and rollout.samples < 2 \
                and config.thinker.tokens and rollout.kind != "search":
            yield (f"strategy.scale=group: found rollout.samples={rollout.samples}, which has no "
                   "deviation; legal: at least 2 samples, or scale none or batch")

    @property
    def compares(self) -> str | None:
        """The key that compares several thoughts of a question, as typed; None where none does."""
        for key, values in (("baseline", ("group_mean", "leave_one_out")), ("scale", ("group",))):
            if getattr(self, key, "none") in values:
                return f"strategy.{key}={getattr(self, key)}"
        return None

    @property
    def needs_correctness(self) -> bool:
        """Whether it asks which answers are right (`Rollouts.parts["exact_match"]`)."""
        return False

    @property
    def needs_reference(self) -> bool:
        """Whether it compares the thinker with a reference model."""
        return getattr(self, "kl", 0) not in (0, 0.0)

    def needs_reward(self, samples: int) -> bool:
        """Whether rewards matter for groups of this size."""
        return True

    @abstractmethod
    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """New rollouts with `credit` (B, K) and `weight` (B,), computed from the rewards."""
        raise NotImplementedError

    def corrected(self, rollouts: Rollouts, own: Tensor,
                  ) -> tuple[Rollouts, Tensor, dict[str, Tensor]]:
        """As of `EngineCorrected`, where `corrects`."""
        raise NotImplementedError

    def count(self, rollouts: Rollouts) -> Tensor:
        """What a micro-batch adds to the denominator (0-dim): tokens, rows, pairs or questions."""
        return shares(rollouts.learn, self.normalise)[1]

    @abstractmethod
    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        """`thinker_loss` and whatever else is worth logging, each 0-dim and over `denominator`.

        The denominator is the `count` of the whole optimizer step and comes from outside, so that
        micro-batches never change the gradient.
        """
        raise NotImplementedError

    def enough(self, losses: Losses) -> bool:
        """Whether to learn no more from this round, after a step that had these losses."""
        return False

    def constants(self, step: int) -> Hashable | None:
        """The Python values that `credit`, `loss` and `enough` depend on at a step, by which they
        can be replayed (`ponder.training.graph`); None where they look at values on the device.
        """
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on as if nothing had happened: plain values."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""


class EngineCorrected(Strategy):
    r"""A policy gradient that weighs what an engine wrote.

    .. math:: w = \prod_t p(z_t) / q(z_t), \quad E_q[\min(w, C)\, A\, \nabla \log p(z)]

    q is the distribution of the engine's log-probabilities, p our own forward pass when the round
    begins. Weights of whole texts have the exact gradient as their mean but for the limit C, which
    bounds the variance and makes the mean smaller by what lies above it (truncated: Ionides 2008,
    Yao et al. 2025; masked: left out). Those of tokens have less variance, and a bias: the text
    before a token is the engine's. Then `old` in the ratios of grpo and ppo is p. Without a
    correction it is q, so that the ratio is the weight, within its clip.
    """

    engine_correction: str = option("none", "weigh texts of rollout.engine by how much likelier "
                                    "our own forward pass finds them, up to engine_limit: "
                                    "truncate weights there, or mask what is above (weight 0)",
                                    legal=("none", "truncate", "mask"), later=True)
    engine_limit: float = option(2.0, "largest weight of engine_correction", low=1, later=True)
    engine_weights: str = option("tokens", "engine_correction: each token has a weight, or each "
                                 "text, which is unbiased but for the limit",
                                 legal=("tokens", "sequences"), later=True)

    def contradictions(self, config: Config) -> Iterator[str]:
        if self.engine_correction != "none" and config.rollout.engine == "own":
            yield (f"strategy.engine_correction={self.engine_correction}: found "
                   "rollout.engine=own, whose log-probabilities are the thinker's; legal: none, or "
                   "rollout.engine=transformers, vllm")

    @property
    def corrects(self) -> bool:
        return self.engine_correction != "none"

    def corrected(self, rollouts: Rollouts, own: Tensor,
                  ) -> tuple[Rollouts, Tensor, dict[str, Tensor]]:
        """(the rollouts with our own log-probabilities, the weight (B, K) of each token's credit,
        numbers for the log), from log-probabilities own (B, K) by our own forward pass.
        """
        weight, beyond = limited_weights(own, rollouts.logprobs, rollouts.chosen,
                                         self.engine_weights == "sequences", self.engine_limit,
                                         self.engine_correction == "mask")
        count = rollouts.chosen.sum().clamp_min(1)
        noted = {"engine/weight": (weight * rollouts.chosen).sum() / count,
                 "engine/limited": (beyond & rollouts.chosen).sum() / count}
        logprobs = torch.where(rollouts.chosen, own.to(rollouts.logprobs), rollouts.logprobs)
        return replace(rollouts, logprobs=logprobs), weight, noted


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


class RatioStrategy(EngineCorrected):
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

    def constants(self, step: int) -> Hashable | None:
        return None if self.kl_stop is not None else (self.clip_at(step), self.kl_at(step))

    def enough(self, losses: Losses) -> bool:
        """Whether the policy is farther than `kl_stop` from the one that sampled."""
        return self.kl_stop is not None and float(losses["kl_old"]) > self.kl_stop
