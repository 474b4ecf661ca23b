"""Do three of these vectors add up to zero? `1 2 , 9 9 , 0 9 =` -> `yes` modulo 10."""

from __future__ import annotations

from itertools import combinations
from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask

Vector = tuple[int, ...]


@task("threesum")
class ThreeSum(ToyTask):
    """`vectors` vectors of `dimensions` digits: do three of them add up to zero modulo 10?

    The task for which meaningless filler tokens were shown to help (Pfau, Merrill and Bowman, 2024,
    "Let's think dot by dot"). The thought is the sum of each pair, in the order of the vectors.
    Half of the answers are yes.
    """

    vectors: int = option(6, "vectors of a question", low=3, high=16)
    dimensions: int = option(2, "digits of a vector", low=1, high=8)

    def problem(self, random: Random) -> Problem:
        """Vectors drawn uniformly, one of them replaced so that the drawn answer is right."""
        wanted = random.random() < 0.5
        while True:
            vectors = [tuple(random.choices(range(10), k=self.dimensions))
                       for _ in range(self.vectors)]
            if wanted:
                one, other, third = random.sample(range(self.vectors), 3)
                vectors[third] = tuple(-x % 10 for x in _sum(vectors[one], vectors[other]))
            if has_zero_sum(vectors) == wanted:
                return _asked(vectors)

    def solution(self, problem: Problem) -> str:
        """Whether three vectors add up to zero."""
        return "yes" if has_zero_sum([tuple(map(int, vector.split())) for vector in
                                      problem.question.removesuffix("=").split(",")]) else "no"

    def easier(self, problem: Problem) -> Problem:
        """The question without its last vector; three are left as they are."""
        vectors = [tuple(map(int, vector.split()))
                   for vector in problem.question.removesuffix("=").split(",")]
        return _asked(vectors[:-1]) if len(vectors) > 3 else problem


def has_zero_sum(vectors: list[Vector]) -> bool:
    """Whether three of the vectors add up to zero modulo 10."""
    return any(not any(_sum(*three)) for three in combinations(vectors, 3))


def _sum(*vectors: Vector) -> Vector:
    return tuple(sum(digits) % 10 for digits in zip(*vectors, strict=True))


def _asked(vectors: list[Vector]) -> Problem:
    digits = [" ".join(map(str, vector)) for vector in vectors]
    sums = [digit for pair in combinations(vectors, 2) for digit in _sum(*pair)]
    return Problem(" , ".join(digits) + " =", "yes" if has_zero_sum(vectors) else "no",
                   " ".join(map(str, sums)))
