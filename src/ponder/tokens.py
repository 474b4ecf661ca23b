"""The vocabulary: ordinary tokens, special ones, and thoughts appended behind them."""

from __future__ import annotations

from dataclasses import dataclass

PAD, END = "<pad>", "</think>"
COLOURS = {"ordinary": "blue", "thought": "cyan", "special": "magenta"}


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

    def kind(self, token: int) -> str:
        """ordinary, thought or special: what colour the token has."""
        if token >= self.first_thought:
            return "thought"
        return "special" if token in (self.pad, self.end) else "ordinary"

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding."""
        words = self.words
        return "".join(words[token] for token in tokens if token != self.pad)

    def pieces(self, tokens: list[int]) -> list[tuple[str, str]]:
        """(text, kind) of every token but padding."""
        words = self.words
        return [(words[t], self.kind(t)) for t in tokens if t != self.pad]
