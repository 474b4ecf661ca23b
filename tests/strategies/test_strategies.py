"""Credit and losses against hand-worked numbers and the exact gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ponder.core.types import Rollouts, Scores
from ponder.rollouts import given
from ponder.strategies.base import Strategy
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.strategies.star import SFT, STaR
from support.small import generator, make_task


def rollouts_of(reward: list[float], samples: int, tokens: int = 2) -> Rollouts:
    task = make_task()
    problems = task.sample(len(reward) // samples, generator())
    thought = torch.full((len(reward), tokens + 1), task.vocabulary.first_thought)
    thought[:, -1] = task.vocabulary.end
    rollouts = given(problems, thought, samples)
    return replace(rollouts, reward=torch.tensor(reward))


def scores_of(logprobs: torch.Tensor) -> Scores:
    zero = torch.zeros_like(logprobs)
    return Scores(logprobs, zero, zero, torch.zeros(len(logprobs)))


def loss_of(strategy: Strategy, scores: Scores, rollouts: Rollouts, count: int) -> torch.Tensor:
    return strategy.loss(scores, rollouts, torch.tensor(count))["thinker_loss"]


def test_reinforce_loss_by_hand() -> None:
    rollouts = REINFORCE(discount=0.5).credit(rollouts_of([1.0, 3.0], 2))
    assert rollouts.credit is not None
    assert rollouts.credit.tolist() == [[-0.5, -1], [0.5, 1]]
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    loss = loss_of(REINFORCE(), scores_of(logprobs), rollouts, 4)
    assert float(loss) == pytest.approx(-(0.5 + 2 - 1.5 - 4) / 4)


def test_running_mean_is_the_mean_before_this_batch() -> None:
    strategy = REINFORCE(baseline="running_mean", decay=0.5)
    first = strategy.credit(rollouts_of([2.0, 4.0], 2)).credit
    second = strategy.credit(rollouts_of([7.0, 7.0], 2)).credit
    third = strategy.credit(rollouts_of([7.0, 7.0], 2)).credit
    assert [float(c[0, 0]) for c in (first, second, third) if c is not None] == [-1, 4, 2]


def test_grpo_is_reinforce_at_the_first_step_and_clips_later() -> None:
    rollouts = GRPO(scale="none").credit(rollouts_of([0.0, 2.0], 2))
    rollouts = replace(rollouts, chosen=torch.ones_like(rollouts.chosen),
                       logprobs=torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]))
    logprobs = rollouts.logprobs.clone().requires_grad_()
    strategy = GRPO(scale="none", clip=0.2)
    (gradient,) = torch.autograd.grad(
        loss_of(strategy, scores_of(logprobs), rollouts, 4), logprobs)
    assert gradient.tolist() == [[0.25, 0.25], [-0.25, -0.25]]
    moved = (rollouts.logprobs + torch.tensor([[0.5, -0.5], [0.5, 0.1]])).requires_grad_()
    (gradient,) = torch.autograd.grad(
        loss_of(strategy, scores_of(moved), rollouts, 4), moved)
    # credit -1: a ratio below 0.8 has no gradient; credit +1: a ratio above 1.2 has none
    assert torch.allclose(gradient, torch.tensor([[0.4122, 0], [0, -0.2763]]), atol=1e-4)


def test_star_keeps_the_best_of_each_group() -> None:
    rollouts = STaR().credit(rollouts_of([1.0, 3.0, 2.0, 5.0, 4.0, 0.0], 3))
    assert rollouts.weight is not None and rollouts.credit is not None
    assert rollouts.weight.tolist() == [0, 1, 0, 1, 0, 0]
    assert rollouts.credit[:, 0].tolist() == [0, 1, 0, 1, 0, 0]
    assert int(rollouts.learn.sum()) == 4


def test_the_estimator_of_the_kl_follows_its_place() -> None:
    assert (PPO().kl_place, PPO().estimator, GRPO().kl_place, GRPO().estimator) == (
        "reward", "k1", "loss", "k3")
    assert GRPO(kl_place="reward").estimator == "k1" and PPO(kl_place="loss").estimator == "k3"
    assert PPO(kl_estimator="k3").estimator == "k3"


def test_flat_groups_are_left_out_whatever_the_leash_costs() -> None:
    rollouts = rollouts_of([1.0, 1.0, 2.0, 5.0], 2)
    rollouts = replace(rollouts, chosen=rollouts.learn.clone(), logprobs=-torch.rand(4, 2),
                       reference=-torch.rand(4, 2))
    found = GRPO(skip_flat=True, kl=0.1, kl_place="reward").credit(rollouts)
    assert found.learn.any(1).tolist() == [False, False, True, True]


@pytest.mark.parametrize("reward", [1e-6, 0.1, -33.3])
@pytest.mark.parametrize("strategy", [
    REINFORCE(), REINFORCE(scale="group"), REINFORCE(scale="batch"), GRPO(), GRPO(scale="batch"),
    GRPO(baseline="leave_one_out"), PPO(value="none", trace=1.0), STaR()])
def test_equal_rewards_teach_nothing_in_any_strategy(strategy: Strategy, reward: float) -> None:
    """Eight rewards of a float32 that their own mean does not give back."""
    credit = strategy.credit(rollouts_of([reward] * 8, 8)).credit
    assert credit is not None and not credit.any()


def test_star_learns_nothing_where_none_is_best() -> None:
    rollouts = STaR().credit(rollouts_of([1.0, 1.0, 2.0, 5.0], 2))
    assert rollouts.credit is not None and rollouts.weight is not None
    assert rollouts.credit[:, 0].tolist() == [0, 0, 0, 1]
    assert rollouts.weight.tolist() == [1, 0, 0, 1]  # the answerer must begin somewhere


def test_star_keeps_all_correct_ones_and_the_answerer_learns_from_hopeless_groups() -> None:
    rollouts = rollouts_of([0.0] * 6, 3)
    rollouts = replace(rollouts, parts={"exact_match": torch.tensor([1.0, 0, 1, 0, 0, 0])})
    rollouts = STaR(keep="correct").credit(rollouts)
    assert rollouts.credit is not None and rollouts.weight is not None
    assert rollouts.credit[:, 0].tolist() == [1, 0, 1, 0, 0, 0]
    assert rollouts.weight.tolist() == [1, 0, 1, 1, 1, 1]


def test_sft_loss_is_the_mean_negative_log_likelihood() -> None:
    rollouts = SFT().credit(rollouts_of([0.0, 0.0], 1))
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    assert float(loss_of(SFT(), scores_of(logprobs), rollouts, 4)) == 2.5
