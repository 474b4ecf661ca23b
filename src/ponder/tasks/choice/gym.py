"""Questions of reasoning-gym's generators for language models, scored by the library itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from ponder.config.option import option
from ponder.config.registry import task
from ponder.tasks.choice import reading
from ponder.tasks.choice.free import Free
from ponder.tasks.choice.qa import QuestionKeys
from ponder.tasks.choice.questions import Question
from ponder.tasks.generators import Drawn, check, drawn, names_of, refusals

PATIENCE = 200  # draws in a row without a new question before a generator has no more
SPARE = 3  # a generator is told that it has so many times the questions that are asked of it
UNKNOWN = "?"  # in place of an answer that a generator keeps to itself


@dataclass
class GymKeys(QuestionKeys):
    """Questions of reasoning-gym's generators (extra gym), scored by the library itself."""

    name: str = option("gym", "name of the task", legal=("gym",))
    data: str | None = option(None, "null, as questions are drawn")
    test_data: str | None = option(None, "null, as questions are drawn")
    dataset: Any = option(["countdown"], "generators of reasoning-gym, as countdown or "
                          "[countdown,leg_counting]; each gets an equal share of the questions")
    options: dict[str, Any] = option({}, "keys of their configurations ({min_numbers: 3}), for "
                                     "each generator that has them")
    train_questions: int | None = option(1000, "questions to train on", low=1)
    parser: str = option("tag", "where the answer stands in a written text; tag: in the last "
                         "<answer>...</answer>, as reasoning-gym asks for it; others as in "
                         "task=free", legal=reading.PARSERS)
    verify: str = option("own", "the generator's own score_answer", legal=("own",))

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        yield from super().contradictions(config)
        for key in ("data", "test_data"):
            if getattr(self, key) is not None:
                yield (f"task.{key}={getattr(self, key)}: found a file, with task=gym; legal: "
                       "null, or task=free")
        if self.train_questions is None:
            yield "task.train_questions=null: found questions without end; legal: a number"
        yield from refusals(self)


@task("gym", keys=GymKeys)
class Gym(Free):
    """Questions of reasoning-gym's generators. Held-out ones are drawn first, training ones with
    other seeds; a question that was drawn before, on either side, is left out.
    """

    from_files = False
    config: Any

    @classmethod
    def check_files(cls, keys: Any, thoughts: int = 0) -> None:
        check(keys.dataset, keys.options)

    def data(self) -> list[Question]:
        """As many questions of each generator as `task.train_questions` and `test_questions` say;
        fewer where it has no more.
        """
        config, names = self.config, names_of(self.config.dataset)
        self._entries: dict[str, Drawn] = {}
        found: dict[str, Question] = {}
        for split, count in (("test", config.test_questions), ("train", config.train_questions)):
            for i, name in enumerate(names):
                own = count // len(names) + (i < count % len(names))
                self._draw(name, split, own, found)
        return list(found.values())

    def _draw(self, name: str, split: str, count: int, found: dict[str, Question]) -> None:
        """Add up to `count` new questions of a generator to those found, by their words."""
        seed = Random(f"{self.config.seed}/{split}/{name}").getrandbits(31)
        wanted, since = len(found) + count, 0
        draws = drawn(name, self.config.options, seed, count * SPARE + PATIENCE)
        while len(found) < wanted and since < PATIENCE and (one := next(draws, None)):
            question, answer, since = one[1]["question"], one[1]["answer"], since + 1
            if question not in found:
                since, own = 0, f"{name}/{split}/{len(self._entries)}"
                self._entries[own] = one
                gold = answer if isinstance(answer, str) and answer else UNKNOWN
                found[question] = Question(own, question, (gold,), 0, name, split=split)

    def score(self, question: Question, said: str) -> float:
        """The library's own score of an answer; 0 where it fails at what was written, and for a
        question that was typed.
        """
        known = vars(self).get("_entries", {})
        if question.id not in known:
            return 0.0
        source, entry = known[question.id]
        try:
            return min(max(float(source.score_answer(said, entry)), 0.0), 1.0)
        except Exception:  # some take what was written for a number
            return 0.0
