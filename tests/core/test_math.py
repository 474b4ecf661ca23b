"""Pure functions against numbers worked by hand, and against counting."""

from __future__ import annotations

import math

import pytest
import torch

from ponder.core.math import (
    Sampling,
    count_entropy,
    distribution,
    draw,
    entropy,
    matmul_dtype,
    mutual_information,
    row_codes,
    sinkhorn,
)

CPU = torch.device("cpu")

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.10]).log()


def probabilities(**changes) -> list[float]:
    return distribution(LOGITS, Sampling(**changes)).exp().tolist()


def test_distribution_by_hand() -> None:
    assert probabilities() == pytest.approx([0.5, 0.25, 0.15, 0.10])
    assert probabilities(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(top_p=0.6) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(top_p=0.5) == pytest.approx([1, 0, 0, 0])
    assert probabilities(top_p=0.8) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])
    assert probabilities(epsilon=0.4) == pytest.approx([0.4, 0.25, 0.19, 0.16])
    assert probabilities(top_k=1, epsilon=0.4) == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert probabilities(epsilon=1.0) == pytest.approx([0.25] * 4)
    squares = [0.25, 0.0625, 0.0225, 0.01]
    assert probabilities(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])


def test_a_token_that_is_barred_is_not_explored_either() -> None:
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().requires_grad_()
    found = distribution(logits, Sampling(epsilon=0.3))
    assert found.exp().tolist() == pytest.approx([0.45, 0, 0.31, 0.24])
    (found[0] + entropy(found)).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert float(logits.grad[1]) == 0


def test_the_token_that_was_sampled_stays_allowed() -> None:
    kept = distribution(LOGITS, Sampling(top_k=1), keep=torch.tensor(3)).exp()
    assert kept.tolist() == pytest.approx([5 / 6, 0, 0, 1 / 6])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3), Sampling(0.5, epsilon=0.2)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logprobs = distribution(LOGITS, sampling)
    count = 40_000
    drawn = draw(logprobs.expand(count, 4), torch.rand(count))
    share = torch.bincount(drawn, minlength=4) / count
    assert torch.allclose(share, logprobs.exp(), atol=4 * 0.5 / math.sqrt(count))
    assert (share[logprobs.exp() == 0] == 0).all()


def test_entropy_by_hand() -> None:
    assert entropy(torch.full((3, 8), 1 / 8).log()).tolist() == pytest.approx([math.log(8)] * 3)
    assert float(entropy(distribution(LOGITS, Sampling(top_k=1)))) == 0.0


def test_mutual_information_by_hand() -> None:
    a = torch.arange(1000)
    assert mutual_information(a % 10, a % 10) == pytest.approx(math.log(10))
    assert mutual_information(a % 10, a // 10 % 10) == pytest.approx(0.0, abs=1e-9)
    assert mutual_information(a % 10, a % 5) == pytest.approx(math.log(5))


def test_count_entropy_and_row_codes() -> None:
    assert count_entropy(torch.tensor([1, 1, 2, 2])) == pytest.approx(math.log(2))
    codes = row_codes(torch.tensor([[1, 2], [3, 4], [1, 2]]))
    assert codes[0] == codes[2] != codes[1]


def test_sinkhorn_balances_rows_and_columns() -> None:
    plan = sinkhorn(torch.randn(30, 10) * 3, rounds=200).exp()
    assert torch.allclose(plan.sum(1), torch.ones(30), atol=1e-4)
    assert torch.allclose(plan.sum(0), torch.full((10,), 3.0), atol=1e-3)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("processor", "expected"), [
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
    ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, torch.bfloat16),
    ({"cpu_name": "AMD Ryzen", "avx2": True}, torch.float32),
    ({"architecture": "arm64", "bf16": True}, torch.float32)])
def test_auto_multiplies_in_bfloat16_where_there_are_units_for_it(
        processor: dict, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    matrix = torch.eye(2)
    for dtype, found in (("auto", expected), ("float32", torch.float32),
                         ("bfloat16", torch.bfloat16)):
        with matmul_dtype(dtype, CPU):
            assert (matrix @ matrix).dtype == found
