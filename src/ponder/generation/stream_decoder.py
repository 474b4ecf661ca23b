"""Turn tokens into text as they are generated, and render it: whole characters, whole tags,
thoughts told apart from the text around them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.console import Console
from rich.style import Style

from ponder.tokenizers.vocabulary import COLOURS, END, TORN, pieces

OPEN = "<think>"  # models that think in words do so between this tag and </think>
MAX_BYTES = 4  # of a character in UTF-8; each of its tokens has at least one of them
GIVE_UP = 12  # so many tokens without a whole character are shown as they are
FAINT = "dim"
_TAG = re.compile(r"(</?\w+>)")
_TAG_PREFIX = re.compile(r"<(/?\w{0,16})?$")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would steer a terminal


class Part(NamedTuple):
    """A piece of decoded text. kind is ordinary, thought or special, as in `vocabulary.pieces`, or
    number: an annotation of a thought.
    """

    text: str
    kind: str


class StreamDecoder:
    """Decodes one text whose tokens are added one by one.

    decode: turns tokens into text.
    thinking: whether the text begins inside a thought.
    separate: says of a token that it is decoded by itself, and that the text around it is decoded
        as if it were not there: a thought token among the bytes of a word.
    annotation: what is shown in parentheses after the n-th token, or "".
    """

    def __init__(self, decode: Callable[[list[int]], str], thinking: bool = False,
                 separate: Callable[[int], bool] = lambda token: False,
                 annotation: Callable[[int], str] = lambda number: "") -> None:
        self.decode, self.thinking = decode, thinking
        self.separate, self.annotation = separate, annotation
        self.count = 0
        self.tokens: list[int] = []
        # Tokens before `start` are finished; the text of those from `start` to `shown` is shown.
        self.start = self.shown = 0
        self.pending = ""  # text that may be the beginning of a tag

    def add(self, token: int) -> list[Part]:
        """The parts that no later token can change any more."""
        note = self.annotation(self.count)
        annotation = [Part(f"({note})", "number")] if note else []
        self.count += 1
        if self.separate(token):
            before, self.pending = self.pending, ""
            return [*self._parts(before), *self._parts(self.decode([token])), *annotation]
        self.tokens.append(token)
        self.pending += self._text(self._whole())
        prefix = _TAG_PREFIX.search(self.pending)
        certain = self.pending[:prefix.start()] if prefix else self.pending
        self.pending = self.pending[len(certain):]
        return [*self._parts(certain), *annotation]

    def end(self) -> list[Part]:
        """The parts that are left when no more tokens come."""
        rest, self.pending = self.pending + self._text(len(self.tokens)), ""
        return self._parts(rest)

    def all(self, tokens: Iterable[int]) -> list[Part]:
        """The parts of a whole text."""
        return [*(part for token in tokens for part in self.add(token)), *self.end()]

    def _text(self, end: int) -> str:
        """What the tokens from `shown` to `end` add to the text. The last shown ones are decoded
        with them, because a tokenizer's spaces depend on neighbouring tokens.
        """
        before = self.decode(self.tokens[self.start:self.shown])
        text = self.decode(self.tokens[self.start:end])
        if len(text) <= len(before):
            return ""
        self.start, self.shown = self.shown, end
        return text[len(before):]

    def _whole(self) -> int:
        """Index at which to cut the tokens so that no later token changes the text before it: after
        the last one, or before the incomplete character at their end.
        """
        shown, end = self.shown, len(self.tokens)
        text = self.decode(self.tokens[shown:])
        if not text.endswith(TORN) or end - shown >= GIVE_UP:
            return end
        if end - shown < MAX_BYTES:
            return shown
        cuts = (cut for cut in range(end - MAX_BYTES + 1, end)
                if self.decode(self.tokens[shown:cut]) + self.decode(self.tokens[cut:]) == text)
        return next(cuts, shown)

    def _parts(self, text: str) -> list[Part]:
        found = []
        for piece in filter(None, _TAG.split(text)):
            kind = pieces(piece)[0][1] if _TAG.fullmatch(piece) else "ordinary"
            if piece in (OPEN, END):
                self.thinking, kind = piece == OPEN, "special"
            elif self.thinking and kind == "ordinary":
                kind = "thought"
            found.append(Part(piece, kind))
        return found


def ordinary_text(parts: Iterable[Part]) -> str:
    """The text of some parts without thoughts and special tokens."""
    return "".join(part.text for part in parts if part.kind == "ordinary")


def thought_text(parts: Iterable[Part]) -> str:
    """The thoughts of some parts, with a space between one and the next."""
    found = [""]
    for part in parts:
        if part.text == END:
            found.append("")
        elif part.kind == "thought":
            found[-1] += part.text
    return " ".join(found if found[-1] else found[:-1])


class Renderer:
    """Writes prompts and decoded parts to standard output, as they come. thoughts says how thoughts
    are shown: colour, plain or hidden.
    """

    def __init__(self, thoughts: str) -> None:
        self.thoughts = thoughts
        console = Console()
        self.terminal = console.is_terminal
        self.coloured = console.is_terminal and not console.no_color
        self.line_start = True

    def write(self, text: str, style: str | None = None) -> None:
        if not text:
            return
        self.line_start = text.endswith("\n")
        shown = _CONTROL.sub(TORN, text) if self.terminal else text
        if style is not None and self.coloured:
            shown = Style.parse(style).render(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()

    def prompt(self, text: str) -> None:
        self.write(text, COLOURS["ordinary"])

    def parts(self, parts: Iterable[Part]) -> None:
        for text, kind in parts:
            if kind == "ordinary":
                self.write(text)
            elif self.thoughts != "hidden":
                self.write(text, COLOURS.get(kind, FAINT) if self.thoughts == "colour" else None)

    def line(self, text: str) -> None:
        """A line of its own about what was generated."""
        self.end_line()
        self.write(f"{text}\n", FAINT)

    def end_line(self) -> None:
        if not self.line_start:
            self.write("\n")

    def note(self, text: str) -> None:
        """A line to the user on standard error, which is no output."""
        self.end_line()
        print(text, file=sys.stderr, flush=True)
