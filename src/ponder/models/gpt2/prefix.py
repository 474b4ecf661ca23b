"""Rows behind a common prefix: a question is computed once for all its samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ponder.core.types import Problems
from ponder.models.gpt2.model import Transformer, repeat_past

SIDE_BY_SIDE = 256  # so many columns of samples may share one sequence with their question


def side_by_side(samples: int, columns: int) -> bool:
    """Whether samples of so many columns may share one sequence with their question."""
    return samples == 1 or samples * columns <= SIDE_BY_SIDE


def behind(net: Transformer, problems: Problems, row: Tensor, samples: int, last: int,
           read: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Tensor:
    """Last hidden states (B, last, D) of rows (B, T) behind their questions, or what `read` makes
    of each. Rows may also be input embeddings (B, T, D).

    last = T + 1 includes the last column of the question. Short samples lie behind their question
    side by side in one sequence; for long ones that see little of each other that would be a
    waste, and the past is repeated.
    """
    question, columns = problems.question, row.shape[1]
    mask = problems.mask
    tail, end = min(last, columns), int(last > columns)
    if side_by_side(samples, columns):
        if row.is_floating_point():
            question = net.embed(question)
        tokens = torch.cat([question, _weave(row, samples)], 1)
        hidden = net(tokens, mask=widened(mask, samples * columns), last=tail * samples + end,
                     trunk=question.shape[1], branches=samples)[0]
        return _unravel(read(hidden), samples, end)
    hidden, past = net(question, mask=mask, last=1)
    rest = net(row, repeat_past(past, samples), widened(mask, columns, samples), tail)[0]
    rest = read(rest)
    return torch.cat([read(hidden).repeat_interleave(samples, 0), rest], 1) if end else rest


def widened(mask: Tensor | None, columns: int, samples: int = 1) -> Tensor | None:
    """A question mask (P, Q) for B rows with `columns` more columns, all of them visible."""
    if mask is None:
        return None
    return nn.functional.pad(mask, (0, columns), value=True).repeat_interleave(samples, 0)


def _weave(row: Tensor, samples: int) -> Tensor:
    """Rows (P * G, T, ...) -> (P, T * G, ...): the first tokens of a group, then its second ones,
    and so on.
    """
    return row.unflatten(0, (-1, samples)).transpose(1, 2).flatten(1, 2)


def _unravel(hidden: Tensor, samples: int, shared: int) -> Tensor:
    """(P, shared + T * G, D), woven -> (P * G, shared + T, D); all samples have the shared ones."""
    if samples == 1:
        return hidden
    own = hidden[:, shared:].unflatten(1, (-1, samples)).transpose(1, 2).flatten(0, 1)
    if not shared:
        return own
    return torch.cat([hidden[:, :shared].repeat_interleave(samples, 0), own], 1)
