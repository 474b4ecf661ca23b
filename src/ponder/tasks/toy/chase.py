"""Following pointers: `0>2 2>1 1>0 0 > >` -> `1`, as 0 points to 2 and 2 to 1."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.steps import StepTask


@task("chase")
class Chase(StepTask):
    """Each node points to one; which is reached from the start by as many hops as there are `>`?

    A question is the shuffled list of pointers, each of them one symbol, the start and the hops.
    The thought is the node after each hop. All nodes lie on one cycle, so a walk comes back only
    after all of them, and every end is equally likely.
    """

    steps: int = option(6, "hops of the longest questions", low=1, high=63)
    nodes: int = option(12, "nodes of the cycle", low=2, high=64)

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        StepTask._take_keys(self, keys)
        nodes = tuple(map(str, range(self.nodes)))
        vars(self).update(symbols=(*nodes, ">", *map(">".join, permutations(nodes, 2))),
                          thought_symbols=nodes)

    def problem(self, random: Random) -> Problem:
        """A uniformly drawn cycle; the order of pointers, the start and the number of hops too."""
        cycle = [*map(str, random.sample(range(self.nodes), self.nodes))]
        pairs = [*zip(cycle, cycle[1:] + cycle[:1], strict=True)]
        random.shuffle(pairs)
        hops = self.moves(random)
        states = (cycle * (1 + hops // self.nodes) + cycle)[1:hops + 1]
        return self.asked([*map(">".join, pairs), cycle[0]], [">"] * hops, states)

    def solution(self, problem: Problem) -> str:
        """Where the hops lead."""
        *pointers, place = (word for word in problem.question.split() if word != ">")
        leads = dict(pointer.split(">") for pointer in pointers)
        for _ in range(problem.question.split().count(">")):
            place = leads[place]
        return place
