"""How tokens are spelt in texts and tables; no torch, as what only reads runs needs none."""

from __future__ import annotations

import re

PAD, END, END_OF_TEXT = "<pad>", "</think>", "<end>"
TORN = "\ufffd"  # what bytes become that are no whole character
_WORD, _THOUGHT = re.compile(r"</?\w+>|[^<]|<", re.DOTALL), re.compile(r"<t\d+>")
COLOURS = {"ordinary": "blue", "thought": "cyan", "special": "magenta"}


def place(power: int) -> str:
    """The name of the digit that counts tens to some power: units, tens, ... 10^4."""
    names = ("units", "tens", "hundreds", "thousands")
    return names[power] if power < len(names) else f"10^{power}"


def pieces(text: str) -> list[tuple[str, str]]:
    """(token, kind) of every token of a text; kind is ordinary, thought or special."""
    def kind(word: str) -> str:
        if word in (PAD, END, END_OF_TEXT):
            return "special"
        return "thought" if _THOUGHT.fullmatch(word) else "ordinary"

    return [(word, kind(word)) for word in _WORD.findall(text)]
