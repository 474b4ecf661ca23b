r"""Gradients without the noise of sampling: over every thought, or through the thought itself.

Exact: every thought there is, weighted by its probability; the upper bound of all estimators, where
thoughts are few enough to enumerate.

.. math:: L = -\frac{1}{P} \sum_{questions} \sum_z p(z)\, r(z)

Pathwise: the answerer's likelihood, which is part of the loss of every strategy, has a gradient
with respect to a continuous or Gumbel thought (Kingma and Welling 2014; Hao et al. 2024). What is
left for a strategy is the likelihood of the tokens that were given, if any.

.. math:: L = -\frac{1}{N}\sum_{i,t\ \mathrm{given}} \log p(z_{i,t})
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ponder.config.option import schedule
from ponder.config.players import thought_count
from ponder.config.registry import strategy
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import Losses, Strategy

if TYPE_CHECKING:
    from ponder.config.spine import Config

ENUMERABLE = 4096  # thoughts of a question
MOST_ROWS = 2**18  # thoughts of all questions of a micro-batch


@strategy("exact")
class Exact(Strategy):
    """The exact gradient over every thought: the upper bound, for small thought spaces.

    Groups must hold every thought once, with its log-probability.
    """

    requires: ClassVar[set[str]] = {"questions"}
    thoughts = "all"
    weighs_whole_thoughts = True

    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")

    def contradictions(self, config: Config) -> Iterator[str]:
        thinker, rollout = config.thinker, config.rollout
        if not thinker.tokens:
            return
        count = thought_count(thinker.tokens, thinker.vocabulary, thinker.stops, ENUMERABLE)
        if count > ENUMERABLE:
            yield (f"strategy=exact: found more than {ENUMERABLE} thoughts to enumerate; legal: "
                   "fewer thinker.tokens or a smaller thinker.vocabulary")
        elif count * config.trainer.train_batch_size > MOST_ROWS:
            yield (f"trainer.train_batch_size={config.trainer.train_batch_size}: found {count} "
                   f"thoughts of each question; legal with strategy=exact: at most "
                   f"{MOST_ROWS // count}, with more train_gradient_accumulation_steps")
        if rollout.kind == "search":
            yield ("strategy=exact: found a search, but it takes every thought; legal: "
                   "rollout=sample")
        elif rollout.top_k or rollout.top_p < 1:
            yield ("strategy=exact: found rollout.top_k or top_p, but it takes every thought; "
                   "legal: rollout.top_k=0 rollout.top_p=1")

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """The answerer learns from each thought as often as it would be sampled."""
        return replace(rollouts, credit=rollouts.total_reward[:, None] * rollouts.learn,
                       weight=rollouts.logprobs.sum(1).exp())

    def count(self, rollouts: Rollouts) -> Tensor:
        assert rollouts.weight is not None
        return rollouts.weight.new_tensor(len(rollouts.problems))

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        probability = (scores.logprobs * rollouts.learn).sum(1).exp()
        return {"thinker_loss": -(probability * rollouts.total_reward).sum() / denominator}


class Pathwise(Strategy):
    """For thoughts that gradients flow through: no credit for them, and no need of rewards.

    It is chosen by `thinker.kind`, not by name. The answerer learns from every row alike.
    """

    def needs_reward(self, samples: int) -> bool:
        return False

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        return replace(rollouts, credit=(rollouts.learn & ~rollouts.chosen).float(),
                       weight=torch.ones(len(rollouts), device=rollouts.thought.device))

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.credit is not None
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}
