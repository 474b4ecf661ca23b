"""Credit against numbers worked by hand and naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ponder.core.credit import (
    discounted,
    flat_groups,
    gae,
    group_advantages,
    instructive,
    kl_estimate,
    sequence_reward,
    shares,
    some_tokens,
    whiten,
)
from support.small import generator


def test_group_advantages_by_hand() -> None:
    reward = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])

    def of(baseline: str, scale: str = "none", running: float = 0.0) -> list[float]:
        return group_advantages(reward, 3, baseline, scale, running).tolist()

    assert of("none") == reward.tolist()
    assert of("group_mean") == pytest.approx([-2, -1, 3, -1, -1, 2])
    assert of("leave_one_out") == pytest.approx([-3, -1.5, 4.5, -1.5, -1.5, 3])
    assert of("running_mean", running=2.0) == pytest.approx([-1, 0, 4, -2, -2, 1])
    assert of("group_mean", "group")[:3] == pytest.approx(
        [x / math.sqrt(7) for x in (-2, -1, 3)], abs=1e-4)  # var = (4 + 1 + 9) / 2
    assert of("group_mean", "batch")[5] == pytest.approx(2 / float(reward.std()), abs=1e-4)


SIZES = (1e-8, 3e-4, 0.1, 1.7, 33.3, 1e5)  # 0.1 and 1.7 are no float32: their mean is rounded


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("samples", [2, 3, 7, 8])
def test_equal_rewards_of_any_size_have_no_advantage(size: float, samples: int) -> None:
    """Rounding of their mean, divided by their deviation, which is rounding too, would be ~1."""
    reward = torch.full((samples,), -size)
    reward[1] *= 1 + 1.2e-7  # as log p of the same text in batches of different width
    batch = torch.cat([reward, torch.arange(samples) * size])
    for baseline in ("none", "group_mean", "leave_one_out"):
        for scale in ("none", "group", "batch"):
            found = group_advantages(batch, samples, baseline, scale)
            if baseline != "none" or scale == "group":
                assert found[:samples].tolist() == [0.0] * samples, (baseline, scale)
            assert found[samples:].abs().max() > 0, (baseline, scale)
            if scale == "batch":
                assert not group_advantages(reward, samples, baseline, scale).any()
    assert flat_groups(batch, samples).tolist() == [True, False]


@pytest.mark.parametrize("size", SIZES)
def test_whitening_equal_advantages_gives_zeros(size: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    for over in ("sequence", "group", "batch"):
        assert not whiten(torch.full((3, 3), size), mask, 3, over).any(), over
    residue = torch.tensor([[0.0, 1e-7, 0], [0, 0, 0], [0, -1e-7, 0]]) * size  # r - V, V = r
    assert not whiten(residue, mask, 3, "batch", torch.tensor(size)).any()
    assert whiten(residue, mask, 3, "batch").any()


def test_discounted_credit_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    credit = discounted(torch.tensor([8.0, -1.0]), mask, 0.5)
    assert credit.tolist() == [[2, 4, 8], [-1, 0, 0]]


def test_rewards_come_on_the_last_token_that_counts() -> None:
    mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    found = sequence_reward(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 3), 0.5), mask)
    assert found.tolist() == [[0.5, 1.5, 0], [0, 0.5, 2.5], [0, 0, 0]]


def test_flat_groups_by_hand() -> None:
    assert flat_groups(torch.tensor([1.0, 1, 1, 0, 2, 2]), 2).tolist() == [True, False, True]


def naive_gae(reward: list[float], value: list[float], discount: float, trace: float,
              ) -> list[float]:
    """The sum of the definition: A_t = sum_s (gamma lambda)^(s - t) delta_s."""
    after = [*value[1:], 0.0]
    delta = [r + discount * b - v for r, v, b in zip(reward, value, after, strict=True)]
    return [sum((discount * trace) ** (s - t) * delta[s] for s in range(t, len(delta)))
            for t in range(len(delta))]


@pytest.mark.parametrize("discount, trace", [(1.0, 1.0), (0.9, 0.5), (1.0, 0.0)])
def test_gae_is_the_sum_of_its_definition(discount: float, trace: float) -> None:
    reward, value = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    advantage, returns = gae(reward, value, mask, discount, trace)
    for row in range(3):
        at = mask[row]
        expected = naive_gae(reward[row, at].tolist(), value[row, at].tolist(), discount, trace)
        assert advantage[row, at].tolist() == pytest.approx(expected)
        assert (returns - advantage)[row, at].tolist() == pytest.approx(value[row, at].tolist())
    assert (advantage[~mask] == 0).all() and (returns[~mask] == 0).all()


@pytest.mark.slow
def test_gae_has_the_gradient_of_its_definition() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]]).bool()
    values = [torch.randn(2, 4, dtype=torch.double, requires_grad=True) for _ in range(2)]

    def advantage(reward: Tensor, value: Tensor) -> Tensor:
        return gae(reward, value, mask, 0.9, 0.7)[0]

    assert torch.autograd.gradcheck(advantage, values)


@pytest.mark.parametrize("over, parts", [("sequence", 4), ("group", 2), ("batch", 1)])
def test_whitening_counts_no_padding(over: str, parts: int) -> None:
    """Against the mean and deviation of the tokens alone; zeros of padding would move both."""
    advantage = torch.randn(4, 6).double() + 5
    mask = torch.rand(4, 6) < 0.7
    found = whiten(advantage, mask, 2, over)
    for own, real, new in zip(advantage.chunk(parts), mask.chunk(parts), found.chunk(parts),
                              strict=True):
        tokens = own[real]
        assert torch.allclose(new[real], (tokens - tokens.mean()) / tokens.std())
    assert (found[~mask] == 0).all()


def test_whitening_one_token_leaves_no_nan() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert whiten(torch.ones(2, 2), mask, 1, "sequence").tolist() == [[0, 0], [0, 0]]


def test_shares_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    ones = torch.ones(3, 3)

    def mean(normalise: str) -> float:
        weight, count = shares(mask, normalise)
        return float((weight * ones * torch.tensor([[1.0], [5], [9]])).sum() / count)

    assert mean("tokens") == pytest.approx((3 * 1 + 5) / 4)
    assert mean("sequences") == pytest.approx((1 + 5) / 2)
    assert mean("constant") == pytest.approx((3 * 1 + 5) / 6)


def test_kl_estimates_are_the_kl_on_average() -> None:
    """Exactly: the mean over all tokens, weighted by p."""
    p, q = (torch.randn(6).double().log_softmax(-1) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    for kind in ("k1", "k3"):
        assert float((p.exp() * kl_estimate(p, q, kind)).sum()) == pytest.approx(float(exact))
    assert (kl_estimate(p, q, "k3") >= 0).all()


def test_some_tokens_are_chosen_alike() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = torch.stack([some_tokens(mask, 2, generator(seed)) for seed in range(3000)]).float()
    assert (found.sum(2).unique(dim=0) == torch.tensor([[2.0, 1.0]])).all()
    assert torch.allclose(found.mean(0)[0, :3], torch.tensor(2 / 3), atol=0.03)
    assert torch.equal(some_tokens(mask, 0), mask)


def test_unsolved_groups_teach_the_answerer_if_they_shall() -> None:
    right = torch.tensor([[True, False], [False, False]])
    assert instructive(right, True).tolist() == [1, 0, 1, 1]
    assert instructive(right, False).tolist() == [1, 0, 0, 0]
