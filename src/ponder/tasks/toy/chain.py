"""A chain of small calculations modulo a prime: `3 +5 *2 +6` -> `1` modulo 7."""

from __future__ import annotations

from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.steps import StepTask


@task("chain")
class Chain(StepTask):
    """A number below `modulus`, to which `steps` are added or with which they are multiplied.

    The thought is the number after each step, modulo `modulus`. Factors are never 0 or 1, so each
    step is a permutation of the numbers that moves some of them.
    """

    steps: int = option(8, "calculations of the longest questions", low=1, high=256)
    modulus: int = option(7, "numbers are below this; a prime", legal=(3, 5, 7, 11, 13))

    def problem(self, random: Random) -> Problem:
        """The first number and all steps drawn uniformly, sums as often as products."""
        first = number = random.randrange(self.modulus)
        moves, states = [], []
        for _ in range(self.moves(random)):
            if random.random() < 0.5:
                other = random.randrange(1, self.modulus)
                number, move = number + other, f"+{other}"
            else:
                other = random.randrange(2, self.modulus)
                number, move = number * other, f"*{other}"
            number %= self.modulus
            moves.append(move)
            states.append(str(number))
        return self.asked([str(first)], moves, states)

    def solution(self, problem: Problem) -> str:
        """The number after all steps."""
        first, *moves = problem.question.split()
        number = int(first)
        for sign, *other in moves:
            value = int("".join(other))
            number = (number + value if sign == "+" else number * value) % self.modulus
        return str(number)
