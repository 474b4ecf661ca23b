r"""The pathwise gradient: a thought is learnt through what the answerer makes of it.

.. math:: L = -\frac{1}{N}\sum_{i,t\ \mathrm{given}} \log p(z_{i,t})

The answerer's likelihood, which is added to the loss of every strategy, has a gradient of its own
with respect to such a thought (Kingma and Welling 2014; Hao et al. 2024). What is left for a
strategy are the tokens that were given, if any: they are learnt by likelihood. So it needs no
reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy


class Pathwise(Strategy):
    """No credit for what the thinker chose; the answerer learns from every row alike."""

    def needs_reward(self, samples: int) -> bool:
        return False

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        rollouts.credit = (rollouts.learn & ~rollouts.chosen).float()
        rollouts.weight = torch.ones(len(rollouts), device=rollouts.thought.device)
        return rollouts

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}
