"""Assignments to a few registers, one after another: `c=b a+c b+a a+b` -> `3`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.asked import Question
from ponder.tasks.toy.steps import StepTask

NAMES = "abcd"


@task("registers")
class Registers(StepTask):
    """Registers a, b, c hold 0, 1, 2 at first; then come `steps` assignments: what does a hold?

    `a=2` writes a number, `a=b` copies another register, and `a+b` adds one, modulo `values`. The
    thought is what all registers hold after each assignment, as one word (`012` at first). The
    answer hides all but one of them. What may be asked about a thought is what each of them holds.
    """

    steps: int = option(8, "assignments of the longest questions", low=1, high=256)
    registers: int = option(3, "registers", low=2, high=len(NAMES))
    values: int = option(4, "numbers are below this", low=2, high=6)

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        StepTask._take_keys(self, keys)
        names, values = NAMES[:self.registers], tuple(map(str, range(self.values)))
        symbols = [f"{name}={number}" for name in names for number in values]
        symbols += [sign.join(pair) for sign in "=+" for pair in permutations(names, 2)]
        vars(self).update(
            symbols=(*values, *names, *symbols), answers=values,
            thought_symbols=tuple(map("".join, product(values, repeat=self.registers))))

    def problem(self, random: Random) -> Problem:
        """Numbers, copies and sums equally often; registers drawn uniformly."""
        moves = []
        for _ in range(self.moves(random)):
            one, other = random.sample(NAMES[:self.registers], 2)
            kind = random.randrange(3)
            moves.append(f"{one}={random.randrange(self.values)}" if kind == 0 else
                         f"{one}{'=' if kind == 1 else '+'}{other}")
        return self.asked([], moves, self._held(moves))

    def answered(self, states: Sequence[str]) -> str:
        """What register a holds."""
        return states[-1][0]

    def questions(self, problem: Problem) -> list[Question]:
        """What does each register hold?"""
        return [*zip(NAMES, self._held(problem.question.split())[-1], strict=False)]

    def solution(self, problem: Problem) -> str:
        """What register a holds."""
        return self._held(problem.question.split())[-1][0]

    def _held(self, moves: Sequence[str]) -> list[str]:
        """What all registers hold after each assignment."""
        holds = {name: k % self.values for k, name in enumerate(NAMES[:self.registers])}
        states = []
        for one, sign, other in moves:
            value = holds[other] if other in holds else int(other)
            holds[one] = (holds[one] * (sign == "+") + value) % self.values
            states.append("".join(map(str, holds.values())))
        return states
