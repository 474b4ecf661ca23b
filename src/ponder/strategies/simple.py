"""Policy gradient without a baseline."""

from dataclasses import replace

from ponder import option, strategy
from ponder.core.lazy_imports import torch
from ponder.strategies.base import Strategy


@strategy("simple")
class Simple(Strategy):
    """Policy gradient without a baseline."""
    scaled: float = option(1.0, "factor of the credit", low=0)

    def credit(self, rollouts, step=0):
        credit = self.scaled * rollouts.total_reward[:, None] * rollouts.learn
        return replace(rollouts, credit=credit, weight=torch.ones_like(rollouts.total_reward))

    def loss(self, scores, rollouts, denominator, step=0):
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}
