"""Whether a model is read here as `transformers` reads it: a wrong log p looks like any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponder.core.math import at_least_float32
from ponder.models.huggingface.model import Model

SLACK = 3.0  # distances of so many times what rounding does are rounding


@torch.no_grad()
def distance(net: Model) -> float:
    """The mean distance in nats between log p of a few tokens as `transformers` itself makes them
    and as read here: some behind a segment, some beside a shorter row.
    """
    tokens = _tokens(net)
    first, segment = net.read(tokens[:, :4])
    there = torch.ones(2, 4, dtype=torch.bool, device=net.device)
    there[1, 1:] = False
    rest, _ = net.read(tokens[:, 4:].repeat(2, 1), there, [segment], keep=False)
    ours = net.logits(torch.cat([first, rest[:1]], 1))
    return _apart(ours, _theirs(net, tokens))


@torch.no_grad()
def rounding(net: Model) -> float:
    """The distance that rounding alone makes: that between `transformers` and itself where each
    number of the embeddings is off by one unit in the last place.
    """
    generator = torch.Generator().manual_seed(0)

    def nudge(layer: nn.Module, given: object, found: Tensor) -> Tensor:
        sign = torch.randint(0, 2, found.shape, generator=generator).to(found) * 2 - 1
        return found * (1 + sign * torch.finfo(found.dtype).eps)

    tokens = _tokens(net).repeat(2, 1)
    exact = _theirs(net, tokens)
    hook = net.model.get_input_embeddings().register_forward_hook(nudge)  # type: ignore[operator]
    try:
        return _apart(_theirs(net, tokens), exact)
    finally:
        hook.remove()


def limit(net: Model) -> float:
    """The distance in nats up to which rounding may be to blame."""
    return 1e-3 if net.dtype == torch.float32 else SLACK * rounding(net)


def _tokens(net: Model) -> Tensor:
    """(1, 8): from all over the vocabulary, whose first words are often special ones."""
    words = net.words or net.head.weight.shape[0]
    return (torch.arange(1, 9, device=net.device) * (words // 9))[None]


def _theirs(net: Model, tokens: Tensor) -> Tensor:
    """Logits (N, T, V) of tokens (N, T), by the attention that is written out."""
    with net.attending("eager"):
        return net.model(input_ids=tokens, use_cache=False).logits[..., :net.words]


def _apart(ours: Tensor, theirs: Tensor) -> float:
    pair = [at_least_float32(logits).log_softmax(-1) for logits in (ours, theirs)]
    return float((pair[0] - pair[1]).abs().mean())
