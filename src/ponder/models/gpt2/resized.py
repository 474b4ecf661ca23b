"""A GPT-2 with more tokens or positions than it was trained with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ponder.models.gpt2.model import Transformer


@torch.no_grad()
def resized(net: Transformer, vocabulary: int, positions: int) -> Transformer:
    """The network with at least so many tokens and positions, as a new one where it had fewer.

    Logits of known tokens at known positions do not change by a bit. Embeddings of new tokens are
    drawn from a normal distribution with the mean and deviation of the known ones; a new position
    is a copy of the last.
    """
    shape = replace(net.shape, vocabulary=max(vocabulary, net.shape.vocabulary),
                    positions=max(positions, net.shape.positions))
    if shape == net.shape:
        return net
    wider = Transformer(shape, net.init)
    for name, weight in wider.state_dict().items():
        known = net.state_dict()[name]
        if weight.shape == known.shape:
            weight.copy_(known)
            continue
        weight[:len(known)] = known
        if not name.endswith("wpe.weight"):
            weight[len(known):] = _drawn(known, len(weight) - len(known))
        elif not shape.sinusoidal:
            weight[len(known):] = known[-1]
    return wider


def _drawn(known: Tensor, count: int) -> Tensor:
    """(count, D): drawn from a normal distribution with the moments of known rows (n, D), each
    dimension by itself.
    """
    return known.mean(0) + known.std(0) * torch.randn(count, known.shape[1], device=known.device)
