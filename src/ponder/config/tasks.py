"""Keys of the tasks: one dataclass a task."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.config.fields import option


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
        "tokens of the gold thought; the `think` variant allows as many")


def gold_length(limit: int, terms: int, modular: bool, gold: str) -> int:
    """Tokens of the gold thought of an `add` problem (see tasks/add.py)."""
    digits = len(str(limit - 1 if modular else terms * (limit - 1)))
    if gold != "scratchpad":
        return digits
    columns = len(str(limit - 1))
    reduced = modular and 10**columns != limit
    return 2 * columns + (digits if reduced else 0)
