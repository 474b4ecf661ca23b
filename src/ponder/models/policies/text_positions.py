"""A language model of Hugging Face that thinks behind the places of a passage, behind all of them
at once, in words that were added to its vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.types import Problems
from ponder.models.gpt2.model import Transformer
from ponder.models.huggingface.attention import Reading
from ponder.models.huggingface.model import TextModel
from ponder.models.huggingface.segments import Segment
from ponder.models.policies.positions import PassageThinker
from ponder.models.policies.question import Rules
from ponder.models.policies.text_next_token import TextReader, foreseen
from ponder.tokenizers.vocabulary import ThinkingVocabulary


class TextPassageThinker(PassageThinker):
    """`PassageThinker` with a model of Hugging Face: keys and values of a passage are a segment,
    of which each branch sees the tokens up to its place.
    """

    has_modes = True

    def __init__(self, net: TextModel, vocabulary: ThinkingVocabulary, rules: Rules, ahead: int,
                 mixes: bool, reference: TextReader | None = None) -> None:
        super().__init__(net, vocabulary, rules, ahead, mixes, reference)  # type: ignore[arg-type]
        if self.mixer is not None:
            self.mixer.to(net.dtype)

    @property
    def net(self) -> TextModel:
        return self.thinker  # type: ignore[return-value]

    @property
    def ordinary(self) -> slice:
        """Ids of the words of a text."""
        return slice(0, self.vocabulary.end)

    @property
    def width(self) -> int:
        return self.net.width

    def read(self, problems: Problems) -> tuple[Tensor, Segment]:  # type: ignore[override]
        return self.net.read(problems.question)

    def branch(self, tokens: Tensor, past: Segment, at: Tensor,  # type: ignore[override]
               own: Segment | None = None) -> tuple[Tensor, Segment]:
        count, length = at.numel(), tokens.shape[2]
        before = at.flatten() + 1 + (0 if own is None else own.mask.shape[1])
        mask = torch.ones(count, length, dtype=torch.bool, device=at.device)
        segment = Segment(mask, before + length)
        reading = Reading([past] if own is None else [past, own], mask, segment, upto=at.flatten())
        positions = before[:, None] + torch.arange(length, device=at.device)
        words = tokens.masked_fill(tokens == self.vocabulary.pad, 0)  # nothing sees behind an end
        states = self.net.run(words.flatten(0, 1), positions, reading)
        return states.unflatten(0, at.shape), segment if own is None else own.longer(segment)

    def some(self, past: Segment, passages: slice, width: int,  # type: ignore[override]
             ) -> Segment:
        return past.first(passages, width)

    def told(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        loss, likeliest = self.net.foresee(hidden.flatten(0, -2), tokens.flatten(), self.ordinary)
        return -loss.view(tokens.shape), likeliest.view(tokens.shape)

    def foresee(self, problems: Problems, net: Transformer | None = None,
                ) -> tuple[Tensor, Tensor]:
        return foreseen(self.net, problems, self.ordinary)
