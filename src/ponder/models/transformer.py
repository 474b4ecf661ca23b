"""GPT-2 (Radford et al. 2019), small and exact, with a key/value past that gradients flow through.

Two verbs: `forward` takes any number of tokens behind a differentiable past, `extend` adds one
token to each row of a preallocated cache. What was left out: dropout and every option GPT-2 does
not have. Weights have the names and layouts of `transformers.GPT2LMHeadModel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.models.layers import Block, Shape

Past = list[tuple[Tensor, Tensor]]


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
    """Room for the keys and values of B rows: k and v are lists of L tensors (B, H, S, D/H).

    length says how many columns are filled. mask (B, S) is False on padding, None without any;
    offset (B,) is subtracted from the column to give the position of a left-padded row.
    """

    k: list[Tensor]
    v: list[Tensor]
    length: int
    mask: Tensor | None = None
    offset: Tensor | None = None

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows (b,), when others have finished."""
        return Cache([k[rows] for k in self.k], [v[rows] for v in self.v], self.length,
                     None if self.mask is None else self.mask[rows],
                     None if self.offset is None else self.offset[rows])


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

    def forward(self, tokens: Tensor, past: Past | None = None, mask: Tensor | None = None,
                last: int | None = None) -> tuple[Tensor, Past]:
        """Hidden states (B, last, D) of the last columns of tokens (B, T) (default: of all), and
        the past with all T in it.

        past holds keys and values (B, H, S, D/H) of S earlier tokens. mask (B, S + T) is False on
        padding, wherever it lies; positions count the real tokens only, so padding on either side
        changes nothing. None: no padding. Nothing reads the earlier columns of the last block, so
        they are not computed.
        """
        columns = tokens.shape[1]
        before = past[0][0].shape[2] if past else 0
        if mask is None:
            positions = torch.arange(before, before + columns, device=tokens.device)
        else:
            positions = (mask.long().cumsum(1) - 1).clamp_min(0)[:, before:]
        x = self.wte(tokens) + self.wpe(positions)
        last = columns if last is None else last
        present: Past = []
        for layer, block in enumerate(self.blocks):
            wanted = last if layer == len(self.blocks) - 1 else columns
            attend = _attention_mask(mask, before, columns, wanted, tokens.device)
            x, kv = block(x, past[layer] if past else None, attend, wanted)
            present.append(kv)
        return self.transformer["ln_f"](x), present

    @property
    def blocks(self) -> list[Block]:
        return list(self.transformer["h"])  # type: ignore[arg-type]

    def cache(self, past: Past, samples: int, room: int, mask: Tensor | None = None) -> Cache:
        """A cache for `samples` rows of each row of a past, with room for `room` more tokens.

        mask (P, S) is False on the padding of the past.
        """
        length = past[0][0].shape[2]

        def grow(value: Tensor) -> Tensor:
            return F.pad(value, (0, 0, 0, room)).repeat_interleave(samples, 0)

        offset = None
        if mask is not None:
            offset = (~mask).sum(1).repeat_interleave(samples, 0)
            mask = F.pad(mask, (0, room), value=True).repeat_interleave(samples, 0)
        return Cache([grow(k) for k, _ in past], [grow(v) for _, v in past], length, mask, offset)

    def extend(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append one token (B,) to every row of the cache: hidden states (B, D). No gradient."""
        at = cache.length
        position = self.wpe.weight[at] if cache.offset is None else self.wpe(at - cache.offset)
        x = (self.wte(tokens) + position)[:, None]
        mask = None if cache.mask is None else cache.mask[:, None, None, :at + 1]
        for block, keys, values in zip(self.blocks, cache.k, cache.v, strict=True):
            q, k, v = block.attn.heads_of(block.ln_1(x), 1)
            keys[:, :, at:at + 1], values[:, :, at:at + 1] = k, v
            x = x + block.attn.attend(q, keys[:, :, :at + 1], values[:, :, :at + 1], mask, False)
            x = x + block.mlp(block.ln_2(x))
        cache.length += 1
        return self.transformer["ln_f"](x)[:, 0]


def repeat_past(past: Past, samples: int) -> Past:
    """The past of P questions for B = P * samples rows; gradients of a group add up."""
    return [(k.repeat_interleave(samples, 0), v.repeat_interleave(samples, 0)) for k, v in past]


def sinusoids(positions: int, width: int) -> Tensor:
    """Sinusoidal positions (positions, width), Vaswani et al. 2017, equation of section 3.5."""
    angle = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    table = torch.zeros(positions, width)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()[:, :width // 2]
    return table


def _attention_mask(mask: Tensor | None, before: int, columns: int, last: int,
                    device: torch.device) -> Tensor | None:
    """Boolean (1 or B, 1, last, S + T), True where one of the last columns may look.

    None: plain causal attention, or one column that sees everything.
    """
    if mask is None and (last == 1 or (before == 0 and last == columns)):
        return None
    total = before + columns
    causal = torch.ones(last, total, dtype=torch.bool, device=device).tril(total - last)
    if mask is None:
        return causal[None, None]
    own = causal & ~causal.tril(-1 + total - last)  # padding sees itself: no empty softmax
    return ((causal & mask[:, None]) | own)[:, None]
