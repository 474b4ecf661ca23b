"""A sum that is added column by column, units first: `37 48 12` -> `4 3 0` (143 + 287)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations_with_replacement
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.base import hashed_share
from ponder.tasks.toy.steps import StepTask


@task("columns")
class Columns(StepTask):
    """Two numbers of `steps` digits are added modulo 10^steps: all digits of the sum are asked.

    A question is the columns of both numbers, units first; the thought is the digit below each
    column. The answer has the digits as they are written, the highest first, so that its next digit
    is always about the column that the thought ends with. A column needs what was carried into it,
    which no digit shows by itself.
    """

    base: int = option(10, "base of the digits", low=2, high=10)
    steps: int = option(4, "columns of the longest sums", low=1, high=64)
    split: str = option("random", "held out: a random share, or whole pairs of unit digits",
                        legal=("random", "systematic"))

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        StepTask._take_keys(self, keys)
        digits = tuple(map(str, range(self.base)))
        vars(self).update(symbols=(*digits, *(one + other for one in digits for other in digits)),
                          thought_symbols=digits)

    def problem(self, random: Random) -> Problem:
        """Digits drawn uniformly."""
        pairs = ["".join(str(random.randrange(self.base)) for _ in range(2))
                 for _ in range(self.moves(random))]
        return self.asked([], pairs, self._digits(pairs))

    def answered(self, states: Sequence[str]) -> str:
        """The digits of the sum, the highest first."""
        return " ".join(reversed(states))

    def solution(self, problem: Problem) -> str:
        """The digits of the sum, the highest first."""
        return self.answered(self._digits(problem.question.split()))

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on; where `split` is systematic, because of its unit
        digits, in any order.
        """
        if self.split == "random":
            return super().is_held_out(problem)
        columns = problem.question.split()
        return len(columns) > self.levels or "".join(sorted(columns[0])) in self._units_held_out

    @cached_property
    def _units_held_out(self) -> set[str]:
        """Pairs of unit digits, the smaller one first: a share of them, but at least one."""
        digits = map(str, range(self.base))
        pairs = sorted(map("".join, combinations_with_replacement(digits, 2)),
                       key=lambda pair: hashed_share(f"{self.seed}/{pair}"))
        count = round(self.held_out * len(pairs))
        return {*pairs[:max(count, 1) if self.held_out else 0]}

    def _digits(self, pairs: Sequence[str]) -> list[str]:
        """The digit below each column."""
        written, carry = [], 0
        for one, other in pairs:
            carry, digit = divmod(int(one) + int(other) + carry, self.base)
            written.append(str(digit))
        return written
