"""What can be asked of a checkpoint, and the language models among them, which go on with a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ponder.config.errors import UserError
from ponder.config.generation import GenerateConfig
from ponder.core.math import Sampling
from ponder.generation.beams import Search, beam_search
from ponder.generation.contexts import OwnWindow, TextWindow, Window
from ponder.generation.draws import Step, collected, draws
from ponder.generation.language import Text
from ponder.generation.spelled import OPEN, Spelt
from ponder.models.huggingface.model import Model
from ponder.tokenizers.pieces import UNKNOWN, Characters, PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary

Token = tuple[int, float]  # and its log-probability
Turn = tuple[str, str]  # role and text


def sampling_of(config: GenerateConfig) -> Sampling:
    return Sampling(config.temperature, config.top_k, config.top_p)


def search_of(config: GenerateConfig) -> Search:
    return Search(config.beams, config.length_penalty, config.stopping)


class Speaker:
    """What can be asked of a checkpoint. talks says whether it hears what was said before, turns
    whether it tells a user's words from its own.
    """

    talks = True
    turns = False
    limit: int  # of the tokens that it sees at once
    positions = "positions of the model"  # what is limited

    def prompt(self, text: str) -> list[int]:
        """A prompt as tokens. Raises `UserError` where it has none, or too many."""
        raise NotImplementedError

    def decode(self, tokens: list[int]) -> str:
        raise NotImplementedError

    def spelling(self, prompt: list[int]) -> Spelt:
        """How what is written behind a prompt becomes text; a chat template may have opened a
        thought already.
        """
        thinking = self.decode(prompt[-8:]).rstrip().endswith(OPEN)
        return Spelt(self.decode, thinking, self.apart, self.beside)

    def beside(self, number: int) -> str:
        """A remark about the n-th token of the last text, or nothing."""
        return ""

    def apart(self, token: int) -> bool:
        """Whether a token is no part of the text around it: a thought among its words."""
        return False

    def counted(self, tokens: list[int]) -> list[int]:
        """Those of a text's tokens that log p counts, and that a talk goes on from; the others are
        of thoughts that are no part of it.
        """
        return tokens

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        """One text, token by token."""
        raise NotImplementedError

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Text]:
        """`config.samples` texts."""
        raise NotImplementedError

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Text]:
        """Those of a beam search, the best first."""
        raise NotImplementedError

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that say a text is whole."""
        return ()

    @property
    def slid(self) -> bool:
        """Whether the last text outgrew the positions."""
        return False


class Continuer(Speaker):
    """Goes on with a text: a window, how a prompt becomes tokens, and tokens a text."""

    def __init__(self, window: Window) -> None:
        self.window, self.limit = window, window.limit

    @property
    def ends(self) -> tuple[int, ...]:
        return self.window.ends

    @property
    def slid(self) -> bool:
        return self.window.slid > 0

    def encode(self, text: str) -> list[int]:
        """Text as tokens, none added. Raises `UserError` for signs that have none."""
        raise NotImplementedError

    def fitting(self, text: str, tokens: list[int]) -> list[int]:
        """The tokens of a text. Raises `UserError` where they are more than positions."""
        if len(tokens) > self.limit:
            shown = text[:40].replace("\n", "\\n") + "..." * (len(text) > 40)
            raise UserError(f"prompt={shown}: found {len(tokens)} tokens; legal: at "
                            f"most {self.limit}, the {self.positions}")
        return tokens

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        for _, token, logprob in self._draws(prompt, config, 1, random):
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Text]:
        steps = self._draws(prompt, config, config.samples, random)
        return collected(steps, config.samples, self.ends)

    def _draws(self, prompt: list[int], config: GenerateConfig, samples: int,
               random: torch.Generator) -> Iterator[Step]:
        return draws(self.window, prompt, sampling_of(config), samples, config.tokens, random)

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Text]:
        return beam_search(self.window, prompt, search_of(config), config.tokens)


class Narrator(Continuer):
    """A GPT-2 of ours on text."""

    def __init__(self, window: OwnWindow, vocabulary: PieceVocabulary) -> None:
        super().__init__(window)
        self.vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        pieces = self.vocabulary.pieces
        if isinstance(pieces, Characters):
            unknown = set(text) - (set(pieces.names) - {UNKNOWN})
            if unknown:
                sign = min(unknown, key=text.index)
                raise UserError(f"prompt: found {sign!r}, which the model has never read; legal: "
                                f"{''.join(pieces.names).replace(UNKNOWN, '')!r}")
        return self.vocabulary.encode(text)

    def prompt(self, text: str) -> list[int]:
        """An empty prompt is the end of the text before."""
        return self.fitting(text, self.encode(text) or [self.vocabulary.end_of_text])

    def decode(self, tokens: list[int]) -> str:
        return self.vocabulary.text(tokens)

    def apart(self, token: int) -> bool:
        return token >= self.vocabulary.end


class Foreigner(Continuer):
    """A language model of Hugging Face; a prompt is a user's turn where there is a template."""

    def __init__(self, window: TextWindow, vocabulary: TextVocabulary) -> None:
        super().__init__(window)
        self.vocabulary, self.turns = vocabulary, vocabulary.chat

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def prompt(self, text: str) -> list[int]:
        if self.turns:
            return self.fitting(text, self.dialogue([("user", text)]))
        return self.fitting(text, self.vocabulary.opening(text))

    def dialogue(self, turns: list[Turn]) -> list[int]:
        """Tokens of a dialogue up to where the model writes."""
        return self.vocabulary.prompt(turns)

    def decode(self, tokens: list[int]) -> str:
        return self.vocabulary.text(tokens)


def ends_of(net: Model, vocabulary: TextVocabulary) -> tuple[int, ...]:
    """The tokens that end a text of a model of Hugging Face."""
    settings: Any = getattr(net.network, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    known = named if isinstance(named, list) else [named]
    return tuple(sorted({end for end in (vocabulary.end_of_text, *known) if end is not None}))
