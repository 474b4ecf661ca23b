"""Which of two nodes can be reached? `0>1 2>3 1>4 3>5 4 5 0` -> `4`: from 0 by 1, and 5 not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.base import ToyTask


@task("graph")
class Graph(ToyTask):
    """Two trees of equal shape: which of two nodes, equally deep, is below the root that is asked?

    A question is the shuffled list of all edges, each of them one symbol, the two nodes and the
    root, as in ProsQA (Hao et al., 2024, "Training large language models to reason in a continuous
    latent space"). Both trees are drawn in the same way, so nothing but following edges tells the
    nodes apart. The thought goes up, as an edge up is the only one while several may lead down: the
    nodes above the first node, as far as its root, and that node again, the same of the second, and
    at last the answer, which stands behind the root that is asked.
    """

    hops: int = option(4, "edges between the root and the nodes that are asked about", low=1,
                       high=16)
    branches: int = option(2, "further nodes of each tree, which lead nowhere", low=0, high=24)

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        ToyTask._take_keys(self, keys)
        nodes = tuple(map(str, range(2 * (self.hops + 1 + self.branches))))
        vars(self).update(symbols=(*nodes, *map(">".join, permutations(nodes, 2))),
                          thought_symbols=nodes)

    def problem(self, random: Random) -> Problem:
        """Names of nodes, places of branches, the orders of edges and of both nodes are drawn."""
        size = self.hops + 1 + self.branches
        names = [*map(str, random.sample(range(2 * size), 2 * size))]
        trees = names[:size], names[size:]
        edges = []
        for tree in trees:
            edges += pairwise(tree[:self.hops + 1])
            edges += [(random.choice(tree[:k]), tree[k]) for k in range(self.hops + 1, size)]
        random.shuffle(edges)
        asked = [tree[self.hops] for tree in trees]
        random.shuffle(asked)
        return _problem([*map(">".join, edges)], trees[0][0], asked)

    def solution(self, problem: Problem) -> str | None:
        """The node that is below the root."""
        *edges, one, other, root = problem.question.split()
        parent = _parents(edges)
        found = [node for node in (one, other) if root in _above(node, parent)]
        return found[0] if len(found) == 1 else None

    def easier(self, problem: Problem) -> Problem:
        """The parents of both nodes are asked about; a question of one hop is left as it is."""
        *edges, one, other, root = problem.question.split()
        parent = _parents(edges)
        above = {*_above(one, parent), *_above(other, parent)}
        if root not in above or not {one, other} <= {*parent}:  # in a table of a user
            return problem
        asked = [parent[one], parent[other]]
        return problem if root in asked else _problem(edges, root, asked)


def _problem(edges: list[str], root: str, asked: list[str]) -> Problem:
    parent = _parents(edges)
    first, second = ([*_above(node, parent), node] for node in asked)
    answer = asked[0] if root in first else asked[1]
    return Problem(" ".join([*edges, *asked, root]), answer, " ".join([*first, *second, answer]))


def _parents(edges: list[str]) -> dict[str, str]:
    pairs = (edge.partition(">") for edge in edges)
    return {to: start for start, _, to in pairs if to}


def _above(node: str, parent: dict[str, str]) -> Iterator[str]:
    """The nodes that lead to this one, the nearest first."""
    for _ in parent:  # not for ever, where a table has edges in a circle
        if node in parent:
            node = parent[node]
            yield node
