"""The parts of a GPT-2 block, with the names and layouts of `transformers.GPT2LMHeadModel`.

Keys and values travel as one tensor (B, S, 2 D), heads side by side, so that a past is grown,
repeated and selected in one go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LANES = 16  # attention kernels are two to three times as fast for key counts that it divides


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT-2."""

    vocabulary: int
    positions: int
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    sinusoidal: bool = False
    tied: bool = True

    def __post_init__(self) -> None:
        if self.d_model % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.d_model}")


class Conv1D(nn.Module):
    """y = x W + b with W (inputs, outputs): GPT-2's layout."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs), or only some of the outputs."""
        weight, bias = self.weight, self.bias
        if outputs is not None:
            weight, bias = weight[:, outputs], bias[outputs]
        return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(bias))


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.width = shape.d_model
        self.c_attn = Conv1D(shape.d_model, 3 * shape.d_model)
        self.c_proj = Conv1D(shape.d_model, shape.d_model)

    def project(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Queries (B, last, D) of the last columns, keys and values (B, T, 2 D) of x (B, T, D)."""
        if 2 * last > x.shape[1]:
            q, kv = self.c_attn(x).split([self.width, 2 * self.width], -1)
            return q if last == x.shape[1] else q[:, -last:], kv
        return (self.c_attn(x[:, -last:], slice(0, self.width)),
                self.c_attn(x, slice(self.width, None)))

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """Attention output (B, T, D) of queries (B, T, D) over keys and values (B, S, 2 D). bias
        (1 or B, T, S or more) is added to the scores. None: plain causal attention, or one query
        that sees everything.
        """
        if bias is not None and bias.shape[2] > kv.shape[1]:
            kv = F.pad(kv, (0, 0, 0, bias.shape[2] - kv.shape[1]))
        q, k, v = (value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for value in (q, *kv.chunk(2, -1)))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if bias is None else bias[:, None],
            is_causal=bias is None and q.shape[2] > 1)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.c_fc = Conv1D(shape.d_model, 4 * shape.d_model)
        self.c_proj = Conv1D(4 * shape.d_model, shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.d_model)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.d_model)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, past: Tensor | None, bias: Tensor | None,
                last: int) -> tuple[Tensor, Tensor]:
        """(last columns (B, last, D) of the block's output, all keys and values (B, S, 2 D))."""
        q, kv = self.attn.project(self.ln_1(x), last)
        if past is not None:
            kv = torch.cat([past, kv], 1)
        if last < x.shape[1]:
            x = x[:, -last:]
        x = x + self.attn.attend(q, kv, bias)
        return x + self.mlp(self.ln_2(x)), kv


def whole_lanes(columns: int) -> int:
    """The next multiple of LANES."""
    return -(-columns // LANES) * LANES


def attention_bias(mask: Tensor | None, before: int, columns: int, trunk: int, branches: int,
                   like: Tensor, own: Tensor | None = None) -> Tensor:
    """(1 or B, T, S + T): 0 where one of the T columns may attend to another, else -inf.

    A column sees the columns before it that are not padding. After the first `trunk` columns, the
    columns belong to the `branches` in turn, and see no other branch; or `own` (T, T) says which
    columns see which. With either, S + T is rounded up to a multiple of LANES; nobody sees the
    columns that are added.
    """
    visible = torch.ones(columns, before + columns, dtype=torch.bool, device=like.device)
    visible = visible.tril(before)
    if branches > 1:
        branch = torch.arange(columns - trunk, device=like.device) % branches
        visible[trunk:, before + trunk:] &= branch[:, None] == branch
    if own is not None:
        visible[:, before:] = own
    visible = visible[None]
    if mask is not None:
        itself = visible & ~visible.tril(before - 1)  # padding sees itself: no empty softmax
        visible = (visible & mask[:, None]) | itself
    if branches > 1 or own is not None:
        visible = F.pad(visible, (0, whole_lanes(before + columns) - before - columns))
    return like.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)


SIDE_BY_SIDE = 256  # most columns of samples that share one sequence with their question


def side_by_side(samples: int, columns: int) -> bool:
    """Whether samples of so many columns may share one sequence with their question."""
    return samples == 1 or samples * columns <= SIDE_BY_SIDE


def weave(row: Tensor, samples: int) -> Tensor:
    """Rows (P * G, T, ...) -> (P, T * G, ...): the first tokens of a group, then its second ones,
    and so on.
    """
    return row.unflatten(0, (-1, samples)).transpose(1, 2).flatten(1, 2)


def unweave(hidden: Tensor, samples: int, shared: int) -> Tensor:
    """The opposite of `weave`: (P, shared + T * G, D) -> (P * G, shared + T, D). The first `shared`
    columns are repeated for each sample.
    """
    if samples == 1:
        return hidden
    own = hidden[:, shared:].unflatten(1, (-1, samples)).transpose(1, 2).flatten(0, 1)
    if not shared:
        return own
    return torch.cat([hidden[:, :shared].repeat_interleave(samples, 0), own], 1)


def attend_branches(heads: int, q: Tensor, past: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """Attention output (P, M, L, D) of M continuations of each of P passages.

    Queries (P, M, L, D) attend to the passage `past` (P, S, 2 D), except where `hidden` (P, M, S)
    is True, and to their own continuation (P, M, k + L, 2 D) up to themselves. One softmax over the
    scores of both, so that the passage is never copied.
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


def sinusoids(positions: int, width: int) -> Tensor:
    """Sinusoidal positions (positions, width), Vaswani et al. 2017, equation of section 3.5."""
    angle = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    table = torch.zeros(positions, width)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()[:, :width // 2]
    return table


def positions_of(mask: Tensor | None, before: int, columns: int, trunk: int, branches: int,
                 device: torch.device, first: int | None = None) -> Tensor:
    """(T,) or (B, T): the position of each column, which counts real tokens of its own branch; or
    columns, padding too, where the position of the `first` one is given and there is no trunk.
    """
    if first is not None:
        return first + torch.arange(columns, device=device) // branches
    if branches == 1 and mask is not None:
        return (mask.long().cumsum(1) - 1).clamp_min(0)[:, before:]
    column = torch.arange(columns, device=device)
    if branches > 1:
        column = torch.minimum(column, trunk + (column - trunk) // branches)
    if mask is None:
        return before + column
    real = mask[:, :before + trunk].long().cumsum(1)
    after = column[trunk:] - trunk + real[:, -1:]
    return torch.cat([(real[:, before:] - 1).clamp_min(0), after], 1)
