"""The interface of a strategy: credit + loss, and the keys that all have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.config.option import WithOptions, option, schedule
from ponder.config.registry import STRATEGIES
from ponder.core.credit import shares
from ponder.core.lazy_imports import Tensor
from ponder.core.types import Rollouts, Scores

if TYPE_CHECKING:
    from ponder.config.spine import Config

Losses = dict[str, Tensor]
NORMALISE = ("tokens", "sequences", "constant")
UNSOLVED = ("the answerer learns from groups without a right answer too, or it would never begin; "
            "null: unless thoughts are text")


class Strategy(WithOptions):
    """Two functions of tensors: `credit` before learning starts, `loss` of a micro-batch.

    Everything else has a default that says "nothing special"; the trainer knows no names. A
    subclass with `@strategy(name)` is a strategy; its `option` fields are its keys.
    requires: what it needs of the task (`ponder.config.registry.ABILITIES`) where there are
    thoughts.
    """

    requires: ClassVar[set[str]] = set()
    normalise = "tokens"
    explores = True  # thoughts are sampled to learn from, not given and not enumerated
    rows_alone = False  # whether, once credit is given, a row means the same without its group
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

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """New rollouts with `credit` (B, K) and `weight` (B,), computed from the rewards."""
        raise NotImplementedError

    def count(self, rollouts: Rollouts) -> Tensor:
        """What a micro-batch adds to the denominator (0-dim): tokens, rows, pairs or questions."""
        return shares(rollouts.learn, self.normalise)[1]

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

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on as if nothing had happened: plain values."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
