"""GPT-2 (Radford et al. 2019), small and exact: a `Backbone` whose keys and values have gradients.

Two methods do the work: `forward` takes any number of tokens after a differentiable past, `extend`
adds one token to each row of a preallocated cache. What was left out: dropout and every option
GPT-2 does not have. Weights have the names and layouts of `transformers.GPT2LMHeadModel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.core.types import Problems
from ponder.models.backbone import Backbone, Segment
from ponder.models.gpt2.layers import (
    Block,
    Shape,
    attend_branches,
    attention_bias,
    positions_of,
    side_by_side,
    sinusoids,
    unweave,
    weave,
    whole_lanes,
)

Past = list[Tensor]  # keys and values (B, S, 2 D) of each layer


@dataclass(frozen=True)
class Init:
    """Standard deviations of the initial weights, by kind.

    GPT-2's are 0.02 throughout. Tiny models that invent a language from nothing need larger ones:
    their first, random preferences are what it grows from.
    """

    matrices: float = 0.02
    queries_keys: float = 0.02
    embeddings: float = 0.02
    positions: float = 0.02
    head: float = 0.02


@dataclass
class Cache:
    """A `Decoder`: preallocated keys and values of R rows, each with `branches` continuations side
    by side, as in `Transformer.forward`.

    - kv: the keys and values (R, S, 2 D) of each layer.
    - length: how many columns are filled; begun: how many of them before the first step.
    - position: how many tokens each continuation has, the row's own included.
    - bias (1 or R, branches, S): -inf where a continuation may not attend; None: it may everywhere.
    - offset (R, 1): the padding on the left of each row, which positions do not count.
    """

    net: Transformer
    kv: Past
    length: int
    position: int
    branches: int = 1
    bias: Tensor | None = None
    offset: Tensor | None = None
    begun: int = 0

    @property
    def written(self) -> int:
        return (self.length - self.begun) // self.branches

    @property
    def room(self) -> int:
        return (self.kv[0].shape[1] - self.begun) // self.branches

    def step(self, tokens: Tensor) -> Tensor:
        return self.net.extend(tokens, self)

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows (r,), when others have finished. Only with one branch a row."""
        def take(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 else value[rows]

        return replace(self, kv=[kv[rows] for kv in self.kv], bias=take(self.bias),
                       offset=take(self.offset))

    def grow(self, more: int) -> Cache:
        """Only with one branch a row, and without padding."""
        wider = self.net.cache([kv[:, :self.length] for kv in self.kv], self.room - self.written
                               + more)
        return replace(wider, begun=self.begun)

    def segment(self, rows: Tensor) -> Segment:
        """Only with one branch a row, and without padding."""
        kv = {layer: (kv[rows, :self.length],) for layer, kv in enumerate(self.kv)}
        mask = torch.ones(len(rows), self.length, dtype=torch.bool, device=rows.device)
        return Segment(mask, torch.full_like(rows, self.length), kv, False)

    def rewind(self, written: int) -> None:
        back, end = self.written - written, self.length
        self.length, self.position = end - back * self.branches, self.position - back
        if self.branches > 1 and self.bias is not None:
            self.bias[:, :, self.length:end] = -torch.inf


class Transformer(Backbone):
    """Decoder-only language model; hidden states out, logits on demand.

    counts_padding: positions are those of columns, whether there is padding or not.
    """

    def __init__(self, shape: Shape, init: Init | None = None) -> None:
        super().__init__()
        self.shape, self.counts_padding = shape, False
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

    # --- what it is -----------------------------------------------------------------------------

    @property
    def wte(self) -> nn.Embedding:
        return self.transformer["wte"]  # type: ignore[return-value]

    @property
    def wpe(self) -> nn.Embedding:
        return self.transformer["wpe"]  # type: ignore[return-value]

    @property
    def head(self) -> Tensor:
        return self.wte.weight if self.shape.tied else self.lm_head.weight

    @property
    def positions(self) -> int:
        return self.shape.positions

    @property
    def embeddings(self) -> Tensor:
        return self.wte.weight

    @property
    def blocks(self) -> list[Block]:
        return list(self.transformer["h"])  # type: ignore[arg-type]

    # --- the network ----------------------------------------------------------------------------

    def logits(self, hidden: Tensor, vocabulary: slice | None = None) -> Tensor:
        return F.linear(hidden, self.head if vocabulary is None else self.head[vocabulary])

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens if tokens.is_floating_point() else self.wte(tokens)

    def forward(self, tokens: Tensor, past: Past | None = None, mask: Tensor | None = None,
                last: int | None = None, trunk: int = 0, branches: int = 1,
                position: int | Tensor | None = None, own: Tensor | None = None,
                ) -> tuple[Tensor, Past]:
        """(hidden states (B, last, D) of the last columns of tokens (B, T), or of input embeddings
        (B, T, D); keys and values of all S + T tokens). By default the states of all columns.

        - past: keys and values (B, S, 2 D) of S earlier tokens, by layer.
        - mask (B, S + T): False on padding, wherever it is; positions count real tokens only, so
          padding on either side changes nothing. None: no padding.
        - branches: column trunk + t * branches + g of tokens is token t of the g-th continuation of
          the first `trunk` columns (and of the past), which sees no other continuation.
        - position: that of the first column; padding counts then. Only without a trunk. Or those of
          all columns (T,) or (B, T).
        - own (T, T): which columns see which. None: those before them.

        The last block computes no earlier columns than the last ones.
        """
        columns, before = tokens.shape[1], past[0].shape[1] if past else 0
        positions = position if isinstance(position, Tensor) else positions_of(
            None if self.counts_padding else mask, before, columns, trunk, branches, tokens.device,
            position)
        x = self.embed(tokens) + self.wpe(positions)
        last = columns if last is None else last
        plain = mask is None and before == 0 and branches == 1 and own is None
        bias = None
        if not (plain and last in (1, columns)):
            bias = attention_bias(mask, before, columns, trunk, branches, x, own)
        present: Past = []
        for layer, block in enumerate(self.blocks):
            wanted = last if layer == self.shape.layers - 1 else columns
            seen = None if bias is None or (plain and wanted == columns) else bias[:, -wanted:]
            x, kv = block(x, past[layer] if past else None, seen, wanted)
            present.append(kv)
        return self.transformer["ln_f"](x), present

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
            offset = None if self.counts_padding else (~mask).sum(1, keepdim=True)
            bias = kv[0].new_zeros(1, 1, total) if bias is None else bias
            bias = bias.masked_fill(F.pad(~mask, (0, total - length))[:, None], -torch.inf)
        return Cache(self, kv, length, length, branches, bias, offset, length)

    def extend(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, D) of a token (B,) that is appended to each of the B = R * branches
        continuations. No gradient.
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

    # --- a backbone -----------------------------------------------------------------------------

    def read(self, tokens: Tensor, mask: Tensor | None = None, prefix: Sequence[Segment] = (),
             keep: bool = True, last: int | None = None, position: int | None = None,
             ) -> tuple[Tensor, Segment]:
        rows, columns = tokens.shape[:2]
        samples = rows // len(prefix[-1].mask) if prefix else 1
        if position is not None and samples > 1 and not keep and side_by_side(samples, columns):
            return self._read_side_by_side(tokens, mask, prefix, samples, last or columns, position)
        before = [segment.repeat(rows // len(segment.mask)) for segment in prefix]
        own = mask
        if own is None:
            own = torch.ones(rows, columns, dtype=torch.bool, device=tokens.device)
        if mask is not None or any(segment.padded for segment in before):
            mask = torch.cat([*(segment.mask for segment in before), own], 1)
        hidden, present = self(tokens, self._past(before), mask, last, position=position)
        start = sum(segment.mask.shape[1] for segment in before)
        length = own.sum(1) + (before[-1].length if before else 0)
        kv = {layer: (kv[:, start:],) for layer, kv in enumerate(present)} if keep else {}
        return hidden, Segment(own, length, kv, mask is not None)

    def _read_side_by_side(self, tokens: Tensor, seen: Tensor | None, prefix: Sequence[Segment],
                           samples: int, last: int, position: int) -> tuple[Tensor, Segment]:
        """`read` where each row of the last segment has `samples` rows after it, side by side."""
        rows = len(prefix[-1].mask)
        before = [segment.repeat(rows // len(segment.mask)) for segment in prefix]
        own, mask = seen, None
        if own is None:
            own = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if seen is not None or any(segment.padded for segment in before):
            mask = torch.cat([*(segment.mask for segment in before), weave(own, samples)], 1)
        hidden = self(weave(tokens, samples), self._past(before), mask, last * samples,
                      branches=samples, position=position)[0]
        return unweave(hidden, samples, 0), Segment(own, own.sum(1), {}, seen is not None)

    def read_tree(self, tokens: Tensor, prefix: Sequence[Segment], visible: Tensor, last: int,
                  position: int | None = None) -> Tensor:
        mask = None
        if any(segment.padded for segment in prefix):
            own = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
            mask = torch.cat([*(segment.mask for segment in prefix), own], 1)
        first: int | Tensor = 0 if position is None else position
        if position is None and prefix:
            first = (sum(segment.mask.shape[1] for segment in prefix) if self.counts_padding
                     else prefix[-1].length[:, None])
        return self(tokens, self._past(prefix), mask, last, position=first + visible.sum(1) - 1,
                    own=visible)[0]

    def _past(self, segments: Sequence[Segment]) -> Past | None:
        """Keys and values of segments of equally many rows, concatenated."""
        if not segments:
            return None
        parts = [[segment.kv[layer][0] for segment in segments]
                 for layer in range(self.shape.layers)]
        return [part[0] if len(part) == 1 else torch.cat(part, 1) for part in parts]

    def decoder(self, segment: Segment, samples: int, room: int, leaving: bool = False) -> Cache:
        """The samples of a question share its row; where they may leave, each has its own."""
        branches = 1 if leaving else samples
        own = segment.repeat(samples // branches)
        past = self._past([own])
        assert past is not None
        return self.cache(past, room, branches, own.mask if own.padded else None)

    def after(self, problems: Problems, rows: Tensor, samples: int, last: int,
              look: Callable[[Tensor], Tensor] = lambda hidden: hidden,
              mask: Tensor | None = None, position: int | None = None) -> Tensor:
        """Short samples follow their question side by side in one sequence. Long ones would spend
        most of their attention on scores that are masked, so each gets a copy of the question's
        keys and values.
        """
        question, seen, columns = problems.question, problems.mask, rows.shape[1]
        plain = mask is None and position is None
        if not (plain and side_by_side(samples, columns)):
            return super().after(problems, rows, samples, last, look, mask, position)
        if rows.is_floating_point():
            question = self.embed(question)
        tokens = torch.cat([question, weave(rows, samples)], 1)
        if seen is not None:
            seen = F.pad(seen, (0, samples * columns), value=True)
        tail, end = min(last, columns), int(last > columns)
        hidden = self(tokens, mask=seen, last=tail * samples + end, trunk=question.shape[1],
                      branches=samples)[0]
        return unweave(look(hidden), samples, end)

    def branch(self, tokens: Tensor, passage: Segment, at: Tensor, own: Segment | None = None,
               ) -> tuple[Tensor, Segment]:
        length, before = tokens.shape[2], own.mask.shape[1] if own else 0
        hidden_places = torch.arange(passage.mask.shape[1], device=at.device) > at[..., None]
        position = at[..., None] + 1 + before + torch.arange(length, device=at.device)
        x = self.wte(tokens) + self.wpe(position)
        present: dict[int, tuple[Tensor, ...]] = {}
        for layer, block in enumerate(self.blocks):
            q, kv = block.attn.c_attn(block.ln_1(x)).split([x.shape[-1], 2 * x.shape[-1]], -1)
            if own:
                kv = torch.cat([own.kv[layer][0].unflatten(0, at.shape), kv], 2)
            x = x + block.attn.c_proj(attend_branches(block.attn.heads, q, passage.kv[layer][0],
                                                      kv, hidden_places))
            x = x + block.mlp(block.ln_2(x))
            present[layer] = (kv.flatten(0, 1),)
        mask = torch.ones(at.numel(), before + length, dtype=torch.bool, device=at.device)
        return self.transformer["ln_f"](x), Segment(
            mask, at.flatten() + 1 + before + length, present, False)


class ValueModel(nn.Module):
    """The value of an unfinished thought, which tree search learns (`rollout.tree.value=model`): a
    network beside the thinker, with a scalar head that reads the last real token of a row.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.trunk = Transformer(shape)
        self.head = nn.Linear(shape.d_model, 1)

    def forward(self, tokens: Tensor, pad: int) -> Tensor:
        """Values (B,) of rows (B, T), padding on either side."""
        mask = tokens != pad
        hidden = self.trunk(tokens, mask=mask)[0]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        last = (mask * columns).argmax(1)
        return self.head(hidden[torch.arange(len(tokens), device=tokens.device), last])[:, 0]
