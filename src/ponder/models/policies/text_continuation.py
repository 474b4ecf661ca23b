"""A language model of Hugging Face that continues texts: what it thinks is the text itself, and
nothing is asked behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.math import Sampling, at_least_float32, left_justify
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import CHUNK
from ponder.models.huggingface.model import Model
from ponder.models.policies.thinker import TextThinker, precise


class TextAuthor(TextThinker):
    """Writes the tokens of a text, and thought tokens among them where its words hold any.

    A row ends with end-of-sequence, which may not be chosen where its length is fixed. The answer
    is empty: its likelihood is 1, and it costs nothing.
    """

    answers_in_text = False  # nobody learns an answer

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,  # type: ignore[override]
               net: Model | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(0 (B,), True (B,)): of an empty answer nothing is unlikely and nothing wrong."""
        nothing = torch.zeros(len(thought), device=thought.device)
        return nothing, nothing == 0

    def ordinary(self, thought: Tensor) -> Tensor:
        """(...,): whether a token of thoughts (...,) is one of a text: a word or its end."""
        return thought < self.vocabulary.plain

    @torch.no_grad()
    def plausible(self, rollouts: Rollouts) -> Tensor:
        """(B, K): log p of each ordinary token that was decided on, in nats, as this model finds it
        behind the question and the ordinary tokens before it; 0 for thought tokens and padding.

        Thought tokens are cut out before anything is read, so it never sees one. Its own padding
        may be another number than that of the rollouts.
        """
        return self._in_turn("judging", self._parts(rollouts), len(rollouts), self._plausible)

    def _plausible(self, rollouts: Rollouts) -> Tensor:
        thought, pad = rollouts.thought[:, :-1], rollouts.problems.pad
        ordinary = self.ordinary(thought)
        text = left_justify(thought.masked_fill(~ordinary, pad), pad)
        rows = torch.nn.functional.pad(text, (0, 1), value=pad)
        words = Rollouts(rollouts.problems, rollouts.samples, rows, ordinary, rollouts.logprobs,
                         learn=ordinary)
        found = self.think(words, Sampling())[0]
        place = (ordinary.cumsum(1) - 1).clamp_min(0)  # of a token among the ordinary ones
        return found.gather(1, place) * ordinary

    @torch.no_grad()
    def distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """As those of `Author`; the logits of some decisions at a time."""
        parts = [self._distances(part) for part in self._parts(rollouts)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _distances(self, rollouts: Rollouts) -> dict[str, Tensor]:
        own = self._states(self.net, rollouts)[0]
        found = {"entropy": self._decisions(self.net, rollouts, own, Sampling())[1].sum(1)}
        if self.leashed:
            with self._as_reference() as net:
                other = self._states(net, rollouts)[0]
            used = rollouts.mask[:, :-1][:, :own.shape[1]]
            kl = own.new_zeros(used.shape, dtype=precise(own))
            kl[used] = torch.cat([self._kl(*pair) for pair in zip(
                own[used].split(CHUNK), other[used].split(CHUNK), strict=True)]).to(kl.dtype)
            found["kl"] = kl.sum(1)
        return found

    def _kl(self, own: Tensor, other: Tensor) -> Tensor:
        """(M,): KL in nats between what states (M, D) of this model and of the reference foresee.
        """
        full = at_least_float32(self.net.logits(own)).log_softmax(-1)
        with self._as_reference() as net:
            rest = at_least_float32(net.logits(other)).log_softmax(-1)
        return (full.exp() * (full - rest).masked_fill(full == -torch.inf, 0.0)).sum(-1)
