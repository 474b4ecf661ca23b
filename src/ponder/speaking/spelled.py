"""Tokens become text as they come: whole characters, whole tags, thoughts told from words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ponder.spelling import END, pieces

OPEN = "<think>"  # models that think in words do it between this and </think>
TORN = "\ufffd"  # the end of bytes that are no whole character yet
_TAG = re.compile(r"(</?\w+>)")
_BEGUN = re.compile(r"<(/?\w{0,16})?$")
LONGEST = 6  # tokens that a character may be spread over


class Part(NamedTuple):
    """A piece of text; kind is ordinary, thought or special, as in `spelling.pieces`."""

    text: str
    kind: str


class Spelt:
    """Parts of one text, whose tokens are added one by one. thinking says that it begins inside of
    a thought.
    """

    def __init__(self, decode: Callable[[list[int]], str], thinking: bool = False) -> None:
        self.decode, self.thinking = decode, thinking
        self.tokens: list[int] = []
        self.old = self.new = 0  # tokens before `old` are done; those from there to `new` are said
        self.waiting = ""

    def add(self, token: int) -> list[Part]:
        """The parts that are certain now."""
        self.tokens.append(token)
        self.waiting += self._text(len(self.tokens) - self.new < LONGEST)
        begun = _BEGUN.search(self.waiting)
        sure = self.waiting[:begun.start()] if begun else self.waiting
        self.waiting = self.waiting[len(sure):]
        return self._parts(sure)

    def end(self) -> list[Part]:
        """The rest."""
        rest, self.waiting = self.waiting + self._text(False), ""
        return self._parts(rest)

    def _text(self, patient: bool) -> str:
        """What the tokens since `new` add to the text; where they end within a character, nothing
        yet. Only the last few are decoded, with those before them, as spaces hang on neighbours.
        """
        before = self.decode(self.tokens[self.old:self.new])
        text = self.decode(self.tokens[self.old:])
        if len(text) <= len(before) or (patient and text.endswith(TORN)):
            return ""
        self.old, self.new = self.new, len(self.tokens)
        return text[len(before):]

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


def spelt(decode: Callable[[list[int]], str], tokens: Iterable[int], thinking: bool = False,
          ) -> list[Part]:
    """The parts of a whole text."""
    spelling = Spelt(decode, thinking)
    return [*(part for token in tokens for part in spelling.add(token)), *spelling.end()]
