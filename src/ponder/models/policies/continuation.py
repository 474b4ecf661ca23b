"""A language model that continues texts: what it thinks is the text itself, and nothing is asked
behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.math import Sampling, at_least_float32, left_justify
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import Backbone
from ponder.models.policies.question import Policy
from ponder.tokenizers.pieces import PieceVocabulary

LOGITS_AT_ONCE = 2**24  # that are there at the same time


class Author(Policy):
    """Writes the tokens of a text, and thought tokens among them where `rules.writes` is both.

    A row ends with end-of-text. The answer is empty: its likelihood is 1, and it costs nothing.
    """

    vocabulary: PieceVocabulary

    @property
    def end(self) -> int:
        return self.vocabulary.end_of_text

    @property
    def allowed(self) -> slice:
        return self.vocabulary.written(self.rules.stops, self.rules.writes == "both")

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(0 (B,), True (B,)): of an empty answer nothing is unlikely and nothing wrong."""
        nothing = torch.zeros(len(thought), dtype=self.thinker.head.dtype, device=thought.device)
        return nothing, nothing == 0

    def ordinary(self, thought: Tensor) -> Tensor:
        """(...,): whether a token of thoughts (...,) is one of a text: a piece or its end."""
        return (thought > self.vocabulary.pad) & (thought < self.vocabulary.end)

    def distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        r"""Entropy and KL to the reference, each summed over the tokens of a row (B,), in nats.

        .. math:: \sum_t \sum_v p(v \mid y_{<t}) \log \frac{p(v \mid y_{<t})}{q(v \mid y_{<t})}

        Its mean over rows is that of whole continuations, with less noise than log p/q of what was
        written has.
        """
        _, entropy, full = self.think(rollouts, Sampling())
        found = {"entropy": entropy.sum(1)}
        if self.reference is not None:
            other = self.think(rollouts, Sampling(), self.reference)[2]
            kl = (full.exp() * (full - other)).sum(-1)
            found["kl"] = (kl * rollouts.mask[:, :-1]).sum(1)
        return found

    @torch.no_grad()
    def plausible(self, rollouts: Rollouts) -> Tensor:
        """(B, K): log p of each ordinary token that was decided on, in nats, as this model finds it
        behind the question and the ordinary tokens before it; 0 for thought tokens and padding.

        Thought tokens are cut out before anything is read, so it never sees one.
        """
        each = rollouts.samples * rollouts.thought.shape[1] * self.vocabulary.end
        at_once = max(1, LOGITS_AT_ONCE // each)
        every = torch.arange(len(rollouts.problems), device=rollouts.thought.device)
        return torch.cat([self._plausible(rollouts[part]) for part in every.split(at_once)])

    def _plausible(self, rollouts: Rollouts) -> Tensor:
        thought, problems = rollouts.thought[:, :-1], rollouts.problems
        ordinary = self.ordinary(thought)
        text = left_justify(thought.masked_fill(~ordinary, problems.pad), problems.pad)
        logits = self._before_each(
            self.thinker, problems, torch.nn.functional.pad(text, (0, 1), value=problems.pad),
            rollouts.samples,
            lambda hidden: self.thinker.logits(hidden, slice(0, self.vocabulary.end)))
        found = at_least_float32(logits).log_softmax(-1).gather(-1, text[..., None])[..., 0]
        place = (ordinary.cumsum(1) - 1).clamp_min(0)  # of a token among the ordinary ones
        return found.gather(1, place) * ordinary
