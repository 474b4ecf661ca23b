r"""DPO (Rafailov et al. 2023) on pairs of a group: one rollout that is right, one that is wrong.

.. math:: L = -\frac{1}{N}\sum_\mathrm{pairs} (1-s) \log\sigma(\beta h) + s \log\sigma(-\beta h)
   + \alpha \frac{\log p(z_w)}{T_w}, \quad
   h = \log\frac{p(z_w)}{q(z_w)} - \log\frac{p(z_l)}{q(z_l)}

q is the reference policy. Both p and q are the distribution that thoughts are sampled from, at its
temperature and cut to its top-k and top-p, each by its own logits (`Rollouts.under`); at
temperature 1 with nothing cut they are the models' own, as in the paper. objective=ipo:
:math:`(h - 1/(2\beta))^2` with both ratios of h divided by their lengths (Azar et al. 2024; its
authors compare means). The term in alpha is the likelihood of the winner (IRPO, Pang et al. 2024).
Only questions whose group has both a right and a wrong rollout make a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ponder.config.option import option
from ponder.config.registry import strategy
from ponder.core.credit import instructive
from ponder.core.lazy_imports import F, Tensor, torch
from ponder.core.types import Rollouts, Scores
from ponder.strategies.base import UNSOLVED, Losses, Strategy

if TYPE_CHECKING:
    from ponder.config.spine import Config


@strategy("dpo")
class DPO(Strategy):
    """Prefer right thoughts to wrong ones of the same question (Rafailov et al. 2023)."""

    requires: ClassVar[set[str]] = {"questions"}
    offers: ClassVar[set[str]] = {"pairs", "trl"}
    weighs_whole_thoughts = True

    beta: float = option(0.1, "strength of the penalty for leaving the reference", low=1e-6)
    objective: str = option("dpo", "logistic loss, or the squared one of IPO",
                            legal=("dpo", "ipo"))
    smoothing: float = option(0.0, "share of pairs whose label is taken to be wrong", low=0,
                              high=0.5)
    likelihood: float = option(0.0, "weight of the winner's likelihood per token (IRPO)", low=0)
    unsolved: bool | None = option(None, UNSOLVED)

    def contradictions(self, config: Config) -> Iterator[str]:
        samples, thinker = config.rollout.samples, config.thinker
        if thinker.tokens and not thinker.flows and config.trainer.learns and samples < 2:
            yield (f"rollout.samples={samples}: found one sample, of which strategy=dpo makes no "
                   "pair; legal: at least 2")

    @property
    def compares(self) -> str:
        return "strategy=dpo"

    @property
    def needs_correctness(self) -> bool:
        return True

    @property
    def needs_reference(self) -> bool:
        return True

    def credit(self, rollouts: Rollouts, step: int = 0) -> Rollouts:
        """Two rows a question remain: the right rollout of highest reward (credit 1) and the wrong
        one of lowest (credit -1). Groups without both kinds teach the thinker nothing.

        The answerer learns from the right rows; where none is right, from both if `unsolved`.
        """
        samples, reward = rollouts.group_size, rollouts.total_reward.view(-1, rollouts.group_size)
        right = rollouts.parts["exact_match"].view(-1, samples) > 0
        winner = reward.masked_fill(~right, -torch.inf).argmax(1)
        loser = reward.masked_fill(right, torch.inf).argmin(1)
        both = right.any(1) & ~right.all(1)
        start = torch.arange(len(reward), device=reward.device) * samples
        pairs = torch.stack([start + winner, start + loser], 1).flatten()
        rollouts = rollouts.select_rows(pairs, 2)
        learn = rollouts.learn & both.repeat_interleave(2)[:, None]
        sign = torch.tensor([1.0, -1.0], device=reward.device).repeat(len(reward))
        weight = instructive(rollouts.parts["exact_match"].view(-1, 2) > 0,
                             self.unsolved is not False)
        return replace(rollouts, learn=learn, credit=sign[:, None] * learn, weight=weight)

    def count(self, rollouts: Rollouts) -> Tensor:
        return rollouts.learn.any(1)[0::2].sum()

    def loss(self, scores: Scores, rollouts: Rollouts, denominator: Tensor, step: int = 0,
             ) -> Losses:
        assert rollouts.reference is not None
        pair = rollouts.learn.any(1)[0::2]
        own = (scores.logprobs * rollouts.learn).sum(1)
        reward = self.beta * (own - (rollouts.reference * rollouts.learn).sum(1))
        won, lost = reward[0::2], reward[1::2]
        margin = won - lost
        lengths = rollouts.learn.sum(1).clamp_min(1)
        if self.objective == "ipo":
            each = reward / self.beta / lengths
            loss = (each[0::2] - each[1::2] - 1 / (2 * self.beta)).square()
        else:
            loss = -(1 - self.smoothing) * F.logsigmoid(margin) \
                - self.smoothing * F.logsigmoid(-margin)
        loss = loss - self.likelihood * own[0::2] / lengths[0::2]

        def mean(values: Tensor) -> Tensor:
            return (values * pair).sum() / denominator

        with torch.no_grad():
            logged = {"ranking_accuracy": mean((margin > 0).to(margin.dtype)),
                      "margin": mean(margin), "reward_won": mean(won), "reward_lost": mean(lost)}
        return {"thinker_loss": mean(loss), **logged}
