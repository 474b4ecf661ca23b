"""Cups, of which the answer says only in which group the ball is: `02 12 01` -> `a`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.asked import Question
from ponder.tasks.toy.steps import StepTask

GROUPS = "abcdefghi"


@task("half")
class Half(StepTask):
    """A ball below cup 0, `steps` swaps of cups: in which group of neighbouring cups is it?

    The thought is the place of the ball after each swap. The answer hides it: of five cups, the
    last three are one group. What may be asked about a thought is the group after one swap more,
    as two cups; `0 0` swaps nothing, and asks the problem's own question.
    """

    cups: int = option(5, "cups; below one of them is the ball", low=2, high=9)
    groups: int = option(2, "groups of neighbouring cups, the last ones the largest", low=2, high=9)

    def problem(self, random: Random) -> Problem:
        """Swaps drawn uniformly; those that do not move the ball are among them."""
        place, places, swaps = 0, [], []
        for _ in range(self.moves(random)):
            one, other = sorted(random.sample(range(self.cups), 2))
            place = {one: other, other: one}.get(place, place)
            places.append(str(place))
            swaps.append(f"{one}{other}")
        return self.asked([], swaps, places)

    def answered(self, states: Sequence[str]) -> str:
        """The group of the last place."""
        return self._group(int(states[-1]))

    def _group(self, place: int) -> str:
        return GROUPS[(place * self.groups + self.groups - 1) // self.cups]

    def questions(self, problem: Problem) -> list[Question]:
        """In which group is the ball after a swap of any two cups more?"""
        place = int(self._places(problem)[-1])
        every = range(self.cups)
        return [(f"{one} {other}", self._group({one: other, other: one}.get(place, place)))
                for one in every for other in every]

    def solution(self, problem: Problem) -> str:
        """The group that the ball is in."""
        return self._group(int(self._places(problem)[-1]))

    @staticmethod
    def _places(problem: Problem) -> list[str]:
        """Where the ball is after each swap."""
        place, places = "0", []
        for one, other in problem.question.split():
            place = {one: other, other: one}.get(place, place)
            places.append(place)
        return places

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.groups > self.cups:
            yield (f"task.groups={self.groups}: found task.cups={self.cups}; legal: 2 to "
                   f"{self.cups}")
        else:
            yield from StepTask.contradictions(self, config)
