"""Language models on text that think behind every place of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import torch

from ponder.config.generation import GenerateConfig
from ponder.core.math import GREEDY
from ponder.generation.draws import Step
from ponder.generation.language import Text
from ponder.generation.position_contexts import PlaceWindow, TextPlaceWindow, Thinking
from ponder.generation.speakers import Continuer, Foreigner, Narrator, Token, sampling_of
from ponder.tokenizers.pieces import PieceVocabulary
from ponder.tokenizers.vocabulary import ThinkingVocabulary


class Musing(Continuer):
    """Before each token there is a thought, drawn as the tokens are. Thoughts are told in front of
    the token that they were thought for, and are no part of the text: log p, score and length are
    those of the text's own tokens, each behind its thought.

    A beam search is one over the text's own tokens. Behind each beam stands its likeliest thought.
    """

    window: Thinking
    positions = "positions of the model that a thought leaves"

    def counted(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if not self.apart(token)]

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        for _, token, logprob in self._draws(prompt, config, 1, random):
            yield from ((word, 0.0) for word in self.window.thought)
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Text]:
        return [self._told(text, number)
                for number, text in enumerate(super().sample(prompt, config, random))]

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Text]:
        self.window.prepare(GREEDY)
        return [self._told(text) for text in super().search(prompt, config)]

    def _draws(self, prompt: list[int], config: GenerateConfig, samples: int,
               random: torch.Generator) -> Iterator[Step]:
        seed = int(torch.randint(2**62, (), generator=random))
        self.window.prepare(sampling_of(config), samples, seed)
        return super()._draws(prompt, config, samples, random)

    def _told(self, text: Text, number: int = 0) -> Text:
        """The n-th of the texts that were begun, with its thoughts."""
        thoughts = self.window.thoughts(text.tokens, number)
        told = zip(thoughts, text.tokens, strict=True)
        return replace(text, tokens=[*chain.from_iterable(
            [*thought, token] for thought, token in told)])


class Muser(Musing, Narrator):
    """A GPT-2 of ours."""

    def __init__(self, window: PlaceWindow, vocabulary: PieceVocabulary) -> None:
        super().__init__(window, vocabulary)


class ForeignMuser(Musing, Foreigner):
    """A model of Hugging Face, without its chat template."""

    def __init__(self, window: TextPlaceWindow, vocabulary: ThinkingVocabulary) -> None:
        super().__init__(window, vocabulary)

    def apart(self, token: int) -> bool:
        return token >= self.vocabulary.plain
