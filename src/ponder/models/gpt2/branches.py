"""Continuations of every place of a passage at once: what is common is computed once.

A passage (P, S) has M branches. Branch m continues place at[m]: it sees the passage up to there and
itself, nothing else. One mask says so; the keys and values of the passage are shared by all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ponder.models.gpt2.layers import Attention
from ponder.models.gpt2.model import Past, Transformer


def branch(net: Transformer, tokens: Tensor, past: Past, at: Tensor, own: Past | None = None,
           ) -> tuple[Tensor, Past]:
    """Hidden states (P, M, L, D) of the next tokens (P, M, L) of branches, and the keys and values
    (P, M, k + L, 2 D) of all their tokens by now.

    past holds keys and values (P, S, 2 D) of the passages, at (P, M) the places that are continued,
    own the keys and values (P, M, k, 2 D) of the k tokens that every branch has already. Gradients
    flow through both.
    """
    length, before = tokens.shape[2], own[0].shape[2] if own else 0
    hidden_places = torch.arange(past[0].shape[1], device=at.device) > at[..., None]  # (P, M, S)
    position = at[..., None] + 1 + before + torch.arange(length, device=at.device)
    x = net.wte(tokens) + net.wpe(position)
    present: Past = []
    for number, block in enumerate(net.blocks):
        q, kv = block.attn.c_attn(block.ln_1(x)).split([x.shape[-1], 2 * x.shape[-1]], -1)
        kv = torch.cat([own[number], kv], 2) if own else kv
        x = x + block.attn.c_proj(_attend(block.attn, q, past[number], kv, hidden_places))
        x = x + block.mlp(block.ln_2(x))
        present.append(kv)
    return net.transformer["ln_f"](x), present


def _attend(attention: Attention, q: Tensor, past: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """(P, M, L, D): queries (P, M, L, D) look at the passage (P, S, 2 D), but for what is hidden
    (P, M, S), and at their branch (P, M, k + L, 2 D) up to themselves: one softmax over both.
    """
    heads, (count, length) = attention.heads, q.shape[1:3]
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
