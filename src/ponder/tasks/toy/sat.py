"""Can all clauses be true at once? `1 2 , -1 2` -> `yes`, with 1 false and 2 true."""

from __future__ import annotations

from itertools import product
from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask

Clause = tuple[int, ...]  # literals: a variable's number, negative where it is negated


@task("sat")
class Sat(ToyTask):
    """`clauses` clauses of `width` literals over `variables` variables; half of them can be true.

    The thought is the first satisfying assignment, in the order false before true of the first
    variable, then the second and so on; as many `x` where there is none.
    """

    variables: int = option(4, "variables", low=2, high=12)
    width: int = option(3, "literals of a clause, of different variables", low=1, high=6)
    clauses: int = option(20, "clauses of a formula", low=1, high=64)

    def problem(self, random: Random) -> Problem:
        """Clauses drawn uniformly until the answer is the one that was drawn first."""
        wanted = random.random() < 0.5
        width = min(self.width, self.variables)
        while True:
            clauses = [tuple(random.choice((-1, 1)) * variable for variable in
                             sorted(random.sample(range(1, self.variables + 1), width)))
                       for _ in range(self.clauses)]
            found = first_assignment(clauses, self.variables)
            if (found is not None) == wanted:
                return self._asked(clauses, found)

    def solution(self, problem: Problem) -> str:
        """Whether there is an assignment."""
        clauses = [tuple(map(int, clause.split())) for clause in problem.question.split(",")]
        return "no" if first_assignment(clauses, self.variables) is None else "yes"

    def easier(self, problem: Problem) -> Problem:
        """The formula without its last clause; a single clause is left as it is."""
        clauses = [tuple(map(int, clause.split())) for clause in problem.question.split(",")][:-1]
        if not clauses:
            return problem
        return self._asked(clauses, first_assignment(clauses, self.variables))

    def _asked(self, clauses: list[Clause], assignment: Clause | None) -> Problem:
        question = " , ".join(" ".join(map(str, clause)) for clause in clauses)
        thought = ["x"] * self.variables if assignment is None else map(str, assignment)
        return Problem(question, "no" if assignment is None else "yes", " ".join(thought))


def first_assignment(clauses: list[Clause], variables: int) -> Clause | None:
    """One literal of each variable, so that every clause has a true one; None if there is none."""
    for signs in product((-1, 1), repeat=variables):
        literals = {sign * (1 + i) for i, sign in enumerate(signs)}
        if all(literals.intersection(clause) for clause in clauses):
            return tuple(sorted(literals, key=abs))
    return None
