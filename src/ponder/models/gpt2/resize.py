"""A network with room for more: new words behind those it knows, more positions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ponder.models.gpt2.model import Transformer


@torch.no_grad()
def widened(net: Transformer, vocabulary: int, positions: int) -> Transformer:
    """The network with so many words and positions, at least.

    What it says of the words it knew, in places it knew, stays the same to the last bit. New words
    are drawn around the mean of the known ones, with their spread; a new position is like the last.
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
    """(count, D): drawn from the normal distribution of known rows (n, D), width by width."""
    return known.mean(0) + known.std(0) * torch.randn(count, known.shape[1], device=known.device)
