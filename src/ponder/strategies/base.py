"""What a strategy is: credit + loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ponder.core.credit import shares
from ponder.core.types import Rollouts, Scores

Losses = dict[str, Tensor]


class Strategy:
    """Two functions of tensors: `credit` before learning starts, `loss` of a micro-batch.

    Everything else has a default that says "nothing special". The trainer knows no names.
    """

    normalise = "tokens"
    rows_alone = False  # whether, once credit is given, a row means the same without its group

    def needs_reward(self, samples: int) -> bool:
        """Whether rewards matter for groups of this size."""
        return True

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Fill `Rollouts.credit` (B, K) and `Rollouts.weight` (B,) from the rewards."""
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
