"""The parts of a GPT-2 block, with the names and layouts of `transformers.GPT2LMHeadModel`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """(..., inputs) -> (..., outputs), or only some of the outputs."""
        weight, bias = self.weight[:, outputs], self.bias[outputs]
        return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(bias))


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.width = shape.d_model
        self.c_attn = Conv1D(shape.d_model, 3 * shape.d_model)
        self.c_proj = Conv1D(shape.d_model, shape.d_model)

    def heads_of(self, x: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, last, D/H), keys and values (B, H, T, D/H) of x (B, T, D)."""
        def split(value: Tensor, parts: int) -> Tensor:
            rows, columns, _ = value.shape
            return value.view(rows, columns, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

        if last == x.shape[1]:
            q, k, v = split(self.c_attn(x), 3)
            return q, k, v
        k, v = split(self.c_attn(x, slice(self.width, None)), 2)
        return split(self.c_attn(x[:, -last:], slice(0, self.width)), 1)[0], k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
               causal: bool) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
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

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None,
                last: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The last columns (B, last, D) of the block's output, and all keys and values."""
        q, k, v = self.attn.heads_of(self.ln_1(x), last)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        causal = mask is None and last > 1
        x = x[:, -last:] + self.attn.attend(q, k, v, mask, causal)
        return x + self.mlp(self.ln_2(x)), (k, v)
