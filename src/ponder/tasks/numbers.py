"""What tasks of numbers share: digits, typed sums, and a split that needs no memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.config.errors import UserError


def digits_of(values: Tensor, width: int) -> Tensor:
    """(...,) -> (..., width), most significant first."""
    return values[..., None] // 10 ** torch.arange(width - 1, -1, -1) % 10


def in_share(keys: Tensor, share: float, seed: int) -> Tensor:
    """True (N,) for about such a share of the keys (N, C), always the same ones for a seed.

    A hash of the key decides.
    """
    state = torch.full((len(keys),), seed + 1, dtype=torch.long)
    for column in keys.unbind(1):
        state = _mix(state * 0x9E3779B9 + column + 0x7F4A7C15)
    return (state & (2**52 - 1)).double() / 2**52 < share


def _mix(state: Tensor) -> Tensor:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return state ^ (state >> 31 & 0x1FFFFFFFF)


def typed_numbers(text: str, terms: int, limit: int) -> Tensor:
    """(1, terms): the numbers of a typed sum such as `31+84=`.

    Raises `UserError` unless these are `terms` whole numbers below `limit`, joined by +.
    """
    words = [word.strip() for word in text.strip().removesuffix("=").split("+")]
    if len(words) != terms or not all(word.isdecimal() and word.isascii() for word in words):
        legal = f"{terms} whole numbers joined by +, as in {'+'.join(['1'] * terms)}="
        raise UserError(f"prompt={text}: found no question of this model; legal: {legal}")
    for word in words:
        if int(word) >= limit:
            raise UserError(f"prompt={text}: found {word}; legal: numbers below {limit}")
    return torch.tensor([[int(word) for word in words]])
