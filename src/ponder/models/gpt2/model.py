"""GPT-2 (Radford et al. 2019), small and exact, with a key/value past that gradients flow through.

Two verbs: `forward` takes any number of tokens behind a differentiable past, `extend` adds one
token to each continuation in a preallocated cache. What was left out: dropout and every option
GPT-2 does not have. Weights have the names and layouts of `transformers.GPT2LMHeadModel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.models.gpt2.layers import Block, Shape, attention_bias, whole_lanes

Past = list[Tensor]  # keys and values (B, S, 2 D) of each layer


@dataclass(frozen=True)
class Init:
    """Standard deviations of the initial weights, by kind.

    GPT-2's are 0.02 throughout. Tiny models that must make something of nothing want more: their
    first, random preferences are what a language grows from.
    """

    matrices: float = 0.02
    queries_keys: float = 0.02
    embeddings: float = 0.02
    positions: float = 0.02
    head: float = 0.02


@dataclass
class Cache:
    """Room for the keys and values of R rows: kv is a list of L tensors (R, S, 2 D).

    A row holds `branches` continuations side by side, as in `Transformer.forward`. length says how
    many columns are filled, position how many tokens each continuation has; bias (1 or R, branches,
    S) is -inf where a continuation may not look, None where it may look everywhere; offset (R, 1)
    is subtracted from the position in a left-padded row.
    """

    kv: Past
    length: int
    position: int
    branches: int = 1
    bias: Tensor | None = None
    offset: Tensor | None = None

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows (r,), when others have finished."""
        def take(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 else value[rows]

        return replace(self, kv=[kv[rows] for kv in self.kv], bias=take(self.bias),
                       offset=take(self.offset))


class Transformer(nn.Module):
    """Decoder-only language model; hidden states out, logits on demand."""

    def __init__(self, shape: Shape, init: Init | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(shape.vocabulary, shape.d_model),
            "wpe": nn.Embedding(shape.positions, shape.d_model),
            "h": nn.ModuleList(Block(shape) for _ in range(shape.layers)),
            "ln_f": nn.LayerNorm(shape.d_model)})
        if not shape.tied:
            self.lm_head = nn.Linear(shape.d_model, shape.vocabulary, bias=False)
        self.init = init or Init()
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw all weights anew: normal; projections into the residual stream by 1/sqrt(2 L)."""
        init = self.init
        kinds = {"wte.weight": init.embeddings, "wpe.weight": init.positions,
                 "lm_head.weight": init.head,
                 "c_proj.weight": init.matrices / math.sqrt(2 * self.shape.layers)}
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                kind = ".".join(name.split(".")[-2:])
                nn.init.normal_(weight, std=kinds.get(kind, init.matrices))
            else:
                nn.init.constant_(weight, float(".ln_" in name and name.endswith("weight")))
            if name.endswith("c_attn.weight"):
                nn.init.normal_(weight[:, :2 * self.shape.d_model], std=init.queries_keys)
        if self.shape.sinusoidal:
            self.wpe.weight.requires_grad_(False).copy_(
                sinusoids(self.shape.positions, self.shape.d_model))

    @property
    def wte(self) -> nn.Embedding:
        return self.transformer["wte"]  # type: ignore[return-value]

    @property
    def wpe(self) -> nn.Embedding:
        return self.transformer["wpe"]  # type: ignore[return-value]

    @property
    def head(self) -> Tensor:
        """Output matrix (vocabulary, D)."""
        return self.wte.weight if self.shape.tied else self.lm_head.weight

    def logits(self, hidden: Tensor, vocabulary: slice = slice(None)) -> Tensor:
        """(..., D) -> (..., V): only the logits of a slice of the vocabulary."""
        return F.linear(hidden, self.head[vocabulary])

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings (B, T, D) of tokens (B, T); embeddings stay what they are."""
        return tokens if tokens.is_floating_point() else self.wte(tokens)

    def forward(self, tokens: Tensor, past: Past | None = None, mask: Tensor | None = None,
                last: int | None = None, trunk: int = 0,
                branches: int = 1) -> tuple[Tensor, Past]:
        """Hidden states (B, last, D) of the last columns of tokens (B, T) (default: of all), or of
        input embeddings (B, T, D) in their place, and the past with all T in it.

        past holds keys and values (B, S, 2 D) of S earlier tokens. mask (B, S + T) is False on
        padding, wherever it lies; positions count the real tokens only, so padding on either side
        changes nothing. None: no padding. Nothing reads the earlier columns of the last block, so
        they are not computed.

        branches: column trunk + t * branches + g of tokens is token t of the g-th continuation of
        the first `trunk` columns (and of the past), which sees no other continuation.
        """
        columns, before = tokens.shape[1], past[0].shape[1] if past else 0
        positions = _positions(mask, before, columns, trunk, branches, tokens.device)
        x = self.embed(tokens) + self.wpe(positions)
        last = columns if last is None else last
        plain = mask is None and before == 0 and branches == 1
        bias = None
        if not (plain and last in (1, columns)):
            bias = attention_bias(mask, before, columns, trunk, branches, x)
        present: Past = []
        for layer, block in enumerate(self.blocks):
            wanted = last if layer == len(self.blocks) - 1 else columns
            seen = None if bias is None or (plain and wanted == columns) else bias[:, -wanted:]
            x, kv = block(x, past[layer] if past else None, seen, wanted)
            present.append(kv)
        return self.transformer["ln_f"](x), present

    @property
    def blocks(self) -> list[Block]:
        return list(self.transformer["h"])  # type: ignore[arg-type]

    def cache(self, past: Past, room: int, branches: int = 1,
              mask: Tensor | None = None) -> Cache:
        """A cache for `branches` continuations of each row of a past, each of up to `room` tokens.

        mask (R, S) is False on the padding of the past.
        """
        rows, length, width = past[0].shape
        total = length + room * branches
        total = whole_lanes(total) if branches > 1 else total
        kv = [value.new_zeros(rows, total, width) for value in past]
        for own, value in zip(kv, past, strict=True):
            own[:, :length] = value
        bias = offset = None
        if branches > 1:
            bias = kv[0].new_full((1, branches, total), -torch.inf)
            bias[:, :, :length] = 0
        if mask is not None:
            offset = (~mask).sum(1, keepdim=True)
            bias = kv[0].new_zeros(1, 1, total) if bias is None else bias
            bias = bias.masked_fill(F.pad(~mask, (0, total - length))[:, None], -torch.inf)
        return Cache(kv, length, length, branches, bias, offset)

    def extend(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append a token (B,) to each continuation: hidden states (B, D). No gradient.

        B = R * branches; the continuations of a row lie side by side.
        """
        at, end = cache.length, cache.length + cache.branches
        seen = end
        if cache.branches > 1 and cache.bias is not None:
            seen = whole_lanes(end)
            cache.bias[:, :, at:end].diagonal(dim1=1, dim2=2).zero_()
        bias = None if cache.bias is None else cache.bias[:, :, :seen]
        position = (self.wpe.weight[cache.position] if cache.offset is None
                    else self.wpe(cache.position - cache.offset))
        x = self.wte(tokens.view(-1, cache.branches)) + position
        for block, kv in zip(self.blocks, cache.kv, strict=True):
            q, kv[:, at:end] = block.attn.project(block.ln_1(x), cache.branches)
            x = x + block.attn.attend(q, kv[:, :seen], bias)
            x = x + block.mlp(block.ln_2(x))
        cache.length, cache.position = end, cache.position + 1
        return self.transformer["ln_f"](x).flatten(0, 1)


def repeat_past(past: Past, samples: int) -> Past:
    """The past of P questions for B = P * samples rows; gradients of a group add up."""
    return [kv.repeat_interleave(samples, 0) for kv in past]


def sinusoids(positions: int, width: int) -> Tensor:
    """Sinusoidal positions (positions, width), Vaswani et al. 2017, equation of section 3.5."""
    angle = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    table = torch.zeros(positions, width)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()[:, :width // 2]
    return table


def _positions(mask: Tensor | None, before: int, columns: int, trunk: int, branches: int,
               device: torch.device) -> Tensor:
    """(T,) or (B, T): how many real tokens are before each column, in its own continuation."""
    if branches == 1 and mask is not None:
        return (mask.long().cumsum(1) - 1).clamp_min(0)[:, before:]
    column = torch.arange(columns, device=device)
    if branches > 1:
        column = torch.minimum(column, trunk + (column - trunk) // branches)
    if mask is None:
        return before + column
    real = mask[:, :before + trunk].long().cumsum(1)
    behind = column[trunk:] - trunk + real[:, -1:]
    return torch.cat([(real[:, before:] - 1).clamp_min(0), behind], 1)
