"""Keys and values that were read: what many rows have in common exists once.

A row of tokens may stand behind segments that it shares with others: eight samples behind one
question, four options behind one sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Segment:
    """R rows of S tokens, as later rows see them.

    kv holds keys and values (R, heads, S, D) of each layer; mask (R, S) is False on padding;
    length (R,) counts the real tokens up to here, those of the segments before included.
    """

    mask: Tensor
    length: Tensor
    kv: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def select(self, rows: Tensor) -> Segment:
        """Some rows (r,) by index."""
        return Segment(self.mask[rows], self.length[rows],
                       {layer: (k[rows], v[rows]) for layer, (k, v) in self.kv.items()})

    def first(self, rows: slice, width: int) -> Segment:
        """The first `width` tokens of some rows, none of which is padding."""
        mask = self.mask[rows, :width]
        return Segment(mask, mask.sum(1), {layer: (k[rows, :, :width], v[rows, :, :width])
                                           for layer, (k, v) in self.kv.items()})

    def longer(self, more: Segment) -> Segment:
        """One segment of two, the second of which was read behind this one."""
        kv = {layer: (torch.cat([key, more.kv[layer][0]], 2),
                      torch.cat([value, more.kv[layer][1]], 2))
              for layer, (key, value) in self.kv.items()}
        return Segment(torch.cat([self.mask, more.mask], 1), more.length, kv)

    @staticmethod
    def joined(segments: list[Segment]) -> Segment:
        """The rows of all, the narrower ones padded on the left."""
        width = max(segment.mask.shape[1] for segment in segments)

        def together(parts: list[Tensor], dim: int) -> Tensor:
            wide = [torch.nn.functional.pad(x, (*(0, 0) * (x.dim() - 1 - dim),
                                                width - x.shape[dim], 0)) for x in parts]
            return torch.cat(wide) if len(wide) > 1 else wide[0]

        kv = {layer: (together([one.kv[layer][0] for one in segments], 2),
                      together([one.kv[layer][1] for one in segments], 2))
              for layer in segments[0].kv}
        return Segment(together([one.mask for one in segments], 1),
                       torch.cat([one.length for one in segments]), kv)


@dataclass
class Buffer:
    """Room for the tokens that N rows write one by one: at (N,) is how many each has.

    Keys and values (N, heads, L, D) of each layer come with the first token.
    """

    room: int
    at: Tensor
    kv: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (N, heads, 1, D) behind those of each row; all of them so far."""
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

    def join(self, other: Buffer) -> Buffer:
        """The rows of both; one of them may have nothing written yet."""
        kv = {}
        for layer in {*self.kv, *other.kv}:
            some = (self.kv.get(layer) or other.kv[layer])[0]
            empty = tuple(some.new_zeros(len(x.at), *some.shape[1:]) for x in (self, other))
            pairs = [x.kv.get(layer, (none, none)) for x, none in zip((self, other), empty,
                                                                      strict=True)]
            kv[layer] = tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))
        return Buffer(self.room, torch.cat([self.at, other.at]), kv)


def read_at_once(device: torch.device) -> int:
    """So many tokens are read at once where no gradient is wanted: large products are fast ones."""
    return 8192 if device.type == "cpu" else 16_384
