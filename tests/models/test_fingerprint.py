"""What weights have written is found again by a hash of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ponder.models import fingerprint as hashing
from ponder.models.fingerprint import fingerprint, hashed_on_device


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(7, 5), nn.Linear(5, 3, bias=False)]).to(dtype)


def by_hand(weight: torch.Tensor) -> list[int]:
    """The two sums of one chunk in Python's whole numbers, modulo 2^64."""
    data = weight.contiguous().view(-1).view(torch.uint8).tolist()
    data += [0] * (-len(data) % 4)
    words = [int.from_bytes(bytes(data[i:i + 4]), "little", signed=True)
             for i in range(0, len(data), 4)]
    found = []
    for row in range(2):
        total = 0
        for i, word in enumerate(words):
            number = (1 + i + row * hashing.CHUNK) * 0x9E3779B97F4A7C15 % 2**64
            number = (number ^ shifted(number, 30)) * 0xBF58476D1CE4E5B9 % 2**64
            total += (word + 1) * (number ^ shifted(number, 27) | 1)
        found.append((total + 2**63) % 2**64 - 2**63)
    return found


def shifted(number: int, bits: int) -> int:
    """To the right with the sign, as numbers of 64 bits are."""
    signed = number - 2**64 if number >= 2**63 else number
    return (signed >> bits) % 2**64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_changed_element_counts(dtype: torch.dtype) -> None:
    first, weights = fingerprint(model(dtype)), [*model(dtype).parameters()]
    assert first == fingerprint(model(dtype))
    seen = {first}
    for number, weight in enumerate(weights):
        for place in range(weight.numel()):
            changed = model(dtype)
            with torch.no_grad():
                flat = [*changed.parameters()][number].view(-1)
                flat[place] = torch.nextafter(flat[place].float(), torch.tensor(9.0)) if \
                    dtype == torch.float32 else flat[place] * 1.01
            seen.add(fingerprint(changed))
    assert len(seen) == 1 + sum(weight.numel() for weight in weights)


def test_names_shapes_and_types_count_and_frozen_weights_do_not() -> None:
    plain, reshaped = fingerprint(model()), model()
    weight = reshaped[0].weight  # type: ignore[index]
    reshaped[0].weight = nn.Parameter(weight.detach().view(7, 5))  # type: ignore[index]
    named = nn.ModuleDict({"a": model()[0], "b": model()[1]})  # type: ignore[index]
    assert len({plain, *map(fingerprint, (model().double(), named, reshaped))}) == 4
    frozen = model()
    frozen[0].weight.requires_grad_(False)  # type: ignore[index]
    known = fingerprint(frozen)
    with torch.no_grad():
        frozen[0].weight.zero_()  # type: ignore[index]
    assert fingerprint(frozen) == known != plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_a_device_are_those_of_whole_numbers(dtype: torch.dtype) -> None:
    for weight in (torch.randn(3, 7).to(dtype), torch.randn(6, 4).to(dtype).T):
        assert hashed_on_device(weight).tolist() == [by_hand(weight)]


def test_a_device_hashes_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has sums of its own, so two that change places are noticed."""
    monkeypatch.setattr(hashing, "CHUNK", 8)
    hashing._factors.cache_clear()
    weight = torch.randn(20)
    whole = hashed_on_device(weight)
    assert whole.shape == (3, 2) and whole[0].tolist() == by_hand(weight[:8])
    turned = torch.cat([weight[8:16], weight[:8], weight[16:]])
    assert hashed_on_device(turned)[[1, 0, 2]].equal(whole)
    hashing._factors.cache_clear()


def test_memory_can_still_change_its_size() -> None:
    """As sharded models need, which free what they have gathered."""
    net = model()
    fingerprint(net)
    weight = next(net.parameters())
    weight.untyped_storage().resize_(0)
