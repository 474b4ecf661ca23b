r"""Beam search over any language.

The texts Y of at most `room` tokens that are worth most by

.. math:: s(Y) = \log p(Y | X) / |Y|^\alpha

with |Y| the tokens behind the prompt, the end token included. This is the search and the length
penalty of `generate` of transformers: same texts, same scores. It is not the penalty of Wu et al.
2016 (arXiv:1609.08144, equation 14), ((5 + |Y|) / 6)^alpha, nor do they end a search as here.
Left out: sampled and constrained beams, and groups of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ponder.generation.language import Language, Text


@dataclass(frozen=True)
class Search:
    """So many beams, the exponent alpha, and when a search ends.

    stopping is `early_stopping` of transformers: "first" (True) as soon as as many texts as beams
    have ended; "bound" (False) when besides the likeliest that goes on would be worth no more than
    the worst of these if it ended at its present length; "exact" ("never") when it would not at
    any length.
    """

    beams: int
    length_penalty: float = 1.0
    stopping: str = "bound"

    def score(self, logprob: float, length: int) -> float:
        return logprob / length ** self.length_penalty

    def settled(self, kept: list[Text], best: float, length: int, room: int) -> bool:
        """Whether nothing better is to come: kept are the ended texts, the best first; best is the
        log-probability of the likeliest of those that go on, which have `length` tokens.
        """
        if len(kept) < self.beams:
            return False
        if self.stopping == "first":
            return True
        longest = self.stopping == "exact" and self.length_penalty > 0
        return self.score(best, room if longest else length) <= (kept[-1].score or 0.0)


@torch.no_grad()
def beam_search(language: Language, prompt: list[int], search: Search, room: int) -> list[Text]:
    """Up to `search.beams` texts behind a prompt, the best first.

    Every step looks at the likeliest continuations of all beams, one for each beam and end token
    more than there are beams. Of the first `beams` of these the ended ones are kept; the first
    `beams` of those that go on are the next beams. At `room` tokens all end.
    """
    logprobs = language.begin(prompt)
    total = logprobs.new_zeros(1)
    tokens = torch.empty(1, 0, dtype=torch.long, device=logprobs.device)
    ends = torch.tensor(language.ends, dtype=torch.long, device=logprobs.device)
    width = search.beams * max(2, 1 + len(language.ends))
    kept: list[Text] = []
    for length in range(1, room + 1):
        row, token, value = _likeliest(total[:, None] + logprobs, width)
        tokens = torch.cat([tokens[row], token[:, None]], 1)
        closed = torch.isin(token, ends)
        over = closed | (length == room)
        for place in over[:search.beams].nonzero()[:, 0].tolist():
            logprob = float(value[place])
            kept.append(Text(tokens[place].tolist(), logprob, bool(closed[place]),
                             search.score(logprob, length)))
        kept = sorted(kept, key=lambda text: -(text.score or 0.0))[:search.beams]
        on = (~over).nonzero()[:search.beams, 0]
        if len(on) == 0 or search.settled(kept, float(value[on[0]]), length, room):
            break
        tokens, total = tokens[on], value[on]
        logprobs = language.append(row[on], token[on])
    return kept


def _likeliest(total: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(row, token, value), each (n,): the n <= count largest of (N, V), the largest first, without
    those of probability 0.
    """
    value, place = total.flatten().topk(min(count, total.numel()))
    possible = value > -torch.inf
    value, place = value[possible], place[possible]
    return place // total.shape[1], place % total.shape[1], value
