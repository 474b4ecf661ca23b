r"""STaR (Zelikman et al. 2022) and supervised learning: filter, then likelihood.

.. math:: L = -\frac{1}{N}\sum_{i \in \mathrm{kept}} \sum_t \log p(z_{i,t})

Expert iteration (Anthony et al. 2017) is the same with the best of each group. Thoughts that a
search found and gold thoughts are learnt by the same equation: their groups have one row, the best.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ponder.config.option import option
from ponder.config.registry import TASKS, strategy
from ponder.core.credit import flat_groups, instructive
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import UNSOLVED, Losses, Strategy

if TYPE_CHECKING:
    from ponder.config.spine import Config


class Likelihood(Strategy):
    """The rows that `credit` keeps are learnt by likelihood."""

    rows_alone = True

    def constants(self, step: int) -> Hashable | None:
        return ()

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}


@strategy("star")
class STaR(Likelihood):
    """Keep the best (or the correct) thoughts of each group and learn them by likelihood."""

    keep: str = option("best", "of each group: the best one, or all that answer right",
                       legal=("best", "correct"))
    unsolved: bool | None = option(None, UNSOLVED)

    def contradictions(self, config: Config) -> Iterator[str]:
        known = TASKS[config.task.name].offers
        if self.keep == "correct" and config.thinker.tokens and "answers" not in known:
            yield (f"strategy.keep=correct: found task={config.task.name}, where nothing is right "
                   "or wrong; legal: best")

    @property
    def needs_correctness(self) -> bool:
        return self.keep == "correct"

    def needs_reward(self, samples: int) -> bool:
        """The best of one needs no reward."""
        return samples > 1 or self.keep == "correct"

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Credit and answerer weight 1 on kept rows, 0 on the others.

        Where all rewards of a group are equal, the thinker learns nothing from it. Where no answer
        of a group is right, the answerer may still learn from all of its rows (`unsolved`).
        """
        if self.keep == "correct":
            right = rollouts.parts["exact_match"].view(-1, rollouts.group_size) > 0
            weight = instructive(right, self.unsolved is not False)
            return replace(_keep(rollouts, right.flatten()), weight=weight)
        if rollouts.group_size == 1:
            return keep_all(rollouts)
        reward, samples = rollouts.total_reward, rollouts.group_size
        best = reward.view(-1, samples).argmax(1)
        kept = (best[:, None] == torch.arange(samples, device=best.device)).flatten()
        flat = flat_groups(reward, samples).repeat_interleave(samples)
        return _keep(replace(rollouts, learn=rollouts.learn & ~flat[:, None]), kept)


@strategy("sft")
class SFT(Likelihood):
    """Learn gold thoughts (or those that a search found) by likelihood: every rollout is kept."""

    requires: ClassVar[set[str]] = {"questions"}
    thoughts = "gold"

    def needs_reward(self, samples: int) -> bool:
        return False

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        return keep_all(rollouts)


def keep_all(rollouts: Rollouts) -> Rollouts:
    """The same rollouts, all to be learnt by likelihood."""
    every = torch.ones(len(rollouts), dtype=torch.bool, device=rollouts.thought.device)
    return _keep(rollouts, every)


def _keep(rollouts: Rollouts, kept: Tensor) -> Rollouts:
    learn = rollouts.learn & kept[:, None]
    return replace(rollouts, weight=kept.float(), learn=learn, credit=learn.float())
