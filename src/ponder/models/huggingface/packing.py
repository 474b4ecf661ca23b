"""Rows of unlike lengths without their gaps: what a network does with each token by itself, which
is nearly all of it, is done for real tokens alone; only attention sees rows side by side.
"""

from __future__ import annotations

from torch import Tensor

FULL = 0.95  # rows with hardly a gap are read as they are


def real_tokens(mask: Tensor) -> Tensor | None:
    """(M,): where among N x T the real tokens of a mask (N, T) stand; None where packing them
    would gain nothing.
    """
    found = mask.flatten().nonzero()[:, 0]
    return found if 0 < len(found) < FULL * mask.numel() else None


def packed(rows: Tensor, real: Tensor) -> Tensor:
    """(1, M, ...): the real tokens of rows (N, T, ...)."""
    return rows.flatten(0, 1)[real][None]


def unpacked(tokens: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """(N, T, ...): tokens (1, M, ...) where they stand in the rows of a mask (N, T), 0 elsewhere.
    """
    rows = tokens.new_zeros(mask.numel(), *tokens.shape[2:])
    return rows.index_copy(0, real, tokens[0]).unflatten(0, mask.shape)
