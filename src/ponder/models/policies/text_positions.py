"""A language model of Hugging Face that thinks behind the places of a passage, behind all of them
at once, in words that were added to its vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from ponder.core.types import Problems
from ponder.models.backbone import Backbone
from ponder.models.huggingface.model import Model
from ponder.models.policies.positions import PassageThinker
from ponder.models.policies.question import Rules
from ponder.models.policies.text_next_token import TextReader, foreseen
from ponder.tokenizers.vocabulary import ThinkingVocabulary


class TextPassageThinker(PassageThinker):
    """`PassageThinker` with a model of Hugging Face: keys and values of a passage are a segment,
    of which each branch sees the tokens up to its place.
    """

    has_modes = True

    def __init__(self, net: Model, vocabulary: ThinkingVocabulary, rules: Rules, ahead: int,
                 mixes: bool, reference: TextReader | None = None) -> None:
        super().__init__(net, vocabulary, rules, ahead, mixes, reference)  # type: ignore[arg-type]
        if self.mixer is not None:
            self.mixer.to(net.dtype)

    @property
    def net(self) -> Model:
        return self.thinker  # type: ignore[return-value]

    @property
    def ordinary(self) -> slice:
        """Ids of the words of a text."""
        return slice(0, self.vocabulary.end)

    def told(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        loss, likeliest = self.net.predict(hidden, tokens, self.ordinary)
        return -loss, likeliest

    def foresee(self, problems: Problems, net: Backbone | None = None,
                ) -> tuple[Tensor, Tensor]:
        return foreseen(self.net, problems, self.ordinary)
