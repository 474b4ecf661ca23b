"""A policy that continues texts: what it writes is the text itself; there is no separate answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ponder.core.math import at_least_float32, entropy, left_justify, precise
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import CHUNK, Backbone
from ponder.models.policies.base import Policy
from ponder.tokenizers.pieces import PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary


class ContinuationPolicy(Policy):
    """Writes the tokens of a text, and thought tokens among them where `rules.writes` is both.

    A row ends with end-of-text, which may not be chosen where its length is fixed. The answer is
    empty: its log p is 0.
    """

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

        Its mean over rows estimates the KL of whole continuations, with less variance than log p/q
        of the tokens that were written.
        """
        parts = [self._distances(part) for part in self._parts(rollouts)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        problems, thought, samples = rollouts.problems, rollouts.thought, rollouts.samples
        real = rollouts.mask[:, :-1]
        own = self._before_each(self.thinker, problems, thought, samples)[real].split(CHUNK)
        if not self.has_reference:
            values = [entropy(self._all_logprobs(self.thinker, some)) for some in own]
            return {"entropy": self._by_row(values, real)}
        with self.as_reference() as net:
            other = self._before_each(net, problems, thought, samples)[real].split(CHUNK)
        pairs = [self._entropy_and_kl(*pair) for pair in zip(own, other, strict=True)]
        return {name: self._by_row(values, real) for name, values in zip(
            ("entropy", "kl"), zip(*pairs, strict=True), strict=True)}

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
    def _by_row(chunks: Sequence[Tensor], real: Tensor) -> Tensor:
        """(B,): sums of the values of the M tokens that a mask (B, K) marks; they are in chunks."""
        values = torch.cat(list(chunks))
        found = torch.zeros(real.shape, dtype=values.dtype, device=values.device)
        found[real] = values
        return found.sum(1)

    # --- as a reference that judges texts -------------------------------------------------------

    @torch.no_grad()
    def plausible(self, rollouts: Rollouts) -> Tensor:
        """(B, K): log p, by this model, of each ordinary token after the question and the ordinary
        tokens before it, in nats; 0 for thought tokens and padding.

        Thought tokens are removed before anything is read. This model's id of padding may differ
        from that of the rollouts.
        """
        return self._in_turn("judging texts", self._parts(rollouts, True), len(rollouts),
                             self._plausible)

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
