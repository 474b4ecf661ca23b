"""Questions of a task that somebody types."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ponder.config.errors import UserError, shown
from ponder.tasks.toy.add import Add
from ponder.tasks.toy.addition import Addition, lengths_of


def typed(task: Any, text: str) -> tuple[list[int], int]:
    """(tokens of a question, how many the answer has). Sums are written with their digits as they
    come (`3+84=`); of another task, what is typed is cut into words of the vocabulary.

    Raises `UserError` where it is no question of the task.
    """
    if isinstance(task, Add):
        numbers = _numbers(text, task.config.terms, task.config.max)
        return task.encode(numbers).question[0].tolist(), task.answer_length
    if isinstance(task, Addition):
        digits = task.config.digits
        numbers = _numbers(text, 2, 10**digits)
        if not torch.equal(lengths_of(numbers), lengths_of(numbers.flip(1))):
            raise UserError(f"prompt={text}: found numbers of different lengths; legal: two of "
                            "equally many digits, as in 23+58=")
        problem = task.encode(numbers, torch.Generator().manual_seed(0))
        return _real(problem.question[0]), len(_real(problem.answer[0]))
    return _words(task.vocabulary.ordinary, text, task.question_length), task.answer_length


def _real(row: Tensor) -> list[int]:
    return row[row != 0].tolist()


def _numbers(text: str, terms: int, limit: int) -> Tensor:
    """(1, terms)"""
    words = [word.strip() for word in text.strip().removesuffix("=").split("+")]
    if len(words) != terms or not all(word.isdecimal() and word.isascii() for word in words):
        legal = f"{terms} whole numbers joined by +, as in {'+'.join(['1'] * terms)}="
        raise UserError(f"prompt={text}: found no question of this model; legal: {legal}")
    for word in words:
        if int(word) >= limit:
            raise UserError(f"prompt={text}: found {word}; legal: numbers below {limit}")
    return torch.tensor([[int(word) for word in words]])


def _words(words: tuple[str, ...], text: str, most: int) -> list[int]:
    """The words of a text, the longest that fits first; id 0 is padding."""
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    found, at = [], 0
    while at < len(text):
        word = re.compile(pattern).match(text, at)
        if word is None:
            raise UserError(f"prompt={text}: found {text[at]!r}, for which this model has no "
                            f"token; legal: {shown(words[:40])}")
        found.append(1 + words.index(word.group()))
        at = word.end()
    if not 0 < len(found) <= most:
        raise UserError(f"prompt={text}: found {len(found)} tokens; legal: a question of 1 to "
                        f"{most}")
    return found
