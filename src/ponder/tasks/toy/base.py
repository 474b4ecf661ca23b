"""`ToyTask`: a task is a function that makes one problem as text; the rest is done here.

A text is cut into symbols: its words, or its characters where `characters` is true. Each symbol of
questions and answers is an ordinary token, each symbol of gold thoughts is a thought token (the
first one `<t0>`; numbers by size, then words in alphabetical order). Symbols, lengths and numbered
answers are those of `SAMPLE` problems, always the same ones, unless the class declares them.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from ponder.config.errors import UserError, shown
from ponder.config.option import option
from ponder.config.registry import TASKS
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks import base
from ponder.tasks.base import hashed_share, missing, padded
from ponder.tasks.toy.asked import AskedTask
from ponder.tasks.toy.levels import LeveledTask
from ponder.tasks.toy.survey import SAMPLE, Survey, gold_fits, numbered, survey
from ponder.tokenizers.vocabulary import Vocabulary

PATIENCE = 2000  # draws in a row that bring nothing new before a side of the split is complete


class ToyTask(AskedTask):
    """Problems made by `problem(random)`, with a disjoint split into training and held-out ones.

    A hash of its `key` and `task.seed` decides whether a question is held out. Class attributes
    that a subclass may declare: characters, symbols, thought_symbols, answers, question_length and
    answer_length (in symbols), pool: so many training problems are drawn once and repeated; 0: each
    is drawn anew; and from_left: shorter questions are padded on the right, and positions count the
    padding, so that each symbol is equally far from the thought in questions of all lengths.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"own_network"})
    offers: ClassVar[frozenset[str]] = frozenset({"questions", "answers", "predicted_answers",
                                                  "labels", "gold_thoughts"})
    gold_vocabulary: ClassVar[int] = 1  # thought tokens that gold thoughts need at least
    characters: ClassVar[bool] = False
    symbols: ClassVar[Sequence[str]] = ()
    thought_symbols: ClassVar[Sequence[str]] = ()
    answers: ClassVar[Sequence[str]] = ()
    pool: ClassVar[int] = 0

    held_out: float = option(0.2, "share of the questions that is never trained on; 1, which "
                             "action=evaluate takes for a table of its own: all of them", low=0.0,
                             high=1)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    data: str | None = option(None, "read the problems from this .csv, .jsonl or .parquet file "
                              "instead")
    check: str = option("warn", "rows of `data` with another answer than the task's own: tell how "
                        "many, refuse, or off", legal=("warn", "refuse", "off"))
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option("${ponder.thought_length:}", "tokens of the longest gold thought, "
                                 "computed; the `think` variant allows as many")

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.easier is not LeveledTask.easier:
            cls.offers = cls.offers | {"easier", "worked_examples"}
        if cls.questions is not AskedTask.questions:
            cls.offers = cls.offers | {"several_questions"}

    @classmethod
    def check_files(cls, keys: Any, thoughts: int = 0) -> None:
        """Read `task.data` and cut every row into tokens. Raises `UserError` for the first that
        cannot be.
        """
        cls._checked_rows(keys, thoughts)

    @classmethod
    def _checked_rows(cls, keys: Any, thoughts: int = 0) -> list[tuple[str, Problem]]:
        """The rows of `task.data`, each with its split, checked without loading torch; none where
        there is no table. Raises `UserError` as `check_files` does.
        """
        if not keys.data:
            return []
        task = cls._bare(keys)
        task._describe(thoughts)
        task._load()
        return task._rows

    def _prepare(self, thoughts: int) -> None:
        """Take symbols and lengths from the survey, and the rows from `task.data`."""
        self._describe(thoughts)
        self._load()
        encoded = {"train": self.encode_problems, "test": self._held_out_problems}
        self.check_questions([one for _, one in self._rows])
        self._sides = {side: encode([one for own, one in self._rows if own == side])
                       for side, encode in encoded.items() if self._rows}
        if not self._sides:
            self._must_have_questions()

    def _describe(self, thoughts: int) -> None:
        """Set what tokens of a problem follow from, without torch: tables are checked before it."""
        self.survey, kind = self.surveyed(self.config), type(self)
        single = max(map(len, self.survey.symbols)) == 1  # then a text is read without spaces
        self.vocabulary = Vocabulary(self.survey.symbols, thoughts, "" if single else " ")
        self._number = {symbol: 1 + i for i, symbol in enumerate(self.survey.symbols)}
        self._thought = {symbol: self.vocabulary.first_thought + i
                         for i, symbol in enumerate(self.survey.thought_symbols)}
        self._label = {answer: i for i, answer in enumerate(self.survey.answers)}
        self.labels = len(self._label) or None
        declared = getattr(kind, "question_length", None)
        self.question_length: int = declared or self.survey.question[1]
        self._longest: int = declared or self.question_length - self.from_left  # without padding
        self.answer_length: int = getattr(kind, "answer_length", None) or self.survey.answer
        self.asked_length = self.survey.asked if self.asks else 0
        self.thought_length: int = self.config.thought_length or self.longest_thought(self.config)
        self._varies = bool(declared or "easier" in self.offers) or len({*self.survey.question}) > 1

    def _must_have_questions(self) -> None:
        """Raise `UserError` where nothing is left to learn."""
        next(self._drawn(Random("any"), False))

    # --- what a subclass writes -----------------------------------------------------------------

    @abstractmethod
    def problem(self, random: Random) -> Problem:
        """One problem, drawn with the random numbers of `random` alone."""
        raise NotImplementedError

    def solution(self, problem: Problem) -> str | None:
        """The task's own answer to a question of `task.data`; None where it has none."""

    def intermediate_states(self, problem: Problem) -> Sequence[str]:
        """What is true after each step, which evaluations look for in thoughts: the symbols of the
        gold thought, unless a subclass knows better.
        """
        return self.cut(problem.thought or "")

    def key(self, problem: Problem) -> str:
        """A text that questions have in common which must be on the same side of the split."""
        return problem.question

    def batch(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems: drawn anew, or some of the `pool`."""
        if self.pool:
            rows = torch.randint(self.pool, (count,), generator=generator)
            return self._asked_anew(*self._pool, rows, generator)
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        return self.encode_problems(list(islice(self._drawn(random, False), count)), random)

    # --- the task -------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems, with replacement."""
        if not self._sides:
            return self.batch(count, generator)
        rows = torch.randint(len(self._sides["train"]), (count,), generator=generator)
        trained = [one for own, one in self._rows if own == "train"] if self.asks else []
        return self._asked_anew(self._sides["train"], trained, rows, generator)

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems made easier, none of them held out."""
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        easier = (self.easier(problem) for problem in self._drawn(random, False))
        trained = (problem for problem in easier if not self.is_held_out(problem))
        return self.encode_problems(list(islice(trained, count)), random)

    def test(self) -> Problems:
        """Up to `test_questions` held-out problems, the same ones for the same `task.seed`."""
        return self._test

    def problems(self) -> list[tuple[str, Problem]]:
        """The rows of `task.data`, or the held-out problems and as many to train on."""
        return self._rows or [("test" if held_out else "train", problem)
                              for held_out in (False, True) for problem in self._distinct(held_out)]

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on."""
        return hashed_share(f"{self.seed}/{self.key(problem)}") < self.held_out

    @cached_property
    def _held_out(self) -> list[Problem]:
        """The problems of `test`, as text."""
        table = [one for own, one in self._rows if own == "test"]
        return [table[row] for row in self._some(len(table))] if table else self._distinct(True)

    @cached_property
    def _test(self) -> Problems:
        side = self._sides.get("test")
        return self._drawn_test() if side is None else side[self._some(len(side))]

    def _drawn_test(self) -> Problems:
        return self._held_out_problems(self._held_out)

    def _held_out_problems(self, found: Sequence[Problem]) -> Problems:
        """Problems as tokens, with intermediate states and moves."""
        states, names = numbered([self.intermediate_states(one) for one in found])
        return replace(self.encode_problems(found), states=states, state_names=names,
                       moves=self.moves_of(found))

    @cached_property
    def _pool(self) -> tuple[Problems, list[Problem]]:
        drawn = self._drawn(Random(f"{self.seed}/train"), False)
        found = list(islice(drawn, self.pool))
        return self.encode_problems(found), found

    def _some(self, count: int) -> Tensor:
        """Up to `test_questions` of so many rows, the same ones for the same `task.seed`."""
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[:self.test_questions]

    def _drawn(self, random: Random, held_out: bool) -> Iterator[Problem]:
        """Endless problems of one side. Raises `UserError` where that side is empty."""
        since = 0
        while since < PATIENCE:
            problem, since = self.problem(random), since + 1
            if self.is_held_out(problem) == held_out:
                since = 0
                yield problem
        raise UserError(f"task.held_out={self.held_out:g}: found that it holds out "
                        f"{'no question' if held_out else 'every question'} of "
                        f"task={self.config.name} in {PATIENCE} draws; legal: a "
                        f"{'larger' if held_out else 'smaller'} share, or another task.seed")

    def _distinct(self, held_out: bool) -> list[Problem]:
        """Up to `test_questions` different problems of one side, always the same ones."""
        found: dict[str, Problem] = {}
        since = 0
        for problem in self._drawn(Random(f"{self.seed}/test"), held_out):
            since = since + 1 if problem.question in found else 0
            found.setdefault(problem.question, problem)
            if len(found) == self.test_questions or since == PATIENCE:
                break
        return list(found.values())

    # --- symbols --------------------------------------------------------------------------------

    def cut(self, text: str) -> list[str]:
        """The symbols of a text."""
        return list(text) if self.characters else text.split()

    @classmethod
    def surveyed(cls, keys: Any) -> Survey:
        """The survey of a task with these keys: made once, and kept beside the values of the keys,
        so that the check of a configuration and the task itself share it.
        """
        kept = vars(keys)
        if "_known_survey" not in kept:
            kept["_known_survey"] = survey(cls._bare(keys))
        return kept["_known_survey"]

    @classmethod
    def longest_thought(cls, keys: Any) -> int:
        """Symbols of the longest gold thought of a task with these keys; of an answer where there
        are no gold thoughts.
        """
        found = cls.surveyed(keys)
        return max(found.thought or found.answer, 1)

    @classmethod
    def thought_vocabulary(cls, keys: Any) -> int:
        """Symbols of gold thoughts, unless the class says how many it needs."""
        declared = cls.gold_vocabulary != ToyTask.gold_vocabulary
        return cls.gold_vocabulary if declared else len(cls.surveyed(keys).thought_symbols)

    def encode_problems(self, problems: Sequence[Problem], random: Random | None = None,
                        ) -> Problems:
        """Problems as tokens, with questions about their thoughts drawn with `random`, or their own
        alone. Raises `UserError` for lengths and symbols that the sample lacks.
        """
        pad, rows = self.vocabulary.pad, [self._encoded(one) for one in problems]
        question, answer = [row[0] for row in rows], [row[1] for row in rows]
        gold = [row[2] for row in rows if row[2] is not None]
        thought = padded(gold, pad, self.thought_length + 1) if self._spells and len(gold) == len(
            rows) else None
        label = torch.tensor([row[3] for row in rows]) if self._label else None
        encoded = Problems(padded(question, pad, self.question_length, left=not self.from_left),
                           padded(answer, pad, self.answer_length), thought, pad, label=label,
                           padded=self._varies)
        return self.asking(encoded, problems, random)

    @property
    def _spells(self) -> bool:
        """Whether there are gold thoughts, and tokens for them."""
        return self.survey.thought is not None and self.vocabulary.thoughts >= len(self._thought)

    def _encoded(self, problem: Problem) -> tuple[list[int], list[int], list[int] | None, int]:
        """(question, answer, thought with its end, label) of a problem, as tokens without padding.
        """
        thought = None if problem.thought is None or not self._spells else [
            *self._tokens(problem, "thought", self._thought, self.thought_length),
            self.vocabulary.end]
        return (self._tokens(problem, "question", self._number, self._longest),
                self._tokens(problem, "answer", self._number, self.answer_length), thought,
                self._number_of(problem) if self._label else 0)

    def _tokens(self, problem: Problem, part: str, known: dict[str, int], most: int) -> list[int]:
        """Tokens of the question, answer or thought of a problem, as `part` says."""
        symbols = self.cut(getattr(problem, part))
        exactly = part == "question" and not self._varies
        if not symbols and part != "thought":
            raise self._refusal(problem, f"no symbol in its {part}", "at least one")
        if len(symbols) > most or (exactly and len(symbols) < most):
            declared = "longest_thought" if part == "thought" else f"{part}_length"
            raise self._refusal(
                problem, f"{'an' if part == 'answer' else 'a'} {part} of {len(symbols)} symbols",
                f"{'exactly' if exactly else 'at most'} {most}, as of {SAMPLE} sample problems, or "
                f"another {declared} in the class")
        try:
            return [known[symbol] for symbol in symbols]
        except KeyError as unknown:
            raise self._refusal(
                problem, f"{part} symbol {unknown}, which none of {SAMPLE} sample problems has",
                f"{shown([*known][:40])}, or all declared as "
                f"{'thought_' * (part == 'thought')}symbols in the class") from None

    def _number_of(self, problem: Problem) -> int:
        """The label of a problem's answer."""
        if problem.answer not in self._label:
            raise self._refusal(
                problem, f"answer {problem.answer[:40]!r}, which none of {SAMPLE} sample problems "
                "has", f"{shown([*self._label][:40])}, or all declared as answers in the class")
        return self._label[problem.answer]

    def _refusal(self, problem: Problem, found: str, legal: str) -> UserError:
        return UserError(f"task={self.config.name}: question {problem.question[:60]!r}: found "
                         f"{found}; legal: {legal}")

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question, with or without spaces, and how many its answer has."""
        words = "|".join(map(re.escape, sorted(self._number, key=len, reverse=True)))
        unknown = re.sub(rf"{words}|\s", "", text)
        if unknown:
            raise UserError(f"prompt={text}: found {unknown[0]!r}, for which this model has no "
                            f"token; legal: {shown([*self._number][:40])}")
        found = [self._number[word] for word in re.findall(words, text)]
        least = 1 if self._varies else self._longest
        if not least <= len(found) <= self._longest:
            raise UserError(f"prompt={text}: found {len(found)} tokens; legal: a question of "
                            f"{'1 to ' * self._varies}{self._longest}")
        gap = (self.question_length - len(found)) * self.from_left
        return [*found, *[self.vocabulary.pad] * gap], self.answer_length

    # --- files ----------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read `task.data`, if there is one, as text."""
        self._rows = self._read(Path(self.data)) if self.data else []
        self.remarks = base.leaked([(own, one.question) for own, one in self._rows], self.data)
        self.doubts = base.disagreeing(self, [one for _, one in self._rows])

    def _read(self, path: Path) -> list[tuple[str, Problem]]:
        """(split, problem) of every row. Raises `UserError` that names the line."""
        rows = base.problem_rows(path)
        found = []
        for where, row in rows:
            problem, hashed = self._row(where, row), "split" not in row
            split = ("test" if self.is_held_out(problem) else "train") if hashed else row["split"]
            if split not in ("train", "test"):
                raise UserError(f"{where}: found split {split!r}; legal: train, test")
            found.append((split, problem))
        for side in ("train", "test") if self.held_out < 1 else ("test",):
            if side not in {split for split, _ in found}:
                raise UserError(f"{path}: found no {side} problems; legal: a column split with "
                                "train and test in it, or another task.held_out")
        return found

    def _row(self, where: str, row: dict[str, Any]) -> Problem:
        """The problem of a row, checked. An empty cell is no thought, not one of no symbols."""
        problem = Problem(str(row["question"]).strip(), str(row["answer"]).strip(),
                          str(row.get("thought") or "") or None)
        try:
            self._encoded(problem)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return problem

    def contradictions(self, config: Any) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        yield from missing("data", self.data)
        if self.held_out == 0 and self.data is None:
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, at most 0.9")
        if self.held_out == 1 and config.action != "evaluate":
            yield (f"task.held_out={self.held_out:g}: found no question to train on; legal: below "
                   "1, or action=evaluate")
        kind: Any = TASKS[self.name].target  # type: ignore[attr-defined]
        length = kind.longest_thought(self)
        if self.thought_length != length:
            yield (f"task.thought_length={self.thought_length}: found another length than the gold "
                   f"thought has; legal: {length} (set thinker.tokens for more)")
        if config.thinker.pace and "easier" in kind.offers:
            yield from kind._bare(self).pace_contradictions(config.thinker)
        if kind._describe is ToyTask._describe:
            yield from gold_fits(kind, self, config)

