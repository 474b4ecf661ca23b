r"""STaR (Zelikman et al. 2022) and supervised learning: filter, then likelihood.

.. math:: L = -\frac{1}{N}\sum_{i \in \mathrm{kept}} \sum_t \log p(z_{i,t})

Expert iteration (Anthony et al. 2017) is the same with the best of each group. What a search found
and gold thoughts are learnt by the same line: they are groups whose best is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.strategies import Sft, Star
from ponder.core.credit import flat_groups, instructive
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy


class STaR(Strategy):
    """Keep the best rollout of each group, or all that answer right."""

    rows_alone = True

    def __init__(self, config: Star) -> None:
        self.config = config

    def needs_reward(self, samples: int) -> bool:
        """The best of one needs no reward."""
        return samples > 1 or self.config.keep == "correct"

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit and answerer weight 1 on kept rows, 0 on the others; of equal ones none is best,
        and the thinker learns nothing.

        Where no answer of a group is right, the answerer may still learn from all of its rows
        (`unsolved`).
        """
        if self.config.keep == "correct":
            right = rollouts.parts["exact_match"].view(-1, rollouts.group) > 0
            rollouts = _keep(rollouts, right.flatten())
            rollouts.weight = instructive(right, self.config.unsolved is not False)
            return rollouts
        if rollouts.group == 1:
            return _keep(rollouts, _everything(rollouts))
        reward, samples = rollouts.total_reward, rollouts.group
        best = reward.view(-1, samples).argmax(1)
        kept = torch.nn.functional.one_hot(best, samples).flatten() > 0
        flat = flat_groups(reward, samples).repeat_interleave(samples)
        rollouts.learn = rollouts.learn & ~flat[:, None]
        return _keep(rollouts, kept)

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}


class SFT(STaR):
    """Every rollout is kept: it is gold, or found by search."""

    def __init__(self, config: Sft) -> None:
        del config

    def needs_reward(self, samples: int) -> bool:
        return False

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        return _keep(rollouts, _everything(rollouts))


def _everything(rollouts: Rollouts) -> Tensor:
    return torch.ones(len(rollouts), dtype=torch.bool, device=rollouts.thought.device)


def _keep(rollouts: Rollouts, kept: Tensor) -> Rollouts:
    rollouts.weight = kept.float()
    rollouts.learn = rollouts.learn & kept[:, None]
    rollouts.credit = rollouts.learn.float()
    return rollouts
