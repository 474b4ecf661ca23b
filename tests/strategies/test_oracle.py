"""Every objective against the exact gradient of the expected reward, by enumeration.

V = 3 thought tokens, K = 2: nine thoughts. The exact gradient is that of sum_z p(z) r(z). An
estimator's mean over many groups must lie within its own sampling error of what theory says: the
exact gradient, or a known multiple of it.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.policies.base import Policy
from ponder.rollouts import given
from ponder.rollouts.sampler import sample
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.strategies.base import Strategy
from ponder.strategies.dpo import DPO
from ponder.strategies.exact import Exact
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.strategies.star import STaR
from support.small import generator, make_policy, make_task

SAMPLES, GROUPS, CHUNK = 4, 6000, 100


@functools.cache
def world() -> tuple[Policy, Problems, Tensor]:
    """A policy in double precision, one question, and the rewards (3, 3) of its thoughts."""
    torch.manual_seed(3)
    task = make_task(thoughts=3, max=10)
    policy = make_policy(task, tokens=2, stops=False).double()
    return policy, task.sample(1, generator(1)), torch.rand(3, 3, dtype=torch.double)


def worth(thought: Tensor) -> Tensor:
    policy, _, table = world()
    first = policy.vocabulary.first_thought
    return table[thought[:, 0] - first, thought[:, 1] - first]


def gradient(value: Tensor, **options) -> Tensor:
    """Of the thinker's weights, as one vector."""
    weights = list(world()[0].thinker.parameters())
    found = torch.autograd.grad(value, weights, allow_unused=True, **options)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten()
                      for w, g in zip(weights, found, strict=True)])


@functools.cache
def exact_gradient() -> Tensor:
    policy, problems, _ = world()
    census = EveryThought(SamplerConfig()).collect(policy, problems, 0)
    logprobs = policy.think(census, Sampling())[0].sum(1)
    return gradient((logprobs.exp() * worth(census.thought)).sum())


@functools.cache
def groups() -> Rollouts:
    policy, problems, _ = world()
    many = problems[torch.zeros(GROUPS, dtype=torch.long)]
    return sample(policy, many, SAMPLES, Sampling(), generator(2))


def estimate(strategy: Strategy) -> tuple[Tensor, Tensor]:
    """(mean of the negated gradient of the loss, its standard error) over many groups."""
    policy = world()[0]
    rollouts = groups()
    rollouts = rollouts.select_rows(torch.arange(len(rollouts)), SAMPLES)
    rollouts = replace(rollouts, reward=worth(rollouts.thought))
    rollouts = strategy.credit(rollouts)
    means = []
    for part in torch.arange(GROUPS).split(CHUNK):
        micro = rollouts[part]
        logprobs, entropy, full = policy.think(micro, Sampling())
        scores = Scores(logprobs, entropy, full, logprobs.new_zeros(len(micro)))
        loss = strategy.loss(scores, micro, strategy.count(micro))["thinker_loss"]
        means.append(-gradient(loss))
    stack = torch.stack(means)
    return stack.mean(0), stack.std(0) / len(stack) ** 0.5


def errors(strategy: Strategy, factor: float) -> Tensor:
    """z-scores of the estimate against a multiple of the exact gradient."""
    mean, error = estimate(strategy)
    seen = error > 1e-9
    return (mean - factor * exact_gradient())[seen] / error[seen]


def running_mean() -> Strategy:
    strategy = REINFORCE(baseline="running_mean")
    strategy.load({"running": 0.4})
    return strategy


# A mean over the K = 2 tokens of a row is half the gradient; the group mean, which holds the row
# itself, shrinks it by (G - 1) / G.
UNBIASED = {
    "reinforce, no baseline": (lambda: REINFORCE(baseline="none"), 0.5),
    "reinforce, leave one out": (lambda: REINFORCE(baseline="leave_one_out"), 0.5),
    "reinforce, running mean": (running_mean, 0.5),
    "reinforce, group mean": (lambda: REINFORCE(baseline="group_mean"), 0.375),
    "rloo": (lambda: GRPO(baseline="leave_one_out", scale="none", ratio="sequence",
                               normalise="sequences"), 1.0),
    "dr. grpo": (lambda: GRPO(scale="none", normalise="constant"), 0.375),
    "ppo, no value": (lambda: PPO(value="none", whiten="none", trace=1.0), 0.5),
}


QUICK = ("reinforce, group mean", "rloo", "ppo, no value")


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in UNBIASED])
def test_estimators_have_the_exact_gradient_as_their_mean(name: str) -> None:
    make, factor = UNBIASED[name]
    z = errors(make(), factor)
    assert z.abs().max() < 5.5
    assert z.square().mean() < 2.5  # neighbouring weights are correlated, so this is wide
    wrong = errors(make(), 0.8 * factor)
    assert wrong.square().mean() > 2.5  # the test can tell 20 %


@pytest.mark.slow
def test_grpo_divides_by_the_deviation_and_is_biased() -> None:
    """Its direction is near the exact one, but no multiple of it: hard groups count as much."""
    mean, error = estimate(GRPO(normalise="constant"))
    exact = exact_gradient()
    factor = float(mean @ exact / (exact @ exact))
    assert 0.5 < factor / 0.375 < 20
    cosine = float(torch.nn.functional.cosine_similarity(mean, exact, 0))
    assert 0.8 < cosine < 1.0
    seen = error > 1e-9
    assert ((mean - factor * exact)[seen] / error[seen]).square().mean() > 2.5


def test_exact_strategy_has_the_exact_gradient() -> None:
    policy, problems, _ = world()
    strategy = Exact()
    census = EveryThought(SamplerConfig()).collect(policy, problems, 0)
    census = replace(census, reward=worth(census.thought))
    census = strategy.credit(census)
    assert census.weight is not None and float(census.weight.sum()) == pytest.approx(1)
    logprobs, entropy, full = policy.think(census, Sampling())
    scores = Scores(logprobs, entropy, full, torch.zeros(9))
    loss = strategy.loss(scores, census, strategy.count(census))["thinker_loss"]
    assert torch.allclose(-gradient(loss), exact_gradient(), atol=1e-12)


# --- derivatives ----------------------------------------------------------------------------------

OBJECTIVES: dict[str, Strategy] = {
    "reinforce": REINFORCE(discount=0.9),
    "grpo": GRPO(kl=0.1, clip_high=0.3),
    "grpo, k1": GRPO(kl=0.1, kl_estimator="k1", normalise="sequences"),
    "rloo": GRPO(baseline="leave_one_out", ratio="sequence", normalise="sequences"),
    "ppo": PPO(whiten="sequence"),
    "dpo": DPO(likelihood=0.3, smoothing=0.1),
    "ipo": DPO(objective="ipo"),
    "star": STaR(),
    "exact": Exact(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_have_the_derivatives_they_should(name: str) -> None:
    """gradcheck in double precision, away from the corners of clips."""
    strategy, kind = OBJECTIVES[name], torch.double
    problems = world()[1]
    thought = groups().thought[:4]
    rollouts = given(problems, thought, 4)
    rollouts = replace(rollouts, chosen=torch.ones_like(rollouts.chosen),
                       logprobs=-torch.rand(4, 2, dtype=kind) - 0.5,
                       reward=torch.rand(4, dtype=kind), reference=-torch.rand(4, 2, dtype=kind),
                       value=torch.rand(4, 2, dtype=kind),
                       parts={"exact_match": torch.tensor([1.0, 0, 0, 1])})
    rollouts = strategy.credit(rollouts)
    count = strategy.count(rollouts)
    start = rollouts.logprobs + torch.where(torch.rand(rollouts.logprobs.shape) < 0.5, 0.5, -0.1)

    def loss(logprobs: Tensor, value: Tensor) -> Tensor:
        scores = Scores(logprobs, logprobs, logprobs, logprobs[:, 0], value)
        return strategy.loss(scores, rollouts, count)["thinker_loss"]

    values = [start.requires_grad_(), torch.rand(start.shape, dtype=kind, requires_grad=True)]
    assert torch.autograd.gradcheck(loss, values)
