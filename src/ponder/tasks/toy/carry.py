"""The last digit of a sum that is added digit by digit, units first: `37 48 12` -> `4`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.asked import Question
from ponder.tasks.toy.steps import StepTask


@task("carry")
class Carry(StepTask):
    """Two numbers are added, a column of two digits after another, units first: which digit is
    written below the last column?

    The thought is the sum of each column and of what is carried into it: 14 writes 4 and carries 1.
    The answer hides the carry, which the next column needs. What may be asked about a thought:
    `- k`, the digit written k columns before (0 before the first column; `- 0` is the problem's own
    question), and `+ d`, the digit written below a column more whose own sum is d; `+ 0` is the
    carry.
    """

    base: int = option(10, "base of the digits", low=2, high=10)
    passing: float | None = option(None, "share of the columns whose digits sum to base - 1, so "
                                   "that they pass on what is carried into them; null: 1 / base, "
                                   "of uniform digits", low=0, high=1)
    back: int = option(0, "digits before the last one that may be asked about a thought", low=0,
                       high=9)
    ahead: int = option(3, "so many sums of the next column may be asked about a thought, from 0; "
                        "1: the carry alone, 0: not even that", low=0, high=10)

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        StepTask._take_keys(self, keys)
        digits = [*map(str, range(max(self.base, self.back + 1, self.ahead)))]
        answers = digits[:self.base]
        vars(self).update(
            symbols=(*digits, *(one + other for one in answers for other in answers), "+", "-"),
            thought_symbols=tuple(map(str, range(2 * self.base))), answers=tuple(answers))

    def problem(self, random: Random) -> Problem:
        """Digits drawn uniformly, but for the share of columns that pass on a carry."""
        pairs = [self._pair(random) for _ in range(self.moves(random))]
        return self.asked([], pairs, [*map(str, self._sums(pairs))])

    def _pair(self, random: Random) -> str:
        passes = self.passing is not None and random.random() < self.passing
        while True:
            one, other = random.randrange(self.base), random.randrange(self.base)
            if self.passing is None or passes == (one + other == self.base - 1):
                return f"{one}{other}"

    def answered(self, states: Sequence[str]) -> str:
        """The digit of the last sum."""
        return str(int(states[-1]) % self.base)

    def questions(self, problem: Problem) -> list[Question]:
        """Digits that are written already, and those below a column more."""
        sums = [0] * self.back + self._sums(problem.question.split())
        return [*((f"- {k}", str(sums[-1 - k] % self.base)) for k in range(self.back + 1)),
                *((f"+ {d}", str((d + sums[-1] // self.base) % self.base))
                  for d in range(self.ahead))]

    def solution(self, problem: Problem) -> str:
        """The digit below the last column."""
        return str(self._sums(problem.question.split())[-1] % self.base)

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.ahead >= 2 * self.base:
            yield (f"task.ahead={self.ahead}: found task.base={self.base}, whose columns have "
                   f"smaller sums; legal: 0 to {2 * self.base - 1}")
        else:
            yield from StepTask.contradictions(self, config)

    def _sums(self, pairs: Sequence[str]) -> list[int]:
        """The sum of each column and of the carry from the one before."""
        sums, carry = [], 0
        for one, other in pairs:
            sums.append(int(one) + int(other) + carry)
            carry = sums[-1] // self.base
        return sums
