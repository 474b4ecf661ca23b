"""A finite automaton that is drawn at random, and tells one bit of its state: `a b b` -> `1`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.toy.asked import Question
from ponder.tasks.toy.steps import StepTask

LETTERS = "abcdef"
NONE = "."  # no letter
MANY = 1000  # questions about a thought: more of them take longer to list than to answer
LONGEST = 256  # letters of the longest words that a machine is tried with


@dataclass(frozen=True)
class Machine:
    """A Moore machine that begins in state 0: `moves[state][letter]` is the next state, and
    `outputs[state]` the bit that a state tells.
    """

    moves: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    def after(self, letters: Sequence[int], state: int = 0) -> int:
        """The state after some letters."""
        for letter in letters:
            state = self.moves[state][letter]
        return state

    def reached(self, steps: int) -> set[int]:
        """The states after one letter to `steps` letters."""
        found: set[int] = set()
        last = {0}
        for _ in range(steps):
            last = {after for state in last for after in self.moves[state]}
            if last <= found:
                break
            found |= last
        return found

    def separated(self, further: int) -> list[int]:
        """The class of each state: states of one class tell the same bits after all words of up to
        `further` letters. Classes are numbered by their first states.
        """
        classes = list(self.outputs)
        for _ in range(further):
            classes = _numbered([(classes[state], *(classes[after] for after in row))
                                 for state, row in enumerate(self.moves)])
        return _numbered(classes)

    def minimal(self) -> Machine:
        """The smallest machine that tells the same after every word (Moore 1956, "Gedanken-
        experiments on Sequential Machines"): classes of states that no word separates, numbered
        in the order in which words reach them, the shorter and then the alphabetically first ones
        before.
        """
        classes = self.separated(len(self.moves))
        order, found = [0], {classes[0]: 0}
        for state in order:
            for after in self.moves[state]:
                if classes[after] not in found:
                    found[classes[after]] = len(order)
                    order.append(after)
        return Machine(tuple(tuple(found[classes[after]] for after in self.moves[state])
                             for state in order), tuple(self.outputs[state] for state in order))


def _numbered(names: Sequence[Any]) -> list[int]:
    """Equal names get equal numbers, in the order in which they first occur."""
    number: dict[Any, int] = {}
    return [number.setdefault(name, len(number)) for name in names]


def drawn_machine(states: int, letters: int, reversible: bool, seed: int) -> Machine:
    """A machine that is always the same for these numbers. Moves and outputs are uniform, but those
    machines are left out that tell the same bit after all words of one length, if these have at
    least `states` letters. reversible: each letter permutes the states.
    """
    random = Random(f"automaton/{states}/{letters}/{reversible}/{seed}")
    while True:
        columns = [random.sample(range(states), states) if reversible else
                   random.choices(range(states), k=states) for _ in range(letters)]
        machine = Machine(tuple(zip(*columns, strict=True)),
                          tuple(random.choices((0, 1), k=states)))
        if _stays_open(machine):
            return machine


def _stays_open(machine: Machine) -> bool:
    """Whether words of each length from as many letters as there are states lead to both bits."""
    last = {0}
    for length in range(1, LONGEST + 1):
        last = {after for state in last for after in machine.moves[state]}
        if length >= len(machine.moves) and len({machine.outputs[state] for state in last}) < 2:
            return False
    return True


@task("automaton")
class Automaton(StepTask):
    """A finite automaton reads `steps` letters: which bit does its last state tell?

    The automaton is drawn at random with the seed `machine`. The thought is the state of the
    minimal automaton after each letter: all that any further word can depend on, and nothing else.
    What may be asked about a thought is the bit after up to `further` letters more; `.` stands for
    no letter.
    """

    states: int = option(5, "states of the automaton, before those are merged that no word tells "
                         "apart", low=2, high=16)
    letters: int = option(2, "letters of its alphabet", low=2, high=len(LETTERS))
    machine: int = option(0, "which automaton is drawn", low=0)
    reversible: bool = option(True, "each letter permutes the states, so that no letter is ever "
                              "forgotten; false: it leads from each state anywhere, and mostly the "
                              "last few letters decide, which needs no thought")
    further: int = option(2, "letters of the longest words that are asked about a thought", low=0,
                          high=8)

    @cached_property
    def minimal(self) -> Machine:
        """The minimal automaton."""
        return drawn_machine(self.states, self.letters, self.reversible, self.machine).minimal()

    @cached_property
    def minimal_states(self) -> int:
        """How many states of the minimal automaton questions reach, of `steps` letters at most."""
        return len(self.minimal.reached(self.steps))

    @cached_property
    def separated_states(self) -> int:
        """How many of them questions about a thought can tell apart, of `further` letters at most.
        """
        classes = self.minimal.separated(self.further)
        return len({classes[state] for state in self.minimal.reached(self.steps)})

    def _take_keys(self, keys: Any) -> None:
        """Symbols are all that there can be, whether or not a sample of problems has them."""
        StepTask._take_keys(self, keys)
        vars(self).update(
            symbols=("0", "1", *LETTERS[:self.letters], NONE), answers=("0", "1"),
            thought_symbols=tuple(map(str, sorted(self.minimal.reached(self.steps)))))

    def problem(self, random: Random) -> Problem:
        """Letters drawn uniformly."""
        word = random.choices(LETTERS[:self.letters], k=self.moves(random))
        return self.asked([], word, [*map(str, self._states(word))])

    def answered(self, states: Sequence[str]) -> str:
        """The bit that the last state tells."""
        return str(self.minimal.outputs[int(states[-1])])

    def questions(self, problem: Problem) -> list[Question]:
        """Which bit does the state tell that each word leads to?"""
        return self._questions[self._states(problem.question.split())[-1]]

    def solution(self, problem: Problem) -> str:
        """The bit that the last state tells."""
        return str(self.minimal.outputs[self._states(problem.question.split())[-1]])

    def _states(self, word: Sequence[str]) -> list[int]:
        """The states of the minimal automaton after each letter."""
        state, states = 0, []
        for letter in word:
            state = self.minimal.moves[state][LETTERS.index(letter)]
            states.append(state)
        return states

    @cached_property
    def _questions(self) -> list[list[Question]]:
        """What may be asked about a thought, for each state of the minimal automaton."""
        words = [word for length in range(self.further + 1)
                 for word in product(range(self.letters), repeat=length)]
        width = max(self.further, 1)
        texts = [" ".join([*(LETTERS[letter] for letter in word), *[NONE] * (width - len(word))])
                 for word in words]
        return [[(text, str(self.minimal.outputs[self.minimal.after(word, state)]))
                 for text, word in zip(texts, words, strict=True)]
                for state in range(len(self.minimal.moves))]

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if sum(self.letters**length for length in range(self.further + 1)) > MANY:
            yield (f"task.further={self.further}: found task.letters={self.letters}, more than "
                   f"{MANY} words of so many letters; legal: fewer")
        else:
            yield from StepTask.contradictions(self, config)
