"""Rows with gaps: only their real tokens are computed, and say what each row says alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.models.huggingface.attention import packed, real_tokens, unpacked
from ponder.models.huggingface.model import Model
from support.questions import language_model

KINDS = ("llama", "gpt2")
WIDE = 20  # rows as long as this are compared with what they share by PyTorch's attention


def rows(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens, and a mask with gaps wherever they come; one row is whole, one nearly empty."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 200, (count, width), generator=random)
    mask = torch.rand(count, width, generator=random) < 0.6
    mask[0], mask[1] = True, False
    mask[1, width // 2] = True
    return tokens, mask


def alone(model: Any, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """Logits (T, V) of the real tokens of one row by transformers alone."""
    return model(torch.cat([tokens[mask] for tokens, mask in parts])[None]).logits[0]


def test_what_is_packed_comes_back() -> None:
    tokens, mask = rows(5, 7)
    real = real_tokens(mask)
    assert real is not None and len(real) == mask.sum()
    row = packed(tokens, real)
    assert row.tolist() == [tokens[mask].tolist()]
    assert torch.equal(unpacked(row, real, mask), tokens * mask)
    assert real_tokens(torch.ones(3, 4, dtype=torch.bool)) is None
    assert real_tokens(torch.zeros(3, 4, dtype=torch.bool)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_long_rows_behind_two_segments_read_as_if_each_stood_alone(kind: str) -> None:
    """2 questions, 6 rows, 12 rows: states and gradients."""
    model, net = language_model(kind), Model(language_model(kind))
    parts = [rows(2, 5, 1), rows(6, WIDE, 2), rows(12, WIDE, 3)]
    past, states = [], []
    for tokens, mask in parts:
        hidden, segment = net.read(tokens, mask, past)
        past.append(segment)
        states.append(hidden)
    ours = [net.logits(hidden).log_softmax(-1).mean(-1) for hidden in states]
    sum(said[mask].sum() for said, (_, mask) in zip(ours, parts, strict=True)).backward()
    total = torch.zeros((), dtype=torch.float64)
    for level, (_, mask) in enumerate(parts):
        for row in range(len(mask)):
            each = [(tokens[row * len(tokens) // len(mask)], some[row * len(some) // len(mask)])
                    for tokens, some in parts[:level + 1]]
            count = int(mask[row].sum())
            theirs = alone(model, *each).log_softmax(-1).mean(-1)[-count:]
            assert torch.allclose(ours[level][row][mask[row]], theirs, atol=1e-9)
            total = total + theirs.sum()
    total.backward()
    for own, other in zip(net.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, atol=1e-5)


def test_gaps_are_not_computed() -> None:
    net = Model(language_model())
    counts: list[int] = []
    layer = net.blocks[0].mlp
    layer.register_forward_hook(lambda module, given, found: counts.append(found[..., 0].numel()))
    tokens, mask = rows(8, WIDE)
    net.read(tokens, mask)
    assert counts == [int(mask.sum())] and counts[0] < 0.8 * mask.numel()


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.mark.parametrize("device, dtype, apart", [
    ("cpu", torch.float64, 1e-10), pytest.param("cuda", torch.float32, 1e-3, marks=GPU),
    pytest.param("cuda", torch.bfloat16, 0.1, marks=GPU)])
@pytest.mark.parametrize("width", [3, WIDE])
def test_both_ways_to_attend_say_the_same(width: int, device: str, dtype: torch.dtype,
                                          apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are short for one way are read by the other, too."""
    net = Model(language_model().to(device, dtype))
    first, second = ([x.to(device) for x in rows(*shape)] for shape in ((2, 5), (6, width)))
    found = []
    for long in (True, False):
        monkeypatch.setattr("ponder.models.huggingface.attention._is_long",
                            lambda query, key, long=long: long)
        _, segment = net.read(*first)
        found.append(net.read(*second, [segment], keep=False)[0])
    assert (found[0] - found[1]).abs().mean() <= apart and found[0].abs().mean() > 0.1
