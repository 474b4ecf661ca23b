"""What the terminal shows of texts: prompts, words, and thoughts in colour or not at all."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.style import Style

from ponder.generation.spelled import Part
from ponder.tokenizers.vocabulary import COLOURS

FAINT = "dim"
TOFU = "\ufffd"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would steer a terminal


class Page:
    """Writes parts as they come. thoughts: colour, plain or hidden."""

    def __init__(self, thoughts: str) -> None:
        self.thoughts = thoughts
        console = Console()
        self.terminal = console.is_terminal
        self.coloured = console.is_terminal and not console.no_color
        self.fresh = True  # at the beginning of a line

    def write(self, text: str, style: str | None = None) -> None:
        if not text:
            return
        self.fresh = text.endswith("\n")
        shown = _CONTROL.sub(TOFU, text) if self.terminal else text
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
        """A line about texts."""
        self.close()
        self.write(f"{text}\n", FAINT)

    def close(self) -> None:
        """What comes next begins a line."""
        if not self.fresh:
            self.write("\n")

    def note(self, text: str) -> None:
        """A line to the reader, which is no output."""
        self.close()
        print(text, file=sys.stderr, flush=True)
