"""What a sample of a toy task's problems shows: their symbols, lengths and answers."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.core.lazy_imports import Tensor
from ponder.core.types import Problem
from ponder.tasks.base import in_order, padded

SAMPLE = 500  # problems that show which symbols and lengths there are
LABELLED = 50  # more distinct answers than this are numbered only if they are declared
SEEN = 5  # ... and only if each of them occurs at least so often in the sample


@dataclass(frozen=True)
class Survey:
    """What a sample of problems shows.

    symbols, thought_symbols: in the order of their tokens. question: lengths of the shortest and
    the longest. answer, thought: lengths of the longest; thought is None where some problem has no
    gold thought. answers: all of them, numbered in this order; () where they are too many.
    """

    symbols: tuple[str, ...]
    thought_symbols: tuple[str, ...]
    question: tuple[int, int]
    answer: int
    thought: int | None
    answers: tuple[str, ...]


def survey(task: Any) -> Survey:
    """The survey of `SAMPLE` problems, always the same ones, under what the task's class declares.
    """
    drawn = _sample(task)
    asked, said = ([task.cut(text) for text in texts] for texts in (
        [one.question for one in drawn], [one.answer for one in drawn]))
    gold = [task.cut(one.thought) for one in drawn if one.thought is not None]
    counts = Counter(one.answer for one in drawn)
    few = len(counts) <= LABELLED and min(counts.values()) >= SEEN
    lengths = [len(row) for row in asked]
    return Survey(
        tuple(task.symbols) or in_order(asked + said),
        tuple(task.thought_symbols) or in_order(gold),
        (min(lengths), max(lengths)), max(map(len, said)),
        max(map(len, gold)) if len(gold) == SAMPLE else None,
        tuple(task.answers) or (tuple(sorted(counts)) if few else ()))


def _sample(task: Any) -> list[Problem]:
    """Problems that symbols and lengths are taken from. Raises `UserError` if `problem` fails or
    gives something else than texts.
    """
    random, name = Random("sample"), f"task={getattr(task, 'name', type(task).__name__)}"
    try:
        drawn = [task.problem(random) for _ in range(SAMPLE)]
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{name}: problem() failed ({type(error).__name__}: {brief(error)}, "
                        f"{at.filename}:{at.lineno}); legal: a Problem of texts") from error
    for one in drawn:
        texts = [one.question, one.answer] if isinstance(one, Problem) else [one]
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError(f"{name}: found {one!r} from problem(); legal: a Problem whose "
                            "question and answer are texts that are not empty")
    return drawn


def numbered(rows: Sequence[Sequence[str]]) -> tuple[Tensor | None, tuple[str, ...]]:
    """(numbers (N, width) of symbols, -1 behind the end of a row; the symbols in that order). None
    where there are no symbols.
    """
    symbols = in_order(rows)
    number = {symbol: i for i, symbol in enumerate(symbols)}
    found = padded([[number[symbol] for symbol in row] for row in rows], -1)
    return found if symbols else None, symbols
