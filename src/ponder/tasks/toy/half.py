"""Cups, of which the answer says only in which group the ball is: `02 12 01` -> `a`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, reduce
from itertools import accumulate, combinations, product
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.asked import Question
from ponder.tasks.toy.steps import StepTask

GROUPS = "abcdefghi"


def swapped(place: int, swap: tuple[int, int]) -> int:
    """Where a ball is after a swap of two cups."""
    one, other = swap
    return other if place == one else one if place == other else place


def moved(place: int, swaps: Iterable[tuple[int, int]]) -> int:
    """Where it is after several."""
    return reduce(swapped, swaps, place)


@task("half")
class Half(StepTask):
    """A ball below cup 0, `steps` swaps of cups: in which group of neighbouring cups is it?

    The thought is the place of the ball after each swap. The answer hides it: of five cups, the
    last three are one group. What may be asked about a thought is the group after up to `further`
    swaps more; `.` stands for none, and dots alone ask the problem's own question.
    """

    cups: int = option(5, "cups; below one of them is the ball", low=2, high=9)
    groups: int = option(2, "groups of neighbouring cups, the last ones the largest", low=2, high=9)
    further: int = option(1, "most further swaps that are asked about a thought", low=1, high=2)

    def problem(self, random: Random) -> Problem:
        """Swaps drawn uniformly; those that do not move the ball are among them."""
        pairs = [*combinations(range(self.cups), 2)]
        swaps = random.choices(pairs, k=self.moves(random))
        places = [*accumulate(swaps, swapped, initial=0)][1:]
        return self.asked([], [f"{one}{other}" for one, other in swaps], [*map(str, places)])

    def answered(self, states: Sequence[str]) -> str:
        """The group of the last place."""
        return self._group(int(states[-1]))

    def _group(self, place: int) -> str:
        return GROUPS[(place * self.groups + self.groups - 1) // self.cups]

    def questions(self, problem: Problem) -> list[Question]:
        """In which group is the ball after these further swaps?"""
        return self._asked_at[self._place(problem)]

    @staticmethod
    def _place(problem: Problem) -> int:
        """Where the ball is after the swaps of a question."""
        return moved(0, ((int(one), int(other)) for one, other in problem.question.split()))

    @cached_property
    def _asked_at(self) -> list[list[Question]]:
        """The questions about each place of the ball."""
        pairs = [*combinations(range(self.cups), 2)]
        found = []
        for place in range(self.cups):
            asked = []
            for count in range(self.further + 1):
                for swaps in product(pairs, repeat=count):
                    dots = ["."] * (self.further - count)
                    words = " ".join([*dots, *(f"{one}{other}" for one, other in swaps)])
                    asked.append((words, self._group(moved(place, swaps))))
            found.append(asked)
        return found

    def solution(self, problem: Problem) -> str:
        """The group that the ball is in."""
        return self._group(self._place(problem))

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.groups > self.cups:
            yield (f"task.groups={self.groups}: found task.cups={self.cups}; legal: 2 to "
                   f"{self.cups}")
        else:
            yield from StepTask.contradictions(self, config)
