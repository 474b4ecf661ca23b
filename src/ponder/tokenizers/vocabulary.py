"""Vocabularies: ordinary, special and thought tokens, and how they are written as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ponder.config.errors import UserError, must_be_text
from ponder.config.players import TODAY
from ponder.core.lazy_imports import Tensor, torch

PAD, END, END_OF_TEXT = "<pad>", "</think>", "<end>"
TORN = "\ufffd"  # decoded bytes of an incomplete character
ANCHORS = ("a", ":", "1")  # texts that a text which continues one is encoded behind
_WORD, _THOUGHT = re.compile(r"</?\w+>|[^<]|<", re.DOTALL), re.compile(r"<t(\d+)>")
_NOW = re.compile(r"strftime_now\(\s*([\"'])(.*?)\1\s*\)", re.DOTALL)  # today, in a chat template
COLOURS = {"ordinary": "blue", "thought": "cyan", "special": "magenta"}


def place(power: int) -> str:
    """The name of a decimal place: units, tens, hundreds, thousands, 10^4, ..."""
    names = ("units", "tens", "hundreds", "thousands")
    return names[power] if power < len(names) else f"10^{power}"


def pieces(text: str) -> list[tuple[str, str]]:
    """(token, kind) of every token of a text; kind is ordinary, thought or special."""
    def kind(word: str) -> str:
        if word in (PAD, END, END_OF_TEXT):
            return "special"
        return "thought" if _THOUGHT.fullmatch(word) else "ordinary"

    return [(word, kind(word)) for word in _WORD.findall(text)]


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: 0 padding, then the ordinary words, then `</think>` and the thought tokens.

    End-of-thought and the thoughts are neighbours, so the tokens that a thinker may sample are one
    slice of the output layer: `allowed(stops)`.
    """

    ordinary: tuple[str, ...]
    thoughts: int
    separator: str = ""  # between ordinary words in a text

    @property
    def words(self) -> list[str]:
        """Every token as text, in the order of its id."""
        return [PAD, *self.ordinary, END, *(f"<t{i}>" for i in range(self.thoughts))]

    @property
    def pad(self) -> int:
        return 0

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a thought."""
        return (self.end,)

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

    @property
    def predicted(self) -> slice:
        """Ids among which answers and next tokens are predicted: no thoughts, and not their end."""
        return slice(0, self.end)

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding."""
        words = self.words
        return self.separator.join(words[token] for token in tokens if token != self.pad)


def token_ids(tokenizer: Any) -> int:
    """One more than the largest id. There may be fewer tokens: ids of pruned ones are left out."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def plain_words(tokenizer: Any) -> int:
    """Tokens of a Hugging Face tokenizer that are not thought tokens; these come last."""
    return tokenizer.get_added_vocab().get("<t0>", token_ids(tokenizer))


def dated(template: str, date: str) -> str:
    """A chat template that writes another date than today's, so that prompts stay the same."""
    day = datetime.fromisoformat(date)
    return _NOW.sub(lambda call: json.dumps(day.strftime(call[2])), template)


class TextVocabulary:
    """The tokens of a Hugging Face tokenizer, and all that ends a text.

    A text ends with any of the tokens `ends`: those of the model's settings for generation, and the
    tokenizer's end-of-sequence. `end`, the first, follows texts that are given; where prompts
    use a chat template it is the one that ends an assistant's turn there. A text also ends before
    any of the strings `stops`, which a base model writes instead of an end.

    Padding is an id above all tokens, so that no text contains it. chat: whether prompts use the
    tokenizer's chat template, if it has one. plain: how many tokens there are before the thought
    tokens `<t0>`, `<t1>`, ... closes: whether the first of these is end-of-thought.
    """

    def __init__(self, tokenizer: Any, chat: bool = True, closes: bool = False,
                 ends: Sequence[int] = (), stops: Sequence[str] = (), date: str = TODAY) -> None:
        self.tokenizer = tokenizer
        self.pad = token_ids(tokenizer)
        self.chat = chat and tokenizer.chat_template is not None
        self.date = date
        self._template = dated(tokenizer.get_chat_template(), date) if self.chat else None
        self.ends = self._ordered([tokenizer.eos_token_id, *ends])
        self.end: Any = next(iter(self.ends), None)
        self.stops = tuple(stops)
        self.plain = plain_words(tokenizer)
        self.closes = closes and self.thoughts > 0

    def __len__(self) -> int:
        return self.pad

    def _ordered(self, ends: Sequence[int | None]) -> tuple[int, ...]:
        """The ids that end a text, each once, that of an assistant's turn first."""
        known = list(dict.fromkeys(end for end in ends if end is not None and end < len(self)))
        if self.chat and len(known) > 1:
            asked, reply = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
            start, whole = (self._dialogue(turns, len(turns) == 1)
                            for turns in ([asked], [asked, reply]))
            turn = [token for token in whole[len(start):] if token in known][:1]
            known = [*turn, *(end for end in known if end not in turn)]
        return tuple(known)

    def stopped_by(self, stops: Sequence[str]) -> TextVocabulary:
        """The same tokens; a text ends before these strings, too."""
        return TextVocabulary(self.tokenizer, self.chat, self.closes, self.ends, stops, self.date)

    @property
    def end_of_text(self) -> int:
        """Id of the token that follows every document."""
        return self.end if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id

    @property
    def text_ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a text."""
        return self.ends

    @cached_property
    def stop_tokens(self) -> Tensor:
        """(V + 1,): True for tokens that may complete one of `stops`: those with its last
        character, and bytes of a character.
        """
        last = {*(stop[-1] for stop in self.stops), TORN}
        return torch.tensor([*(not last.isdisjoint(word) for word in self._words), False])

    def stopped(self, tokens: list[int]) -> bool:
        """Whether a text has one of `stops` in it."""
        said = self.tokenizer.decode([token for token in tokens if token != self.pad],
                                     skip_special_tokens=True)
        return any(stop in said for stop in self.stops)

    def truncated(self, tokens: list[int], room: int) -> bool:
        """Whether a text with room for so many tokens was cut there: nothing has ended it."""
        own = tokens[:room]
        return self.pad not in own and not set(self.ends) & set(own) and not self.stopped(own)

    def ended_by(self, tokens: list[int], room: int) -> str:
        """What ended a text with room for so many tokens: an end token or one of `stops`; "" where
        it was cut.
        """
        end = next((token for token in tokens[:room] if token in self.text_ends), None)
        if end is not None:
            return self.tokenizer.convert_ids_to_tokens(end)
        said = self.tokenizer.decode([token for token in tokens if token != self.pad],
                                     skip_special_tokens=True)
        return min((stop for stop in self.stops if stop in said), key=said.find, default="")

    @property
    def thoughts(self) -> int:
        """How many thought tokens there are, end-of-thought included."""
        return len(self) - self.plain

    @cached_property
    def _words(self) -> list[str]:
        """Every token as text, decoded alone."""
        return self.tokenizer.batch_decode([[token] for token in range(len(self))])

    def allowed(self, stops: bool) -> slice:
        """Ids a thinker may write: all of them."""
        return slice(0, len(self))

    def is_thought(self, token: int) -> bool:
        """Whether a token is a thought token, or the end of a thought."""
        return token >= self.plain

    def unknown(self, text: str) -> str:
        """As of `PieceVocabulary`; always "", as every byte has a token."""
        return ""

    @property
    def characters(self) -> str:
        """As of `PieceVocabulary`; "" here, as there is no limit."""
        return ""

    @property
    def first_thought(self) -> int:
        """Id of the first thought token; the one that ends a thought precedes it."""
        return self.plain + int(self.closes)

    @property
    def predicted(self) -> slice:
        """Ids among which next tokens are predicted: all but thought tokens."""
        return slice(0, self.plain)

    def written(self, stops: bool, thoughts: bool) -> slice:
        """Ids that may continue a text: the plain tokens, and the thought tokens if `thoughts`.
        Where the text may not end, the model bars its last token (`huggingface.Model.barred`).
        """
        return slice(0, len(self) if thoughts else self.plain)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens. Raises `UserError` for half a character."""
        must_be_text("text", text)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def continuing(self, text: str) -> list[int]:
        """Token ids of a text that continues another: encoded behind an anchor, as a tokenizer may
        put a space before a text that begins.
        """
        for anchor in ANCHORS:
            before, whole = self.encode(anchor), self.encode(anchor + text)
            if whole[:len(before)] == before:  # no token joins the two
                return whole[len(before):]
        return self.encode(text)

    def continued(self, bridge: str, option: str) -> tuple[list[int], list[int]]:
        """Token ids of a bridge that continues a text, and of an option that follows it.

        Both are encoded together and split where the bridge alone would end; white space at its end
        goes with the option (`_encode_pair` of lm-evaluation-harness, Gao et al. 2021).
        """
        context, whole = self.continuing(bridge.rstrip()), self.continuing(bridge + option)
        return context, whole[len(context):] or self.continuing(option)

    def prompt(self, turns: list[tuple[str, str]], reply: str = "") -> list[int]:
        """Tokens of a dialogue of (role, text) turns and how the assistant's reply to it begins.
        Without a chat template the texts are joined by line breaks.
        """
        if self.chat:
            return self._dialogue([{"role": role, "content": text} for role, text in turns],
                                  reply=reply)
        return self._begun("\n".join(text for _, text in turns) + "\n" + reply)

    def _dialogue(self, messages: list[dict[str, str]], asks: bool = True,
                  reply: str = "") -> list[int]:
        """Tokens of messages in the chat template, and of the beginning of a reply if `asks`."""
        return self.encode(self.tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=asks, tokenize=False)
            + reply)

    def _begun(self, text: str) -> list[int]:
        """Tokens of a text with those that the tokenizer puts before it; none after it, for it
        goes on.
        """
        own, whole = self.encode(text), list(self.tokenizer(text)["input_ids"])
        starts = range(len(whole) - len(own) + 1)
        before = next((i for i in starts if whole[i:i + len(own)] == own), 0)
        return whole[:before] + own

    def opening(self, text: str) -> list[int]:
        """Tokens of a text, after those that the tokenizer puts before every text. Of an empty text
        at least the one that precedes documents; raises `UserError` where there is none.
        """
        start = self.tokenizer.bos_token_id
        found = self._begun(text) or [self.end_of_text if start is None else start]
        if found[0] is None:
            raise UserError("prompt: found an empty text, and a tokenizer without a token that "
                            "begins or ends texts; legal: a prompt")
        return found

    def packed_prompt(self, prompt: str) -> tuple[list[int], str]:
        """Ids of a prompt in a packed text, after the tokens that precede every text, and the text
        they decode to.
        """
        ids = self.opening(prompt)
        said = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return [2 + token for token in ids], said[max(len(said) - len(prompt), 0):]

    def unpacked(self, ids: Tensor) -> Tensor:
        """Ids of a packed text (pieces from 2 on, 1 is end-of-text) as ids of the tokenizer."""
        return (ids - 2).where(ids != 1, self.end_of_text)

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, up to where it ends, without padding and special tokens."""
        said = self.tokenizer.decode([token for token in tokens if token != self.pad],
                                     skip_special_tokens=True)
        for stop in self.stops:
            said = said.partition(stop)[0]
        return _THOUGHT.sub(self._renumbered, said) if self.closes else said

    @staticmethod
    def _renumbered(tag: re.Match[str]) -> str:
        """A thought token's text where `<t0>` ends a thought: the others count from 0 again."""
        number = int(tag.group(1))
        return f"<t{number - 1}>" if number else END

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the plain tokens; special and thought tokens are left out."""
        return self.tokenizer.decode([token for token in tokens if token < self.plain],
                                     skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def begun(self, tokens: Sequence[int]) -> str:
        """`decode`, without an incomplete character at the end."""
        return self.decode(tokens).rstrip(TORN)


class ThinkingVocabulary(TextVocabulary):
    """Of a model that thinks at positions of a text: thoughts consist of thought tokens and end
    with end-of-thought.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] = ()) -> None:
        """ends: ids that end a text, beside the tokenizer's end-of-sequence."""
        super().__init__(tokenizer, chat=False, closes=True, ends=ends)
        self._text_ends = self.ends
        self.end, self.ends = self.plain, (self.plain,)

    @property
    def text_ends(self) -> tuple[int, ...]:
        return self._text_ends

    def allowed(self, stops: bool) -> slice:
        """Ids a thought may be made of, as of `Vocabulary`."""
        return slice(self.end if stops else self.first_thought, len(self))
