"""Rows that share what is before them: layouts and attention that compute the common part once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SIDE_BY_SIDE = 256  # so many columns of samples may share one sequence with their question


def side_by_side(samples: int, columns: int) -> bool:
    """Whether samples of so many columns may share one sequence with their question."""
    return samples == 1 or samples * columns <= SIDE_BY_SIDE


def repeated_mask(mask: Tensor | None, columns: int, samples: int = 1) -> Tensor | None:
    """A question mask (P, Q) for B rows with `columns` more columns, all of them visible."""
    if mask is None:
        return None
    return nn.functional.pad(mask, (0, columns), value=True).repeat_interleave(samples, 0)


def weave(row: Tensor, samples: int) -> Tensor:
    """Rows (P * G, T, ...) -> (P, T * G, ...): the first tokens of a group, then its second ones,
    and so on.
    """
    return row.unflatten(0, (-1, samples)).transpose(1, 2).flatten(1, 2)


def unweave(hidden: Tensor, samples: int, shared: int) -> Tensor:
    """(P, shared + T * G, D), woven -> (P * G, shared + T, D); all samples have the shared ones."""
    if samples == 1:
        return hidden
    own = hidden[:, shared:].unflatten(1, (-1, samples)).transpose(1, 2).flatten(0, 1)
    if not shared:
        return own
    return torch.cat([hidden[:, :shared].repeat_interleave(samples, 0), own], 1)


def attend_branches(heads: int, q: Tensor, past: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """Attention output (P, M, L, D) of M continuations of each of P passages.

    Queries (P, M, L, D) see keys and values of the passage (P, S, 2 D), but for those that are
    hidden (P, M, S), and of their own continuation (P, M, k + L, 2 D) up to themselves: one softmax
    over both, so that the passage is never copied.
    """
    count, length = q.shape[1:3]
    q = q.unflatten(-1, (heads, -1)) / math.sqrt(q.shape[-1] / heads)  # (P, M, L, H, d)
    keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in past.chunk(2, -1))
    own_keys, own_values = (x.unflatten(-1, (heads, -1)).transpose(2, 3)
                            for x in own.chunk(2, -1))  # (P, M, H, k + L, d)
    q_own = q.transpose(2, 3)  # (P, M, H, L, d)
    q_all = q.flatten(1, 2).transpose(1, 2)  # (P, H, M L, d)
    far = (q_all @ keys.transpose(-1, -2)).unflatten(2, (count, length))  # (P, H, M, L, S)
    far = far.masked_fill(hidden[:, None, :, None], -torch.inf)
    near = (q_own @ own_keys.transpose(-1, -2)).transpose(1, 2)  # (P, H, M, L, k + L)
    if length > 1:
        later = torch.ones(length, own.shape[2], dtype=torch.bool, device=q.device)
        near = near.masked_fill(later.triu(own.shape[2] - length + 1), -torch.inf)
    places = far.shape[-1]
    weights = torch.cat([far, near], -1).softmax(-1)
    from_far = weights[..., :places].flatten(2, 3) @ values  # (P, H, M L, d)
    from_near = weights[..., places:].transpose(1, 2) @ own_values  # (P, M, H, L, d)
    far_out = from_far.unflatten(2, (count, length)).permute(0, 2, 3, 1, 4)
    return (far_out + from_near.transpose(2, 3)).flatten(3)
