"""A hash of trained weights, for the names of what they have written: fast, not cryptographic."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
import xxhash
from torch import Tensor, nn

CHUNK = 2**22  # 32-bit words that a device hashes at a time
GOLDEN, MIX = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64  # of splitmix64


def fingerprint(model: nn.Module) -> str:
    """A hash that changes with every trained weight; frozen ones are those of the model's files.

    128 bits of each tensor: XXH3 on the CPU (two threads; torch's own number may be one), elsewhere
    `hashed_on_device`, so that weights need not be copied. The two differ.
    """
    weights = {key: value.detach() for key, value in model.named_parameters()
               if value.requires_grad}
    digest = hashlib.sha256()
    for key, value in weights.items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
    for part in _hashes([*weights.values()]):
        digest.update(part)
    return digest.hexdigest()


def _hashes(weights: list[Tensor]) -> Iterator[bytes]:
    """16 bytes or more of each tensor."""
    if weights and weights[0].device.type != "cpu":
        sums = torch.cat([hashed_on_device(value).flatten() for value in weights])
        yield sums.cpu().numpy().tobytes()
        return
    with ThreadPoolExecutor(2) as pool:  # it reads without holding Python's lock
        yield from pool.map(_hashed_here, weights)


def _hashed_here(weight: Tensor) -> bytes:
    own = weight.contiguous()  # by its address: numpy() would fix the size of the memory for good
    return xxhash.xxh3_128_digest((ctypes.c_char * own.nbytes).from_address(own.data_ptr()))


def hashed_on_device(weight: Tensor) -> Tensor:
    r"""(chunks, 2): two 64-bit sums of each chunk of a tensor, without a word to the host.

    .. math:: h_j = \sum_i (w_i + 1)\, m_{ij} \mod 2^{64}

    of its 32-bit words w, with fixed odd multipliers m that look random (splitmix64: Steele, Lea
    and Flood 2014): one changed word changes the sum, and two other tensors are as unlikely to
    agree as random numbers are.
    """
    data = weight.contiguous().view(-1).view(torch.uint8)
    data = nn.functional.pad(data, (0, -len(data) % 4))
    sums = []
    for words in data.view(torch.int32).split(CHUNK):
        factors = _factors(weight.device)[:, :len(words)]
        sums.append(((words.long() + 1) * factors).sum(1))
    return torch.stack(sums) if sums else data.new_zeros(0, 2, dtype=torch.long)


@cache
def _factors(device: torch.device) -> Tensor:
    """(2, CHUNK): odd 64-bit numbers that look random."""
    number = torch.arange(1, 2 * CHUNK + 1, device=device).view(2, CHUNK) * GOLDEN
    number = (number ^ (number >> 30)) * MIX
    return number ^ (number >> 27) | 1
