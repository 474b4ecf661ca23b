"""Linear equations modulo a prime: `1 2 = 4 ; 3 1 = 0` -> `5` modulo 7, the first unknown."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask

Rows = list[list[int]]  # coefficients of the unknowns, and what they add up to


@task("equation")
class Equation(ToyTask):
    """`unknowns` linear equations modulo `modulus`; the answer is the first unknown.

    The thought is Gaussian elimination, and each of its numbers takes two earlier ones: a product,
    a difference or a quotient modulo `modulus`. To take the first unknown out of a row: the
    quotient of its coefficient and that of the first row, and for each further column that quotient
    times the first row's number, and the difference. So for all rows, then for the second unknown,
    and so on. Then the unknowns, the last one first: each known one times its coefficient and what
    is left of the total, at last the quotient.
    """

    unknowns: int = option(3, "unknowns, and as many equations", low=1, high=6)
    modulus: int = option(7, "all numbers are below this; a prime", legal=(3, 5, 7, 11, 13))

    def problem(self, random: Random) -> Problem:
        """Coefficients drawn uniformly until each step of the elimination has a pivot."""
        while True:
            rows = [[random.randrange(self.modulus) for _ in range(self.unknowns + 1)]
                    for _ in range(self.unknowns)]
            systems = eliminated(rows, self.modulus)
            if len(systems) == self.unknowns:
                return self._asked(systems)

    def solution(self, problem: Problem) -> str | None:
        """The first unknown; None where a step of the elimination has no pivot."""
        rows = [[*map(int, row.replace("=", "").split())] for row in problem.question.split(";")]
        systems = eliminated(rows, self.modulus)
        return self._asked(systems).answer if len(systems) == len(rows) else None

    def easier(self, problem: Problem) -> Problem:
        """The equations that are left without the first unknown: the second one is asked for."""
        rows = [[*map(int, row.replace("=", "").split())] for row in problem.question.split(";")]
        systems = eliminated(rows, self.modulus)
        return self._asked(systems[1:]) if len(systems) > 1 else problem

    def _asked(self, systems: list[Rows]) -> Problem:
        """The problem of the first of these systems, each with one unknown less."""
        written: list[int] = []
        for pivot, *rows in systems[:-1]:
            for row in rows:
                written += self._taken_out(pivot, row)
        values: list[int] = []  # the last unknown first
        for (first, *others, total), *_ in reversed(systems):
            for coefficient, value in zip(reversed(others), values, strict=True):
                product = coefficient * value % self.modulus
                total = (total - product) % self.modulus
                written += [product, total]
            values.append(self._quotient(total, first))
            written.append(values[-1])
        question = " ; ".join(" ".join([*map(str, row[:-1]), "=", str(row[-1])])
                              for row in systems[0])
        return Problem(question, str(values[-1]), " ".join(map(str, written)))

    def _taken_out(self, pivot: list[int], row: list[int]) -> Iterator[int]:
        """What is written when the first unknown of `row` is taken out by the row `pivot`."""
        factor = self._quotient(row[0], pivot[0])
        yield factor
        for above, number in zip(pivot[1:], row[1:], strict=True):
            product = factor * above % self.modulus
            yield product
            yield (number - product) % self.modulus

    def _quotient(self, number: int, divisor: int) -> int:
        return number * pow(divisor, -1, self.modulus) % self.modulus


def eliminated(rows: Rows, modulus: int) -> list[Rows]:
    """The system and what is left of it when the first unknown is taken out, then the second, ...
    down to one row. Shorter where the first coefficient of the first row is 0.
    """
    systems = []
    while rows and rows[0][0] % modulus:
        systems.append(rows)
        pivot, *others = rows
        inverse = pow(pivot[0], -1, modulus)
        rows = [[(b - row[0] * inverse * a) % modulus for a, b in zip(pivot, row, strict=True)][1:]
                for row in others]
    return systems
