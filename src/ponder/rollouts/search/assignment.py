"""Dealing answers out to tokens in equal parts: Sinkhorn balancing, then exact rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.math import sinkhorn

SHARPNESS = 0.3


def assign(table: Tensor, group: Tensor, labels: Tensor, stay: float) -> Tensor:
    """New labels (N,): within each group every token goes to at most ceil(size / V) answers.

    table (N, V) is the mean log-probability of each token for each answer, group (N,) the id of
    the earlier tokens of its code, labels (N,) the tokens answers have now, and stay the bonus for
    keeping them, in standard deviations of the table.
    """
    index, mask = padded_groups(group)
    score = table - table.mean(1, keepdim=True)
    score = score / (score.std() + 1e-8)
    stays = torch.full_like(labels, stay, dtype=score.dtype)[:, None]
    score = score.scatter_add(1, labels[:, None], stays)
    plan = sinkhorn(score[index], rounds=30, temperature=SHARPNESS, mask=mask)
    quota = -(-mask.sum(1) // table.shape[1])
    return labels.scatter(0, index[mask], deal(plan, mask, quota)[mask])


def padded_groups(group: Tensor) -> tuple[Tensor, Tensor]:
    """Members of every group as a rectangle: (index (n, S), mask (n, S), False on filling)."""
    _, which, count = group.unique(return_inverse=True, return_counts=True)
    order = which.argsort(stable=True)
    before = (count.cumsum(0) - count)[which[order]]
    slot = torch.arange(len(group), device=group.device) - before
    index = torch.zeros(len(count), int(count.max()), dtype=torch.long, device=group.device)
    mask = torch.zeros(index.shape, dtype=torch.bool, device=group.device)
    index[which[order], slot] = order
    mask[which[order], slot] = True
    return index, mask


def deal(plan: Tensor, mask: Tensor, quota: Tensor) -> Tensor:
    """Round a plan (n, S, V) of log-weights to one token a member, (n, S), exactly within quota.

    Everyone asks for the best token left to him; a token keeps its `quota` (n,) best askers and
    refuses the others for good; the refused ask again (deferred acceptance, Gale and Shapley 1962).
    """
    plan = plan.masked_fill(~mask[..., None], -torch.inf).clone()
    while True:
        ask = plan.argmax(2, keepdim=True)
        bid = torch.full_like(plan, -torch.inf).scatter(2, ask, plan.gather(2, ask))
        bid = bid.masked_fill(~mask[..., None], -torch.inf)
        rank = bid.argsort(dim=1, descending=True).argsort(dim=1).gather(2, ask)
        refused = (rank >= quota[:, None, None]) & mask[..., None]
        if not refused.any():
            return ask[..., 0]
        left = torch.where(refused, -torch.inf, plan.gather(2, ask))
        plan.scatter_(2, ask, left)
