"""Products of numbers as digits, the units first: `21*43=` -> `8040`, as 12 * 34 = 408."""

from __future__ import annotations

from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask


@task("multiply")
class Multiply(ToyTask):
    """Two numbers of `digits` digits, units first; the answer has twice as many digits.

    The thought is the sum of partial products after each digit of the second number, units first:
    12 * 4, then 12 * 34. The last one is the answer. Questions that differ only in the order of
    their numbers are always on the same side of the split.
    """

    characters = True
    digits: int = option(3, "digits of both numbers", low=1, high=8)

    def problem(self, random: Random) -> Problem:
        """Both numbers drawn uniformly, zero among them."""
        return self._asked(*(random.randrange(10**self.digits) for _ in range(2)))

    def solution(self, problem: Problem) -> str:
        """The product."""
        return self._asked(*_numbers(problem)).answer

    def easier(self, problem: Problem) -> Problem:
        """Without the first digit of the second number that is not 0."""
        one, other = _numbers(problem)
        return self._asked(one, other % 10**(len(str(other)) - 1))

    def key(self, problem: Problem) -> str:
        """Both numbers, the smaller one first."""
        return "*".join(map(str, sorted(_numbers(problem))))

    def _asked(self, one: int, other: int) -> Problem:
        n = self.digits
        sums = [_units_first(one * (other % 10**(i + 1)), n + i + 1) for i in range(n)]
        return Problem(f"{_units_first(one, n)}*{_units_first(other, n)}=", sums[-1],
                       "".join(sums))


def _units_first(number: int, width: int) -> str:
    return f"{number:0{width}d}"[::-1]


def _numbers(problem: Problem) -> list[int]:
    return [int(text[::-1]) for text in problem.question.removesuffix("=").split("*")]
