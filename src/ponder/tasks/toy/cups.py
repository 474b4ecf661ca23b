"""A ball below the first of some cups, which are swapped in pairs: `02 12 01` -> `1`."""

from __future__ import annotations

from itertools import combinations
from random import Random

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.steps import StepTask


@task("cups")
class Cups(StepTask):
    """The ball lies below cup 0, then `steps` pairs of cups are swapped: where is it?

    The thought is the place of the ball after each swap. With five cups the swaps generate the
    group S5, whose word problem no circuit of constant depth computes unless TC0 = NC1 (Barrington,
    1989): a network of fixed depth has to approximate.
    """

    cups: int = option(5, "cups; below one of them is the ball", low=2, high=9)

    def problem(self, random: Random) -> Problem:
        """Swaps drawn uniformly; those that do not move the ball are among them."""
        pairs = [*combinations(range(self.cups), 2)]
        swaps = random.choices(pairs, k=self.moves(random))
        place, places = 0, []
        for one, other in swaps:
            place = {one: other, other: one}.get(place, place)
            places.append(str(place))
        return self.asked([], [f"{one}{other}" for one, other in swaps], places)

    def solution(self, problem: Problem) -> str:
        """Where the ball is."""
        place = "0"
        for one, other in problem.question.split():
            place = {one: other, other: one}.get(place, place)
        return place
