"""Sorting a list: `7 3 9 1` -> `1 3 7 9`."""

from __future__ import annotations

from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask


@task("sort")
class Sort(ToyTask):
    """`numbers` numbers below `max`, which may occur twice; the answer is the sorted list.

    The thought is merge sort from below: the list with its pairs sorted, its fours, and so on; the
    last list is the answer.
    """

    numbers: int = option(8, "numbers of a list", low=2, high=64)
    max: int = option(20, "numbers are below this", low=2, high=1000)

    def problem(self, random: Random) -> Problem:
        """Numbers drawn uniformly."""
        return _asked([random.randrange(self.max) for _ in range(self.numbers)])

    def solution(self, problem: Problem) -> str:
        """The sorted list."""
        return " ".join(map(str, sorted(map(int, problem.question.split()))))

    def easier(self, problem: Problem) -> Problem:
        """The list without its last number; a list of two is left as it is."""
        listed = [*map(int, problem.question.split())]
        return _asked(listed[:-1]) if len(listed) > 2 else problem


def _asked(listed: list[int]) -> Problem:
    passes, width = [], 1
    while width < len(listed):
        width *= 2
        passes += [number for start in range(0, len(listed), width)
                   for number in sorted(listed[start:start + width])]
    question, thought, answer = (" ".join(map(str, numbers))
                                 for numbers in (listed, passes, sorted(listed)))
    return Problem(question, answer, thought)
