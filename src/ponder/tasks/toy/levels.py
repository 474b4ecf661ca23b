"""`LeveledTask`: questions of several levels of difficulty, for worked examples and curricula."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

from ponder.config.errors import UserError
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task

PATIENCE = 2000  # draws in a row without a question of a level
FEW = 50  # sample problems that show how many levels there are


class LeveledTask(Task):
    """A task whose questions can be made easier, step by step (`easier`).

    The easiest question that one leads to is of level 1, and each step adds a level. A subclass has
    `_drawn`, `problem`, `is_held_out` and `encode_problems`, as `ToyTask`.
    """

    @abstractmethod
    def _drawn(self, random: Random, held_out: bool) -> Iterator[Problem]:
        """Endless problems of one side of the split."""
        raise NotImplementedError

    @abstractmethod
    def problem(self, random: Random) -> Problem:
        """One problem, drawn with the random numbers of `random` alone."""
        raise NotImplementedError

    @abstractmethod
    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on."""
        raise NotImplementedError

    @abstractmethod
    def encode_problems(self, problems: Sequence[Problem], random: Random | None = None,
                        ) -> Problems:
        """Problems as tokens, with questions about their thoughts where `random` draws some."""
        raise NotImplementedError

    def easier(self, problem: Problem) -> Problem:
        """An easier problem in place of this one, for worked examples (`trainer.rehearse`) and a
        `trainer.curriculum`; the easiest ones as they are.
        """
        return problem

    def easier_ones(self, problem: Problem) -> list[Problem]:
        """A problem of each level of difficulty, this one last and the easiest one first."""
        found = [problem]
        while (easier := self.easier(found[-1])).question != found[-1].question:
            found.append(easier)
        return found[::-1]

    def of_level(self, problem: Problem, level: int) -> tuple[Problem, Problem] | None:
        """(the one a level easier, the one of the level) of what a problem leads to; None where it
        has no such level. Nothing is easier than level 1.
        """
        found = self.easier_ones(problem)
        return None if level > len(found) else (found[max(level - 2, 0)], found[level - 1])

    @property
    def levels(self) -> int:
        """The most levels that one of some sample problems has, always the same ones."""
        random = Random("levels")
        return max(len(self.easier_ones(self.problem(random))) for _ in range(FEW))

    def moves_of(self, problems: Sequence[Problem]) -> Tensor | None:
        """(P,): how many moves, or levels, each problem has; None where none is easier."""
        if "easier" not in self.offers:
            return None
        return torch.tensor([len(self.easier_ones(problem)) for problem in problems])

    @property
    def most_moves(self) -> int:
        """How many moves a question has at most: one for each level."""
        return self.levels

    def pace_contradictions(self, thinker: Any) -> Iterator[str]:
        """What is wrong with the room that paced thoughts have."""
        wanted = thinker.pace * self.most_moves
        if thinker.tokens and thinker.tokens < wanted:
            yield (f"thinker.tokens={thinker.tokens}: found thinker.pace={thinker.pace} and "
                   f"questions of up to {self.most_moves} moves; legal: {wanted} or more")

    def at_level(self, level: int, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems of a level, none of them held out, with the `easier` ones.

        Raises `UserError` where none is found.
        """
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        easier, harder = zip(*islice(self._pairs(level, random), count), strict=True)
        levels = torch.full((count,), level)
        return replace(self.encode_problems(harder, random), level=levels, moves=levels,
                       easier=self.encode_problems(easier, random))

    def _pairs(self, level: int, random: Random) -> Iterator[tuple[Problem, Problem]]:
        since = 0
        for problem in self._drawn(random, False):
            pair, since = self.of_level(problem, level), since + 1
            if pair is not None and not self.is_held_out(pair[1]):
                since = 0
                yield pair
            if since == PATIENCE:
                raise UserError(f"trainer.curriculum: found no question of level {level} to train "
                                f"on in {PATIENCE} draws of task={self.config.name}; legal: a "
                                "smaller task.held_out, or none")
