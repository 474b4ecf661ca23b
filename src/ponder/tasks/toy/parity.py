"""Is the number of ones odd? `1 1 0 1` -> `1`."""

from __future__ import annotations

from itertools import accumulate
from operator import xor
from random import Random

from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.steps import StepTask


@task("parity")
class Parity(StepTask):
    """Is the number of ones among `steps` bits odd? The thought is the parity so far.

    No single bit, and no set of bits but all of them, says anything about the answer, so direct
    answers stay at chance on long questions.
    """

    def problem(self, random: Random) -> Problem:
        """Bits drawn uniformly."""
        bits = [random.randrange(2) for _ in range(self.moves(random))]
        return self.asked([], [*map(str, bits)], [*map(str, accumulate(bits, xor))])

    def solution(self, problem: Problem) -> str:
        """The parity of the bits."""
        return str(problem.question.split().count("1") % 2)
