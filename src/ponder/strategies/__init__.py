"""Strategies: what a rollout's tokens earn (credit) and how that becomes a loss.

Each is one small file with two functions of tensors; the trainer knows none of their names.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ponder.strategies.grpo import GRPO
from ponder.strategies.reinforce import REINFORCE
from ponder.strategies.star import SFT, STaR
from ponder.types import Rollouts, Scores


class Strategy(Protocol):
    """Credit + loss.

    `needs_reward` says whether rewards matter for groups of this size. `credit` fills
    `Rollouts.credit` (B, K) and `Rollouts.weight` (B,) from rewards. `loss` is the thinker's loss
    of a micro-batch, divided by a denominator that comes from outside: the tokens that learn in
    the whole optimizer step, so that micro-batches never change the gradient.
    """

    def needs_reward(self, samples: int) -> bool: ...

    def credit(self, rollouts: Rollouts) -> Rollouts: ...

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor) -> Tensor: ...


STRATEGIES: dict[str, type] = {"reinforce": REINFORCE, "grpo": GRPO, "star": STaR, "sft": SFT}
