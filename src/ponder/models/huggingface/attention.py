"""Attention of `transformers` models over segments that many rows share and that are read once.

For every model of `transformers` whose attention function can be replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.config.errors import UserError
from ponder.core.lazy_imports import library
from ponder.core.math import at_least_float32
from ponder.models.backbone import Segment

NAME = "ponder_segments"
FULL = 0.95  # where a larger share of tokens is real, packing gains nothing


@dataclass
class Buffer:
    """Preallocated keys and values of up to `room` tokens of N rows, which get them one by one.

    at (N,): how many tokens each row has. kv: keys and values (N, heads, room, D) of each layer,
    allocated with the first token.
    """

    room: int
    at: Tensor
    kv: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (N, heads, 1, D) to those of each row; all of them so far."""
        if layer not in self.kv:
            shape = (*key.shape[:2], self.room, key.shape[3])
            self.kv[layer] = key.new_zeros(shape), value.new_zeros(shape)
        keys, values = self.kv[layer]
        rows = torch.arange(len(key), device=key.device)
        keys[rows, :, self.at] = key[:, :, 0]
        values[rows, :, self.at] = value[:, :, 0]
        return keys, values

    def select(self, rows: Tensor) -> Buffer:
        """Some rows (n,) by index."""
        return Buffer(self.room, self.at[rows],
                      {layer: (k[rows], v[rows]) for layer, (k, v) in self.kv.items()})

    def add_rows(self, count: int) -> Buffer:
        """The buffer with `count` more rows, which have no token yet."""
        below = (0, 0, 0, 0, 0, 0, 0, count)
        return Buffer(self.room, F.pad(self.at, (0, count)),
                      {layer: (F.pad(k, below), F.pad(v, below)) for layer, (k, v) in
                       self.kv.items()})


class Reading:
    """What attention needs to know in one pass over rows (N, T).

    - past: the segments before the rows. Each row of a segment of R rows is shared by a group of
      N / R neighbouring rows.
    - places (N,): where some rows have left their groups, the number that each one had among the
      R x `grid` rows of full groups.
    - own: the segment that these rows' keys and values are put into.
    - mask (N, T): False on padding. whole: it is known to be True everywhere.
    - buffer: T = 1, and the rows attend to the first `seen` tokens in it too.
    - upto (N,): each row sees the first segment up to this token only.
    - real (M,): the network is given these tokens of N x T, packed into one row.

    Not a dataclass: FSDP copies dataclasses for each layer, and what is put into `own` would be
    lost.
    """

    def __init__(self, past: Sequence[Segment], mask: Tensor, own: Segment | None = None,
                 buffer: Buffer | None = None, seen: int = 0, places: Tensor | None = None,
                 grid: int = 1, whole: bool = False, upto: Tensor | None = None,
                 real: Tensor | None = None) -> None:
        self.past, self.mask, self.own, self.buffer = past, mask, own, buffer
        self.seen, self.places, self.grid, self.whole = seen, places, grid, whole
        self.upto, self.real = upto, real
        self.visible: Tensor | None = None

    def of_rows(self, values: Tensor) -> Tensor:
        """(N, ...): for each row the value of its group, of values (R, ...)."""
        if self.places is not None:
            return values[self.places // self.grid]
        return values.repeat_interleave(len(self.mask) // len(values), 0)

    def side_by_side(self, states: Tensor) -> Tensor:
        """(N, H, T, D) of packed states (1, H, M, D)."""
        assert self.real is not None
        return unpacked(states.transpose(1, 2), self.real, self.mask).transpose(1, 2)

    def sees(self, query: Tensor) -> Tensor:
        """(N, 1, T, S): True on the tokens of segments and row that each token attends to. Computed
        once for all layers.
        """
        if self.visible is None:
            before = [_hidden(number, self).expand(-1, -1, query.shape[2], -1)
                      for number in range(len(self.past))]
            self.visible = ~torch.cat([*before, _later(self.mask)], -1)
        return self.visible

    def must_fit(self, window: int) -> None:
        """Raise `UserError` where more tokens are seen than a window holds."""
        own = self.mask.shape[1] if self.buffer is None else self.seen
        width = own + sum(segment.mask.shape[1] for segment in self.past)
        if width > window:
            raise UserError(f"model.name: found a text of {width} tokens, where the model sees the "
                            f"last {window} in some of its layers; legal: at most {window} tokens, "
                            "or a model without sliding windows")


def attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor,
           attention_mask: Tensor | None, scaling: float | None = None, dropout: float = 0.0,
           reading: Reading | None = None, softcap: float | None = None,
           sliding_window: int | None = None, s_aux: Tensor | None = None,
           **options: object) -> tuple[Tensor, None]:
    """An attention function for `transformers`: query (N, H, T, D) -> (N, T, H, D), or packed.

    softcap bounds scores (Gemma 2); s_aux (H,) are scores of an attention sink (GPT-OSS). Raises
    `UserError` where texts are longer than a sliding window, as windows are not applied here, and
    `TypeError` for layers that do not hand on `reading`.
    """
    if reading is None:
        raise TypeError("its layers do not hand on what an attention function is given")
    if sliding_window is not None:
        reading.must_fit(sliding_window)
    key = key.to(value.dtype)  # rotated in single precision; it is kept as it will be multiplied
    if reading.real is not None:
        query, key, value = map(reading.side_by_side, (query, key, value))
    layer: int = module.layer_idx  # type: ignore[assignment]
    if reading.own is not None:
        reading.own.kv[layer] = key, value
    dropout = dropout if module.training else 0.0
    plain = reading.buffer is None and reading.places is None and softcap is None and s_aux is None
    if plain and (not reading.past or _is_long(query, key)):
        found = _side_by_side(layer, query, key, value, dropout, reading, scaling)
    else:
        query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        found = _after_segments(layer, query, key, value, dropout, reading, softcap, s_aux)
    found = found.transpose(1, 2)
    return found if reading.real is None else packed(found, reading.real), None


def _is_long(query: Tensor, key: Tensor) -> bool:
    """Whether copying a shared token's keys and values for each row (`_side_by_side`) takes less
    memory than the row's attention scores with that token.
    """
    return query.shape[1] * query.shape[2] >= 2 * key.shape[1] * key.shape[3]


def _side_by_side(layer: int, query: Tensor, key: Tensor, value: Tensor, dropout: float,
            reading: Reading, scaling: float | None) -> Tensor:
    """Attention output (N, H, T, D) by PyTorch's own kernels, which keep no scores: every row gets
    a copy of the keys and values that it shares.
    """
    query = query.to(value.dtype)
    if reading.past:
        pairs = [*(segment.kv[layer] for segment in reading.past), (key, value)]
        key, value = (torch.cat([reading.of_rows(x) for x in held], 2)
                      for held in zip(*pairs, strict=True))
    seen = None if reading.whole and not reading.past else reading.sees(query)
    grouped = seen is None or query.device.type != "cuda"  # no kernel there has groups and a mask
    if not grouped:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, seen, dropout, seen is None, scale=scaling, enable_gqa=grouped)


def _after_segments(layer: int, query: Tensor, key: Tensor, value: Tensor, dropout: float,
            reading: Reading, softcap: float | None, s_aux: Tensor | None) -> Tensor:
    """Attention output (N, H, T, D) of scaled queries over the segments, which are not copied, and
    their own row.
    """
    pairs = [(held[0], held[1]) for held in (segment.kv[layer] for segment in reading.past)]
    scores = [_capped(_spread(query, keys, reading), softcap).masked_fill(
        _hidden(number, reading), -torch.inf)
        for number, (keys, _) in enumerate(pairs)]
    if reading.buffer is None:
        hidden = _later(reading.mask)
    else:
        key, value = (x[:, :, :reading.seen] for x in reading.buffer.write(layer, key, value))
        after = torch.arange(reading.seen, device=key.device) > reading.buffer.at[:, None]
        hidden = after[:, None, None]
    own_scores = _capped(_products(query, key), softcap).masked_fill(hidden, -torch.inf)
    weight = _weights([*scores, own_scores], s_aux).to(value.dtype)
    weight = F.dropout(weight, dropout, dropout > 0)
    shares = weight.split([x.shape[-1] for x in (*scores, own_scores)], -1)
    found = _mixture(shares[-1], value)
    for share, (_, values) in zip(shares, pairs, strict=False):
        found = found + _spread(share, values, reading, mix=True)
    return found


def _capped(scores: Tensor, cap: float | None) -> Tensor:
    return scores if cap is None else cap * (scores / cap).tanh()


def _weights(scores: list[Tensor], sink: Tensor | None) -> Tensor:
    """(N, H, T, S): softmax over all scores and those of an attention sink (H,), if any."""
    if sink is None:
        return at_least_float32(torch.cat(scores, -1)).softmax(-1)
    lost = sink[:, None, None].to(scores[0]).expand(*scores[0].shape[:3], 1)
    return at_least_float32(torch.cat([*scores, lost], -1)).softmax(-1)[..., :-1]


def _products(query: Tensor, key: Tensor) -> Tensor:
    """(N, H, T, S): scores of queries (N, H, T, D) with keys (N, heads, S, D), H a multiple."""
    heads = key.shape[1]
    grouped = query.unflatten(1, (heads, -1)).flatten(2, 3) @ key.transpose(2, 3)
    return grouped.unflatten(2, (-1, query.shape[2])).flatten(1, 2)


def _mixture(weight: Tensor, value: Tensor) -> Tensor:
    """(N, H, T, D): values (N, heads, S, D) mixed by weights (N, H, T, S)."""
    heads = value.shape[1]
    grouped = weight.unflatten(1, (heads, -1)).flatten(2, 3) @ value
    return grouped.unflatten(2, (-1, weight.shape[2])).flatten(1, 2)


def _spread(rows: Tensor, held: Tensor, reading: Reading, mix: bool = False) -> Tensor:
    """`_products` (of queries and keys) or `_mixture` (of weights and values) of rows (N, H, T, x)
    with what their R groups hold.

    The rows become (R, H, G T, x), so that the keys or values of a group are read once for its G
    rows.
    """
    held_rows, count = len(held), len(rows)
    if reading.places is not None:
        full = rows.new_zeros(held_rows * reading.grid, *rows.shape[1:])
        rows = full.index_copy(0, reading.places, rows)
    grouped = rows.unflatten(0, (held_rows, -1)).transpose(1, 2)
    found = (_mixture if mix else _products)(grouped.flatten(2, 3), held)
    found = found.unflatten(2, grouped.shape[2:4]).transpose(1, 2).flatten(0, 1)
    return found if len(found) == count and reading.places is None else found[reading.places]


def _hidden(number: int, reading: Reading) -> Tensor:
    """(N, 1, 1, S): True on tokens of a segment that its rows must not attend to."""
    rows = reading.of_rows(reading.past[number].mask)
    if number == 0 and reading.upto is not None:
        rows = rows & (torch.arange(rows.shape[1], device=rows.device) <= reading.upto[:, None])
    return ~rows[:, None, None]


def _later(mask: Tensor) -> Tensor:
    """(N, 1, T, T): True on padding and on later tokens; every token sees itself."""
    width = mask.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
    own = torch.eye(width, dtype=torch.bool, device=mask.device)
    return ~((causal & mask[:, None]) | own)[:, None]


def register() -> None:
    """Make `attend` known to transformers under NAME."""
    library().AttentionInterface.register(NAME, attend)
    library("transformers.masking_utils").AttentionMaskInterface.register(
        NAME, lambda *words, **more: None)


# --- rows of different lengths without their gaps -------------------------------------------------

def real_tokens(mask: Tensor) -> Tensor | None:
    """(M,): the indices among N x T of the tokens that are no padding by a mask (N, T); None where
    packing them would gain nothing.
    """
    found = mask.flatten().nonzero()[:, 0]
    return found if 0 < len(found) < FULL * mask.numel() else None


def packed(rows: Tensor, real: Tensor) -> Tensor:
    """(1, M, ...): the real tokens of rows (N, T, ...)."""
    return rows.flatten(0, 1)[real][None]


def unpacked(tokens: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """The opposite of `packed`: rows (N, T, ...) of tokens (1, M, ...), 0 on padding."""
    rows = tokens.new_zeros(mask.numel(), *tokens.shape[2:])
    return rows.index_copy(0, real, tokens[0]).unflatten(0, mask.shape)
