"""Several sums in one question: `3 + 4 , 5 + 9 =` -> `7 4` modulo 10."""

from __future__ import annotations

from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask


@task("many")
class Many(ToyTask):
    """`sums` sums of two numbers below `max`, modulo `max`; the answer is all of them.

    The thought is the same. Each sum is easy by itself, so this asks how many independent results a
    network computes at once.
    """

    sums: int = option(4, "sums of a question", low=1, high=64)
    max: int = option(10, "numbers and answers are below this", low=2, high=1000)

    def problem(self, random: Random) -> Problem:
        """Numbers drawn uniformly."""
        return self._asked([(random.randrange(self.max), random.randrange(self.max))
                            for _ in range(self.sums)])

    def solution(self, problem: Problem) -> str:
        """All sums."""
        return self._asked([tuple(map(int, pair.split("+")))
                            for pair in problem.question.removesuffix("=").split(",")]).answer

    def easier(self, problem: Problem) -> Problem:
        """The question without its last sum; a single sum is left as it is."""
        pairs = [tuple(map(int, pair.split("+")))
                 for pair in problem.question.removesuffix("=").split(",")]
        return self._asked(pairs[:-1]) if len(pairs) > 1 else problem

    def _asked(self, pairs: list[tuple[int, ...]]) -> Problem:
        question = " , ".join(f"{one} + {other}" for one, other in pairs) + " ="
        answer = " ".join(str((one + other) % self.max) for one, other in pairs)
        return Problem(question, answer, answer)
