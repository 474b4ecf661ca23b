"""Keys of the tasks: one dataclass a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ponder.config.fields import option

NUMBER_TOKENS = 1_000_000


@dataclass
class AddTask:
    """Sums of digit strings: `31+84=`, modular or plain."""

    name: str = option("add", "name of the task", legal=("add",))
    max: int = option(100, "operands (and, if modular, answers) are below this", low=2, high=10**15)
    terms: int = option(2, "how many numbers are added", low=2, high=16)
    modular: bool = option(True, "answer modulo max; false: the plain sum")
    answer: str = option("number", "answer as one number token or as digits",
                         legal=("number", "digits"))
    order: str = option("most", "digits of thoughts and answers: most or least significant first",
                        legal=("most", "least"))
    gold: str = option("digits", "gold thought: digits of the answer, scratchpad (column sums with "
                       "carries), or none", legal=("digits", "scratchpad", "none"))
    split: str = option("random", "held out: a random share, or whole combinations of unit digits",
                        legal=("random", "systematic"))
    held_out: float = option(0.2, "share of the questions that is never trained on", low=0.0,
                             high=0.9)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    data: str | None = option(None, "read the problems from this .csv or .parquet file instead")
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option(
        "${ponder.gold_length:${.max},${.terms},${.modular},${.gold}}",
        "tokens of the gold thought, computed; the `think` variant allows as many")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        largest = self.max - 1 if self.modular else self.terms * (self.max - 1)
        if self.answer == "number" and largest >= NUMBER_TOKENS:
            yield (f"task.max={self.max}: found answers up to {largest}, too many for a token "
                   f"each; legal: answers below {NUMBER_TOKENS}, or task.answer=digits")
        if self.gold == "scratchpad" and self.terms > 10:
            yield (f"task.terms={self.terms}: found carries that are no digit, in "
                   "task.gold=scratchpad; legal: at most 10")
        length = gold_length(self.max, self.terms, self.modular, self.gold)
        if self.thought_length != length:
            yield (f"task.thought_length={self.thought_length}: found another length than the "
                   f"gold thought has; legal: {length} (set thinker.tokens for more)")
        if self.held_out == 0 and self.data is None:
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, at most 0.9")


def gold_length(limit: int, terms: int, modular: bool, gold: str) -> int:
    """Tokens of the gold thought of an `add` problem (see tasks/add.py)."""
    digits = len(str(limit - 1 if modular else terms * (limit - 1)))
    if gold != "scratchpad":
        return digits
    columns = len(str(limit - 1))
    reduced = modular and 10**columns != limit
    return 2 * columns + (digits if reduced else 0)
