"""`StepTask`: questions that are answered by as many steps as they have moves, one after another.

A question is what is given and then n moves; the gold thought is the state after each move, and the
answer is the last state. Without its last move a question is an easier one, so a curriculum can
begin with one move and grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.toy.base import ToyTask
from ponder.tasks.toy.survey import Survey

ALL_TRAINED = 2  # questions of so many moves are never held out
MANY = 1000  # nor are longer ones, where there are fewer of a length than this
SAMPLE = 20  # problems that show how many different moves there are


class StepTask(ToyTask):
    """Problems of `min_steps` to `steps` moves.

    A subclass draws them: `problem(random)` returns `self.asked(given, moves, states)` with
    `self.moves(random)` moves. There are too few questions of one or two moves to hold some out
    (ten swaps of five cups), or of up to nine where a move is a bit, so all of them are trained on,
    unless the longest ones are as short.
    """

    from_left = True
    offers = ToyTask.offers | {"moves"}

    steps: int = option(16, "moves of the longest questions", low=1, high=256)
    min_steps: int = option("${.steps}", "moves of the shortest questions", low=1)
    mix: float | None = option(None, "share of all questions, before some are held out, that have "
                               "fewer moves than `steps`: min_steps to steps - 1 equally often; "
                               "null: all numbers of moves equally often", low=0, high=1,
                               later=True)
    train_steps: int | None = option(None, "moves of the longest questions that are trained on; "
                                     "longer ones are all held out. null: steps", low=1, later=True)

    def moves(self, random: Random) -> int:
        """How many moves a question has."""
        if self.mix is None:
            return random.randint(self.min_steps, self.steps)
        shorter = random.random() < self.mix
        return random.randint(self.min_steps, self.steps - 1) if shorter else self.steps

    def asked(self, given: Sequence[str], moves: Sequence[str], states: Sequence[str]) -> Problem:
        """The problem of these symbols; `states` are those after each move."""
        return Problem(" ".join([*given, *moves]), self.answered(states), " ".join(states))

    def answered(self, states: Sequence[str]) -> str:
        """The answer where these are the states after each move: the last of them."""
        return states[-1]

    def easier(self, problem: Problem) -> Problem:
        """The same question without its last move; a question of one move is left as it is."""
        states = (problem.thought or "").split()[:-1]
        if not states:
            return problem
        return Problem(problem.question.rpartition(" ")[0], self.answered(states),
                       " ".join(states))

    def encode_problems(self, problems: Sequence[Problem], random: Random | None = None,
                        ) -> Problems:
        """The same, with the number of moves where all have a gold thought."""
        encoded = ToyTask.encode_problems(self, problems, random)
        return replace(encoded, moves=self.moves_of(problems))

    def moves_of(self, problems: Sequence[Problem]) -> Tensor | None:
        """(P,): how many moves each problem has; None where one has no gold thought."""
        states = [(one.thought or "").split() for one in problems]
        return torch.tensor([*map(len, states)]) if all(states) else None

    def completed(self, encoded: Problems) -> Problems:
        """The same, with the number of moves."""
        moves = (encoded.question != encoded.pad).sum(1) - self._given
        return replace(ToyTask.completed(self, encoded), moves=moves)

    @cached_property
    def _given(self) -> int:
        """How many symbols of a question come before its moves."""
        one = self.problem(Random("sample"))
        return len(one.question.split()) - len((one.thought or "").split())

    def of_level(self, problem: Problem, level: int) -> tuple[Problem, Problem] | None:
        """(the question with one move less, that with so many); None where it has fewer."""
        states, symbols = (problem.thought or "").split(), problem.question.split()
        given = len(symbols) - len(states)
        if level > len(states):
            return None
        fewer, asked = (self.asked(symbols[:given], symbols[given:given + n], states[:n])
                        for n in (max(level - 1, 1), level))
        return fewer, asked

    @property
    def most_moves(self) -> int:
        """Those of the longest questions, trained on or not."""
        return self.steps

    @property
    def levels(self) -> int:
        """One for each number of moves that is trained on."""
        return self.train_steps or self.steps

    @cached_property
    def _all_trained(self) -> int:
        """Moves of the longest questions that are too few to hold some out; none where the
        questions are those of a table.
        """
        if self.data:
            return 0
        if self._given:  # which alone makes many questions
            return min(ALL_TRAINED, self.steps - 1)
        random = Random("moves")
        drawn = (self.problem(random).question.split() for _ in range(SAMPLE))
        different = len({move for moves in drawn for move in moves})
        few = math.ceil(math.log(MANY, different)) - 1 if different > 1 else 0
        return min(max(few, ALL_TRAINED), self.steps - 1)

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on."""
        moves = len((problem.thought or "").split())
        few = 0 < moves <= self._all_trained
        return moves > self.levels or (not few and ToyTask.is_held_out(self, problem))

    def _held_out_problems(self, found: Sequence[Problem]) -> Problems:
        """The same; each number of moves is a group, if there are several."""
        moves = torch.tensor([len((one.thought or "").split()) for one in found])
        groups = {f"{n}_steps": moves == n for n in moves.unique().tolist()}
        return replace(super()._held_out_problems(found), groups=groups if len(groups) > 1 else {})

    @classmethod
    def surveyed(cls, keys: Any) -> Survey:
        """The survey, with room for `steps` moves, one symbol each, however rare these are, and for
        padding behind them, where the thought begins in questions of all lengths.
        """
        found = super().surveyed(keys)
        shortest, longest = found.question
        unseen = keys.steps - (found.thought or keys.steps)
        return replace(found, question=(shortest, longest + unseen + 1), thought=keys.steps)

    @classmethod
    def longest_thought(cls, keys: Any) -> int:
        """The state after each move."""
        return keys.steps

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.min_steps > self.steps:
            yield (f"task.min_steps={self.min_steps}: found more than task.steps; legal: at most "
                   f"{self.steps}")
        elif self.train_steps is not None and not self.min_steps <= self.train_steps <= self.steps:
            yield (f"task.train_steps={self.train_steps}: found questions of {self.min_steps} to "
                   f"{self.steps} moves; legal: {self.min_steps} to {self.steps}")
        elif self.mix and self.min_steps == self.steps:
            yield (f"task.mix={self.mix:g}: found task.min_steps={self.min_steps}, so no question "
                   f"with fewer moves than task.steps; legal: null, or task.min_steps below "
                   f"{self.steps}")
        else:
            yield from ToyTask.contradictions(self, config)
