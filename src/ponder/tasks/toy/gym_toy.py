"""Questions of reasoning-gym's generators as characters: `-5 * -6 = ?` -> `30`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.types import Problem
from ponder.tasks.generators import names_of, refusals, source_of
from ponder.tasks.toy.base import ToyTask

SIZE = 100_000  # questions of a generator
LOOKED_AT = 100  # of which these tell how long they are


@task("gym_toy")
class GymToy(ToyTask):
    """Short questions of reasoning-gym's generators (extra gym) as characters, without thoughts.

    An answer is right where it is the library's own one; language models are scored by the
    library's functions (task=gym).
    """

    offers = frozenset({"questions", "answers", "predicted_answers", "labels"})
    characters = True
    symbols = ("\n", *map(chr, range(32, 127)))

    dataset: Any = option(["basic_arithmetic"], "generators of reasoning-gym with short texts, as "
                          "gcd or [gcd,count_bits]; one of them is drawn for each question")
    options: dict[str, Any] = option({}, "keys of their configurations ({min_terms: 2}), for each "
                                     "generator that has them")
    longest: int = option(80, "characters of the longest question; of an answer a quarter", low=8,
                          high=1000)

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """What is refused without loading the library."""
        yield from refusals(self)

    @cached_property
    def _sources(self) -> list[Any]:
        return [source_of(name, self.options, 0, SIZE) for name in names_of(self.dataset)]

    def problem(self, random: Random) -> Problem:
        """A question that is short enough."""
        while True:
            entry = random.choice(self._sources)[random.randrange(SIZE)]
            one = Problem(entry["question"], str(entry["answer"]))
            if len(one.question) <= self.longest and 0 < len(one.answer) <= self.longest // 4:
                return one

    @classmethod
    def surveyed(cls, keys: Any) -> Any:
        """The survey of a sample, with the lengths that are allowed. Raises `UserError` where the
        texts of a generator are longer.
        """
        if "_known_survey" not in vars(keys):
            cls._bare(keys)._must_be_short()
        found = super().surveyed(keys)
        return replace(found, question=(found.question[0], keys.longest), answer=keys.longest // 4)

    def _must_be_short(self) -> None:
        for name, source in zip(names_of(self.dataset), self._sources, strict=True):
            entries = [source[i] for i in range(LOOKED_AT)]
            for part, most in (("question", self.longest), ("answer", self.longest // 4)):
                length = max(len(str(entry[part])) for entry in entries)
                if length > most:
                    raise UserError(
                        f"task.dataset={name}: found {part}s of {length} characters; legal: at "
                        f"most {most}, as of another generator, other task.options, a larger "
                        f"task.longest={self.longest}, or task=gym with a language model")
