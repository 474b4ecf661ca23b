"""Tokens become text as they come: whole characters, whole tags, thoughts told from words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ponder.tokenizers.vocabulary import END, pieces

OPEN = "<think>"  # models that think in words do it between this and </think>
TORN = "\ufffd"  # the end of bytes that are no whole character yet
_TAG = re.compile(r"(</?\w+>)")
_BEGUN = re.compile(r"<(/?\w{0,16})?$")
BYTES = 4  # of a character, and tokens that it may be spread over, as each has one at least
HOPELESS = 12  # tokens without a character between them


class Part(NamedTuple):
    """A piece of text; kind is ordinary, thought or special, as in `spelling.pieces`, or number: a
    remark about a thought.
    """

    text: str
    kind: str


class Spelt:
    """Parts of one text, whose tokens are added one by one. thinking says that it begins inside of
    a thought, apart which tokens are told by themselves: those around them are one text. beside
    gives a remark about the n-th token, or nothing.
    """

    def __init__(self, decode: Callable[[list[int]], str], thinking: bool = False,
                 apart: Callable[[int], bool] = lambda token: False,
                 beside: Callable[[int], str] = lambda number: "") -> None:
        self.decode, self.thinking, self.apart, self.beside = decode, thinking, apart, beside
        self.added = 0
        self.tokens: list[int] = []
        self.old = self.new = 0  # tokens before `old` are done; those from there to `new` are said
        self.waiting = ""

    def add(self, token: int) -> list[Part]:
        """The parts that are certain now."""
        beside = self.beside(self.added)
        remark = [Part(f"({beside})", "number")] if beside else []
        self.added += 1
        if self.apart(token):
            before, self.waiting = self.waiting, ""
            return [*self._parts(before), *self._parts(self.decode([token])), *remark]
        self.tokens.append(token)
        self.waiting += self._text(self._whole())
        begun = _BEGUN.search(self.waiting)
        sure = self.waiting[:begun.start()] if begun else self.waiting
        self.waiting = self.waiting[len(sure):]
        return [*self._parts(sure), *remark]

    def end(self) -> list[Part]:
        """The rest."""
        rest, self.waiting = self.waiting + self._text(len(self.tokens)), ""
        return self._parts(rest)

    def _text(self, end: int) -> str:
        """What the tokens from `new` to `end` add to the text. Only the last few are decoded, with
        those before them, as spaces hang on neighbours.
        """
        before = self.decode(self.tokens[self.old:self.new])
        text = self.decode(self.tokens[self.old:end])
        if len(text) <= len(before):
            return ""
        self.old, self.new = self.new, end
        return text[len(before):]

    def _whole(self) -> int:
        """Where to cut the tokens, so that no later one changes the text before the cut: behind
        them all, or before the beginning of a character at their end.
        """
        new, end = self.new, len(self.tokens)
        text = self.decode(self.tokens[new:])
        if not text.endswith(TORN) or end - new >= HOPELESS:
            return end
        if end - new < BYTES:
            return new
        cuts = (cut for cut in range(end - BYTES + 1, end)
                if self.decode(self.tokens[new:cut]) + self.decode(self.tokens[cut:]) == text)
        return next(cuts, new)

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


def spelt(spelling: Spelt, tokens: Iterable[int]) -> list[Part]:
    """The parts of a whole text."""
    return [*(part for token in tokens for part in spelling.add(token)), *spelling.end()]


def thoughts(parts: Iterable[Part]) -> str:
    """The thoughts among the parts of a text, with a space between one and the next."""
    found = [""]
    for part in parts:
        if part.text == END:
            found.append("")
        elif part.kind == "thought":
            found[-1] += part.text
    return " ".join(found if found[-1] else found[:-1])
