"""What searches share: thoughts as tensors, and how good the answer would be if one ended here."""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.types import Problems
from ponder.models.policies.question import Policy

ROWS_AT_ONCE = 65_536


def close(prefixes: Tensor, end: int, pad: int) -> Tensor:
    """Thoughts (N, K + 1) of prefixes (N, K) padded on the right: end-of-thought is put in."""
    thought = torch.nn.functional.pad(prefixes, (0, 1), value=pad)
    lengths = (prefixes != pad).sum(1, keepdim=True)
    return thought.scatter(1, lengths, end)


@torch.no_grad()
def leaf_values(policy: Policy, problems: Problems, prefixes: Tensor) -> Tensor:
    """(P, n): log p(answer) if the thought ended after each of n prefixes (P, n, K) a problem."""
    count = prefixes.shape[1]
    at_once = max(1, ROWS_AT_ONCE // count)
    values = []
    for start in range(0, len(problems), at_once):
        part = slice(start, start + at_once)
        thought = close(prefixes[part].flatten(0, 1), policy.vocabulary.end, problems.pad)
        logprob, _ = policy.answer(problems[part], thought, count, policy.judge, ragged=True)
        values.append(logprob.view(-1, count))
    return torch.cat(values)


def best(problems: Problems, prefixes: Tensor, values: Tensor, samples: int, end: int) -> Tensor:
    """The `samples` best thoughts (P * G, K + 1) of n candidates (P, n, K) with values (P, n)."""
    top = values.topk(min(samples, values.shape[1]), 1).indices
    top = torch.nn.functional.pad(top, (0, samples - top.shape[1]), mode="replicate") \
        if top.shape[1] < samples else top
    width = prefixes.shape[2]
    chosen = prefixes.gather(1, top[..., None].expand(-1, -1, width))
    return close(chosen.flatten(0, 1), end, problems.pad)
