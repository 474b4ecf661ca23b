"""Importance weights of texts that another distribution wrote, against the exact gradient: every
thought there is, as often as that distribution writes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.core.credit import limited_weights
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.policies.base import Policy
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.strategies.exact import Exact
from ponder.strategies.grpo import GRPO
from ponder.strategies.reinforce import REINFORCE
from support.small import generator, make_policy, make_task

NO_LIMIT = 1e9


class World:
    """A policy p in double precision, a question, a reward for each of its nine thoughts; and the
    distribution q that writes them, which is deliberately another.
    """

    def __init__(self, stops: bool) -> None:
        torch.manual_seed(3)
        task = make_task(thoughts=3, max=10)
        self.policy: Policy = make_policy(task, tokens=2, stops=stops).double()
        self.problems: Problems = task.sample(1, generator(1))
        census = EveryThought(SamplerConfig()).collect(self.policy, self.problems, 0)
        self.census: Rollouts = replace(census, chosen=census.mask[:, :-1],
                                        reward=torch.rand(len(census)).double())
        self.own = self.logprobs().detach()
        torch.manual_seed(4)
        q = make_policy(task, tokens=2, stops=stops).double()
        self.other = q.think(census, Sampling(0.8))[0].detach()
        self.often = self.other.sum(1).exp()  # q(z)
        assert self.often.sum() == pytest.approx(1)
        assert self.own.sum(1).exp().sum() == pytest.approx(1)

    def logprobs(self) -> Tensor:
        return self.policy.think(self.census, Sampling())[0]

    def gradient(self, value: Tensor) -> Tensor:
        weights = list(self.policy.thinker.parameters())
        found = torch.autograd.grad(value, weights, allow_unused=True)
        return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten()
                          for w, g in zip(weights, found, strict=True)])

    def exact(self) -> Tensor:
        """By strategy=exact: of sum_z p(z) r(z)."""
        strategy, rollouts = Exact(), replace(self.census, logprobs=self.own)
        rollouts = strategy.credit(rollouts)
        logprobs, entropy, full = self.policy.think(rollouts, Sampling())
        loss = strategy.loss(Scores(logprobs, entropy, full, logprobs.new_zeros(len(rollouts))),
                             rollouts, strategy.count(rollouts))
        return -self.gradient(loss["thinker_loss"])

    def mean(self, strategy: Any) -> Tensor:
        """The mean over q of a strategy's gradient, where nothing else divides it."""
        rollouts, weight = replace(self.census, logprobs=self.other), 1.0
        if strategy.corrects:
            rollouts, weight, _ = strategy.corrected(rollouts, self.own)
        rollouts = strategy.credit(rollouts)
        assert rollouts.credit is not None
        credit = rollouts.credit * weight * self.often[:, None]
        logprobs, entropy, full = self.policy.think(rollouts, Sampling())
        loss = strategy.loss(Scores(logprobs, entropy, full, logprobs.new_zeros(len(rollouts))),
                             replace(rollouts, credit=credit), torch.tensor(1.0))
        return -self.gradient(loss["thinker_loss"])

    def bias(self, limit: float, mask: bool) -> Tensor:
        """sum_z (p(z) - q(z) w(z)) r(z) grad log p(z): what a limit leaves out, by hand."""
        ratio = (self.own - self.other).sum(1).exp()
        kept = ratio.clamp_max(limit) if not mask else ratio * (ratio <= limit)
        left = (ratio - kept) * self.often * self.census.reward
        return self.gradient((left * self.logprobs().sum(1)).sum())


STRATEGIES = {
    "reinforce": lambda **keys: REINFORCE(baseline="none", **keys),
    "grpo": lambda **keys: GRPO(baseline="none", scale="none", **keys)}


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_of_whole_texts_have_the_exact_gradient_as_their_mean(name: str, stops: bool,
                                                                      ) -> None:
    """And none, or those of single tokens, have not. grpo's own ratio, over tokens and within its
    clip, is no correction of the text before a token either.
    """
    world = World(stops)
    exact, size = world.exact(), float(world.exact().norm())
    found = world.mean(STRATEGIES[name](engine_correction="truncate", engine_limit=NO_LIMIT,
                                        engine_weights="sequences"))
    torch.testing.assert_close(found, exact, atol=1e-9 * size, rtol=1e-9)
    plain = world.mean(STRATEGIES[name]())
    tokens = world.mean(STRATEGIES[name](engine_correction="truncate", engine_limit=NO_LIMIT))
    assert (plain - exact).norm() > 0.1 * size and (tokens - exact).norm() > 1e-3 * size


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("limit", [1.0, 1.5, 3.0])
def test_a_limit_leaves_out_what_lies_above_it(limit: float, mask: bool) -> None:
    """The bias is that of the thoughts above the limit alone, and bounded by their p (and lower:
    what q still writes of them) times the longest gradient of a log p.
    """
    world = World(True)
    strategy = REINFORCE(baseline="none", engine_correction="mask" if mask else "truncate",
                         engine_limit=limit, engine_weights="sequences")
    bias = world.exact() - world.mean(strategy)
    size = float(world.exact().norm())
    torch.testing.assert_close(bias, world.bias(limit, mask), atol=1e-9 * size, rtol=1e-9)
    rows = [world.gradient(world.logprobs()[row].sum()) for row in range(len(world.census))]
    longest = max(float(row.norm()) for row in rows)
    ratio = (world.own - world.other).sum(1).exp()
    kept = world.often * (0.0 if mask else limit)
    above = float(((world.own.sum(1).exp() - kept) * (ratio > limit)).sum())
    assert above > 0 and float(bias.norm()) <= above * longest
    assert float(bias.norm()) > 1e-3 * size


def test_weights_by_hand() -> None:
    """p/q of two rows: 2 and 1/2; 3 and, not chosen, 5."""
    q = torch.tensor([[0.2, 0.6], [0.1, 0.1]]).log()
    p = torch.tensor([[0.4, 0.3], [0.3, 0.5]]).log()
    chosen = torch.tensor([[True, True], [True, False]])
    weight, beyond = limited_weights(p, q, chosen, False, 2.5, False)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.5], [2.5, 1.0]]))
    assert beyond.tolist() == [[False, False], [True, False]]
    weight, _ = limited_weights(p, q, chosen, False, 2.5, True)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.5], [0.0, 1.0]]))
    weight, beyond = limited_weights(p, q, chosen, True, 3.5, True)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    assert not beyond.any()


def test_numbers_for_the_log_count_chosen_tokens() -> None:
    world = World(True)
    strategy = REINFORCE(engine_correction="mask", engine_limit=1.0)
    rollouts, weight, noted = strategy.corrected(replace(world.census, logprobs=world.other),
                                                 world.own)
    chosen = rollouts.chosen
    above = ((world.own - world.other).exp() > 1.0) & chosen
    assert float(noted["engine/limited"]) == pytest.approx(float(above.sum() / chosen.sum()))
    assert float(noted["engine/weight"]) == pytest.approx(float(weight[chosen].mean()))
    assert torch.equal(rollouts.logprobs[chosen], world.own[chosen]) and bool(above.any())
