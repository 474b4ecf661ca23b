"""A policy that continues texts: what it writes is the text itself; there is no separate answer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ponder.core.math import at_least_float32, entropy, left_justify
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import CHUNK, Backbone
from ponder.models.policies.base import Policy, precise
from ponder.tokenizers.pieces import PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary

LOGITS_AT_ONCE = 2**24  # that are in memory at once, without gradients


class ContinuationPolicy(Policy):
    """Writes the tokens of a text, and thought tokens among them where `rules.writes` is both.

    A row ends with end-of-text, which may not be chosen where its length is fixed. The answer is
    empty: its likelihood is 1, and it costs nothing.
    """

    evaluation = "continuation"
    vocabulary: PieceVocabulary | TextVocabulary

    @property
    def end(self) -> int:
        return self.vocabulary.end_of_text

    @property
    def ends(self) -> tuple[int, ...]:
        return self.vocabulary.text_ends

    @property
    def allowed(self) -> slice:
        return self.vocabulary.written(self.rules.stops, self.rules.writes == "both")

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(0 (B,), True (B,)): the likelihood of an empty answer, which is never wrong."""
        nothing = torch.zeros(len(thought), dtype=precise(self.thinker.dtype),
                              device=thought.device)
        return nothing, nothing == 0

    def ordinary(self, thought: Tensor) -> Tensor:
        """(...,): whether tokens of thoughts (...,) belong to the text: no padding, no thoughts."""
        text = self.vocabulary.predicted
        return (thought != self.vocabulary.pad) & (thought < text.stop)

    # --- how far from the reference -------------------------------------------------------------

    @torch.no_grad()
    def distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        r"""Entropy and KL to the reference, each summed over the tokens of a row (B,), in nats.

        .. math:: \sum_t \sum_v p(v \mid y_{<t}) \log \frac{p(v \mid y_{<t})}{q(v \mid y_{<t})}

        Its mean over rows is that of whole continuations, with less noise than log p/q of what was
        written has.
        """
        parts = [self._distances(part) for part in self._parts(rollouts)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        problems, thought, samples = rollouts.problems, rollouts.thought, rollouts.samples
        real = rollouts.mask[:, :-1]
        own = self._before_each(self.thinker, problems, thought, samples)[real]
        if not self.has_reference:
            values = [entropy(self._all_logprobs(self.thinker, some)) for some in own.split(CHUNK)]
            return {"entropy": self._by_row(torch.cat(values), real)}
        with self.as_reference() as net:
            other = self._before_each(net, problems, thought, samples)[real]
        pairs = [self._entropy_and_kl(*pair) for pair in zip(
            own.split(CHUNK), other.split(CHUNK), strict=True)]
        values, kl = (torch.cat(column) for column in zip(*pairs, strict=True))
        return {"entropy": self._by_row(values, real), "kl": self._by_row(kl, real)}

    def _entropy_and_kl(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """(entropy (M,), KL (M,)) in nats, from states (M, D) of this model and of the reference.
        """
        full = self._all_logprobs(self.thinker, own)
        with self.as_reference() as net:
            rest = self._all_logprobs(net, other)
        kl = (full.exp() * (full - rest).masked_fill(full == -torch.inf, 0.0)).sum(-1)
        return entropy(full), kl

    def _all_logprobs(self, net: Backbone, states: Tensor) -> Tensor:
        """(M, V): of all that may be written, after states (M, D)."""
        return at_least_float32(net.logits(states, self.allowed)).log_softmax(-1)

    @staticmethod
    def _by_row(values: Tensor, real: Tensor) -> Tensor:
        """(B,): sums of the values (M,) of the tokens that a mask (B, K) marks."""
        found = torch.zeros(real.shape, dtype=values.dtype, device=values.device)
        found[real] = values
        return found.sum(1)

    # --- as a reference that judges texts -------------------------------------------------------

    @torch.no_grad()
    def plausible(self, rollouts: Rollouts) -> Tensor:
        """(B, K): log p of each ordinary token that was decided on, in nats, as this model finds it
        behind the question and the ordinary tokens before it; 0 for thought tokens and padding.

        Thought tokens are cut out before anything is read, so it never sees one. Its own padding
        may be another number than that of the rollouts.
        """
        return self._in_turn("judging", self._text_parts(rollouts), len(rollouts), self._plausible)

    def _text_parts(self, rollouts: Rollouts) -> Iterator[Rollouts]:
        """Parts of rollouts; all logits of a narrow vocabulary are in memory at once."""
        if self.thinker.chunked:
            yield from self._parts(rollouts)
            return
        each = rollouts.samples * rollouts.thought.shape[1] * self.vocabulary.predicted.stop
        every = torch.arange(len(rollouts.problems), device=rollouts.thought.device)
        for part in every.split(max(1, LOGITS_AT_ONCE // each)):
            yield rollouts[part]

    def _plausible(self, rollouts: Rollouts) -> Tensor:
        net, problems, pad = self.thinker, rollouts.problems, rollouts.problems.pad
        thought = rollouts.thought[:, :-1]
        ordinary = self.ordinary(thought) & (thought != pad)
        text = left_justify(thought.masked_fill(~ordinary, pad), pad)
        rows = torch.nn.functional.pad(text, (0, 1), value=pad)
        words = self.vocabulary.predicted
        if net.chunked:
            states = self._before_each(net, problems, rows, rollouts.samples)
            found = self._of_text(net, states, text, pad, words)
        else:
            logits = self._before_each(net, problems, rows, rollouts.samples,
                                       lambda hidden: net.logits(hidden, words))
            found = at_least_float32(logits).log_softmax(-1).gather(-1, text[..., None])[..., 0]
        place = (ordinary.cumsum(1) - 1).clamp_min(0)  # of a token among the ordinary ones
        return found.gather(1, place) * ordinary
