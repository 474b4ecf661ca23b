"""Gold thoughts for a share of the questions beside any strategy (`rollout.gold_share`)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.core.math import Sampling
from ponder.core.types import Rollouts
from ponder.models.policies.base import Policy
from ponder.rollouts.demonstrations import Demonstrations
from ponder.rollouts.sampler import Sampler
from ponder.strategies.base import Strategy
from ponder.strategies.demonstrated import GIVEN, Demonstrated
from ponder.strategies.star import SFT
from support.players import STRATEGIES, Parity, outfit, padded_left
from support.small import generator, make_policy, make_task

ABLE = ["reinforce", "grpo", "rloo", "ppo", "star"]


def demonstrations(share: float, steps: int | None = None) -> Demonstrations:
    return Demonstrations(Sampler(SamplerConfig(samples=4)), 4, share, steps, 0)


def collected(share: float, strategy: Strategy, step: int = 0) -> tuple[Policy, Rollouts]:
    """A policy and 40 questions of sums below 10 with 4 rewarded thoughts each."""
    torch.manual_seed(0)
    task = make_task(max=10, answer="digits", gold="digits")
    policy = outfit(make_policy(task, tokens=2, dtype=torch.float64), strategy)
    problems = task.sample(40, generator())
    rollouts = demonstrations(share, 5).collect(policy, problems, step, generator())
    return policy, policy.annotate(Parity()(policy, rollouts), Sampling())


def gradient(policy: Policy, strategy: Strategy, rollouts: Rollouts) -> dict[str, Tensor]:
    policy.zero_grad()
    losses = strategy.loss(policy.score(rollouts, Sampling()), rollouts, strategy.count(rollouts))
    losses["thinker_loss"].backward()
    return {name: weight.grad for name, weight in policy.named_parameters()
            if weight.grad is not None and weight.grad.any()}


@pytest.mark.parametrize("name", ["reinforce", "grpo", "ppo", "star"])
def test_given_thoughts_are_learnt_by_likelihood_whatever_the_strategy(name: str) -> None:
    inner = STRATEGIES[name]()
    policy, rollouts = collected(1.0, inner)
    strategy = Demonstrated(inner=inner)
    found = gradient(policy, strategy, strategy.credit(rollouts))
    wanted = gradient(policy, SFT(), SFT().credit(rollouts))
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[weight], wanted[weight]) for weight in wanted)


@pytest.mark.parametrize("name", ABLE)
def test_sampled_thoughts_get_their_credit_without_the_given_ones(name: str) -> None:
    inner = STRATEGIES[name]()
    _, rollouts = collected(0.3, inner)
    given = rollouts.problems.groups[GIVEN]
    assert 5 <= int(given.sum()) <= 20
    found = Demonstrated(inner=inner).credit(rollouts)
    rows = found.problems.groups[GIVEN].repeat_interleave(4)
    alone = inner.credit(rollouts[(~given).nonzero()[:, 0]])
    assert found.credit is not None and alone.credit is not None and found.weight is not None
    assert torch.equal(found.credit[~rows], alone.credit)
    assert torch.equal(found.credit[rows], found.mask[rows, :-1].double())
    assert found.problems.thought is not None and found.weight[rows].all()
    width = found.problems.thought.shape[1]
    gold = found.problems.thought.repeat_interleave(4, 0)[rows]
    assert torch.equal(found.thought[rows, :width], gold)


def test_the_same_questions_are_known_in_every_round_until_the_first_phase_ends() -> None:
    task = make_task(max=100)
    source, problems = demonstrations(0.25), task.sample(2000, generator())
    known = source.known(problems)
    assert 0.22 < float(known.float().mean()) < 0.28  # 3 standard errors
    assert torch.equal(source.known(padded_left(problems, 3)), known)
    assert not torch.equal(Demonstrations(source.inner, 4, 0.25, None, 1).known(problems), known)
    assert _given(collected(0.3, STRATEGIES["star"](), step=4)[1]).any()
    assert not _given(collected(0.3, STRATEGIES["star"](), step=5)[1]).any()


def _given(rollouts: Rollouts) -> Tensor:
    return ~rollouts.chosen.any(1)
