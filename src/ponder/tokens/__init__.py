"""The vocabulary: ordinary tokens, special ones, and thoughts appended behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ponder.spelling import END, PAD


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: 0 padding, then the ordinary words, then `</think>` and the thought tokens.

    End-of-thought and the thoughts lie next to each other, so the tokens that a thinker may sample
    are one slice of the output layer: `allowed(stops)`.
    """

    ordinary: tuple[str, ...]
    thoughts: int

    @property
    def words(self) -> list[str]:
        """Every token as text, in the order of its id."""
        return [PAD, *self.ordinary, END, *(f"<t{i}>" for i in range(self.thoughts))]

    @property
    def pad(self) -> int:
        return 0

    @property
    def end(self) -> int:
        """Id of end-of-thought."""
        return len(self.ordinary) + 1

    @property
    def first_thought(self) -> int:
        return self.end + 1

    def __len__(self) -> int:
        return len(self.ordinary) + 2 + self.thoughts

    def allowed(self, stops: bool) -> slice:
        """Ids a thinker may sample: the thoughts, and end-of-thought if it stops by itself."""
        return slice(self.end if stops else self.first_thought, len(self))

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding."""
        words = self.words
        return "".join(words[token] for token in tokens if token != self.pad)


class TextVocabulary:
    """The words of a Hugging Face tokenizer: a thinker writes text, and ends it by end-of-sequence.

    Padding is a number behind all words, so that no text holds it. chat says whether prompts go
    through the tokenizer's chat template, where it has one.
    """

    def __init__(self, tokenizer: Any, chat: bool = True) -> None:
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        self.pad: int = len(tokenizer)
        self.chat = chat and tokenizer.chat_template is not None

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def end_of_text(self) -> int:
        """Id of what stands behind every document."""
        return self.tokenizer.eos_token_id

    @cached_property
    def sizes(self) -> Tensor:
        """(V + 1,): bytes of text that each token stands for, and 0 for padding."""
        words = self.tokenizer.batch_decode([[token] for token in range(len(self))])
        return torch.tensor([*(len(word.encode()) for word in words), 0])

    def allowed(self, stops: bool) -> slice:
        """Ids a thinker may write: all of them."""
        return slice(0, len(self))

    def encode(self, text: str) -> list[int]:
        """Text as tokens, none added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, turns: list[tuple[str, str]]) -> list[int]:
        """Tokens of a dialogue of (role, text) turns up to where the assistant writes.

        Without a chat template the texts stand below each other.
        """
        if self.chat:
            messages = [{"role": role, "content": text} for role, text in turns]
            return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True,
                                                           tokenize=True, return_dict=False))
        text = "\n".join(text for _, text in turns) + "\n"
        start = self.tokenizer.bos_token_id
        return ([start] if start not in (None, self.end) else []) + self.encode(text)

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding and special tokens."""
        return self.tokenizer.decode([token for token in tokens if token != self.pad],
                                     skip_special_tokens=True)


class ThinkingVocabulary(TextVocabulary):
    """The words of a tokenizer, and behind them `</think>` and the thought tokens of a model that
    thinks between its words. The tokenizer has them as its added words `<t0>`, `<t1>`, ...
    """

    def __init__(self, tokenizer: Any, thoughts: int) -> None:
        super().__init__(tokenizer, chat=False)
        self.end = len(tokenizer) - thoughts - 1

    @property
    def first_thought(self) -> int:
        return self.end + 1

    def allowed(self, stops: bool) -> slice:
        """Ids a thought may be made of, as of `Vocabulary`."""
        return slice(self.end if stops else self.first_thought, len(self))

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding; thoughts are numbered from 0, as everywhere."""
        said = []
        for ordinary, run in groupby(tokens, lambda token: token < self.end):
            if ordinary:
                said.append(super().text(list(run)))
            else:
                said += [END if token == self.end else f"<t{token - self.first_thought}>"
                         for token in run if token != self.pad]
        return "".join(said)
