"""`ToyTask`: a task is a function that makes one problem as text; the rest is done here.

    @task("parity")
    class Parity(ToyTask):
        bits: int = option(24, "bits of a question", low=2)

        def problem(self, random) -> Problem:
            ...

A text is cut into symbols: its words, or its characters where `characters` is true. Each symbol of
questions and answers is an ordinary token, each symbol of gold thoughts is a thought token (the
first one `<t0>`; numbers in their order, then words in alphabetical order). Symbols, lengths and
numbered answers are found in a sample of `SAMPLE` problems, always the same ones, unless the class
declares them.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from ponder.config.errors import UserError, brief, shown
from ponder.config.option import option
from ponder.config.registry import TASKS
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import TABLES, Task, missing, read_table, require
from ponder.tokenizers.vocabulary import Vocabulary

SAMPLE = 500  # problems that show which symbols and lengths there are
BLOCKS, BLOCK = 32, 4096  # the pool of training problems: so many blocks of so many problems
PATIENCE = 2000  # draws in a row that bring nothing new before a side of the split is complete
LABELLED = 50  # more distinct answers than this are numbered only if they are declared
SEEN = 5  # ... and only if each of them comes at least so often in the sample


@dataclass(frozen=True)
class Survey:
    """What a sample of problems shows: symbols in order, (shortest, longest) lengths, answers."""

    symbols: tuple[str, ...]
    thought_symbols: tuple[str, ...]
    question: tuple[int, int]
    answer: int
    thought: int | None  # None: some problem has no gold thought
    answers: tuple[str, ...]  # none where they are too many to number


class ToyTask(Task):
    """Problems made by `problem(random)`, with a disjoint split into training and held-out ones.

    A question is held out if a hash of its `key` and `task.seed` falls into the share
    `task.held_out`. What a subclass may declare, as class attributes: characters, symbols,
    thought_symbols, answers, question_length and answer_length (in symbols).
    """

    requires: ClassVar[frozenset[str]] = frozenset({"own_network"})
    offers: ClassVar[frozenset[str]] = frozenset({"questions", "answers", "predicted_answers",
                                                  "labels", "gold_thoughts"})
    gold_vocabulary: ClassVar[int] = 1  # thought tokens that gold thoughts need at least
    characters: ClassVar[bool] = False
    symbols: ClassVar[Sequence[str]] = ()
    thought_symbols: ClassVar[Sequence[str]] = ()
    answers: ClassVar[Sequence[str]] = ()

    held_out: float = option(0.2, "share of the questions that is never trained on; 1, which "
                             "action=evaluate takes for a table of its own: all of them", low=0.0,
                             high=1)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    data: str | None = option(None, "read the problems from this .csv, .jsonl or .parquet file "
                              "instead")
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option("${ponder.thought_length:}", "tokens of the longest gold thought, "
                                 "computed; the `think` variant allows as many")

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.easier is not ToyTask.easier:
            cls.offers = cls.offers | {"easier", "worked_examples"}

    def _prepare(self, thoughts: int) -> None:
        """Find out symbols, lengths and the two sides of the split."""
        self.survey = self._surveyed()
        kind = type(self)
        single = max(map(len, self.survey.symbols)) == 1  # then a text is read without spaces
        self.vocabulary = Vocabulary(self.survey.symbols, thoughts, "" if single else " ")
        self._number = {symbol: 1 + i for i, symbol in enumerate(self.survey.symbols)}
        self._thought = {symbol: self.vocabulary.first_thought + i
                         for i, symbol in enumerate(self.survey.thought_symbols)}
        self._label = {answer: i for i, answer in enumerate(self.survey.answers)}
        self.labels = len(self._label) or None
        declared = getattr(kind, "question_length", None)
        self.question_length: int = declared or self.survey.question[1]
        self.answer_length: int = getattr(kind, "answer_length", None) or self.survey.answer
        self.thought_length: int = (self.config.thought_length or
                                    max(self.survey.thought or self.survey.answer, 1))
        self._varies = bool(declared) or self.survey.question[0] != self.survey.question[1]
        self._blocks: dict[int, Problems] = {}
        self._rows = None if self.data is None else self._read(Path(self.data))
        self._sides = {split: self.encode_problems([problem for side, problem in self._rows
                                           if side == split])
                       for split in ("train", "test")} if self._rows else {}
        if not self._sides:
            next(self._drawn(Random("any"), False))  # something is left to learn

    # --- what a subclass writes -----------------------------------------------------------------

    @abstractmethod
    def problem(self, random: Random) -> Problem:
        """One problem, drawn with the random numbers of `random` alone."""
        raise NotImplementedError

    def easier(self, problem: Problem) -> Problem:
        """An easier problem in place of this one, for worked examples (`trainer.rehearse`)."""
        return problem

    def key(self, problem: Problem) -> str:
        """Questions with equal keys are on the same side of the split."""
        return problem.question

    def batch(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems: from a random block of the pool.

        A block is drawn and encoded when it is first asked for, and depends on `task.seed` alone.
        """
        number = int(torch.randint(BLOCKS, (1,), generator=generator))
        if number not in self._blocks:
            drawn = self._drawn(Random(f"{self.seed}/train/{number}"), False)
            self._blocks[number] = self.encode_problems([next(drawn) for _ in range(BLOCK)])
        return self._blocks[number][torch.randint(BLOCK, (count,), generator=generator)]

    # --- the task -------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems, with replacement."""
        if not self._sides:
            return self.batch(count, generator)
        rows = torch.randint(len(self._sides["train"]), (count,), generator=generator)
        return self._sides["train"][rows]

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems made easier, none of them held out."""
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        easier = (self.easier(problem) for problem in self._drawn(random, False))
        trained = (problem for problem in easier if not self.is_held_out(problem))
        return self.encode_problems([next(trained) for _ in range(count)])

    def test(self) -> Problems:
        """Up to `test_questions` held-out problems, the same ones for the same `task.seed`."""
        if self._sides:
            return self._sides["test"][slice(self.test_questions)]
        return self.encode_problems(self._distinct(True))

    def problems(self) -> list[tuple[str, Problem]]:
        """The rows of `task.data`, or the held-out problems and as many to train on."""
        return self._rows or [(split, problem) for split, held_out in (("train", False),
                                                                       ("test", True))
                              for problem in self._distinct(held_out)]

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on."""
        word = hashlib.blake2b(f"{self.seed}/{self.key(problem)}".encode(), digest_size=8).digest()
        return int.from_bytes(word, "big") / 2**64 < self.held_out

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

    def _sample(self) -> list[Problem]:
        """Problems that symbols and lengths are taken from. Raises `UserError` if `problem` fails
        or gives something else than texts.
        """
        random, name = Random("sample"), f"task={getattr(self, 'name', type(self).__name__)}"
        try:
            drawn = [self.problem(random) for _ in range(SAMPLE)]
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(f"{name}: problem() failed ({type(error).__name__}: {brief(error)}, "
                            f"{at.filename}:{at.lineno}); legal: a Problem of texts") from error
        for one in drawn:
            texts = [one.question, one.answer] if isinstance(one, Problem) else [one]
            if not all(isinstance(text, str) and text for text in texts):
                raise UserError(f"{name}: found {one!r} from problem(); legal: a Problem whose "
                                "question and answer are texts that are not empty")
        return drawn

    def _surveyed(self) -> Survey:
        drawn = self._sample()
        asked, said = ([self.cut(text) for text in texts] for texts in (
            [one.question for one in drawn], [one.answer for one in drawn]))
        gold = [self.cut(one.thought) for one in drawn if one.thought is not None]
        counts = Counter(one.answer for one in drawn)
        few = len(counts) <= LABELLED and min(counts.values()) >= SEEN
        lengths = [len(row) for row in asked]
        return Survey(
            tuple(self.symbols) or _ordered(asked + said),
            tuple(self.thought_symbols) or _ordered(gold),
            (min(lengths), max(lengths)), max(map(len, said)),
            max(map(len, gold)) if len(gold) == SAMPLE else None,
            tuple(self.answers) or (tuple(sorted(counts)) if few else ()))

    @classmethod
    def longest_thought(cls, keys: Any) -> int:
        """Symbols of the longest gold thought of a task with these keys; of an answer where there
        are no gold thoughts.
        """
        task = cls.__new__(cls)
        vars(task).update(vars(keys))
        found = task._surveyed()
        return max(found.thought or found.answer, 1)

    def encode_problems(self, problems: Sequence[Problem]) -> Problems:
        """Problems as tokens. Raises `UserError` for one that is longer than any of the sample, or
        has a symbol that is not in it.
        """
        pad, end = self.vocabulary.pad, self.vocabulary.end
        question = [self._tokens(one, one.question, "question", self._number, self.question_length)
                    for one in problems]
        answer = [self._tokens(one, one.answer, "answer", self._number, self.answer_length)
                  for one in problems]
        thought = None
        if self.survey.thought is not None and self.vocabulary.thoughts >= len(self._thought) and \
                all(one.thought is not None for one in problems):
            rows = [[*self._tokens(one, one.thought or "", "thought", self._thought,
                                   self.thought_length), end] for one in problems]
            thought = _padded(rows, self.thought_length + 1, pad)
        return Problems(_padded(question, self.question_length, pad, left=True),
                        _padded(answer, self.answer_length, pad), thought, pad,
                        label=self._labels(problems), padded=self._varies)

    def _tokens(self, problem: Problem, text: str, part: str, known: dict[str, int],
                most: int) -> list[int]:
        symbols = self.cut(text)
        where = f"task={self.config.name}: question {problem.question[:60]!r}"
        if len(symbols) > most or (part == "question" and len(symbols) < most and not self._varies):
            raise UserError(f"{where}: found a {part} of {len(symbols)} symbols; legal: at most "
                            f"{most}, or another length declared as {part}_length in the class")
        unknown = next((symbol for symbol in symbols if symbol not in known), None)
        if unknown is not None or (not symbols and part != "thought"):
            name = "thought_symbols" if part == "thought" else "symbols"
            raise UserError(f"{where}: found {part} symbol {unknown or ''!r}; legal: "
                            f"{shown([*known][:40])}, or more declared as {name} in the class")
        return [known[symbol] for symbol in symbols]

    def _labels(self, problems: Sequence[Problem]) -> Tensor | None:
        if not self._label:
            return None
        for problem in problems:
            if problem.answer not in self._label:
                raise UserError(f"task={self.config.name}: found answer {problem.answer[:40]!r}; "
                                f"legal: {shown([*self._label][:40])}, or others declared as "
                                "answers in the class")
        return torch.tensor([self._label[problem.answer] for problem in problems])

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question, with or without spaces, and how many its answer has."""
        words = sorted(self._number, key=len, reverse=True)
        pattern = re.compile(r"\s*(" + "|".join(map(re.escape, words)) + r")\s*")
        found, at = list[int](), 0
        while at < len(text):
            word = pattern.match(text, at)
            if word is None:
                raise UserError(f"prompt={text}: found {text[at]!r}, for which this model has no "
                                f"token; legal: {shown([*self._number][:40])}")
            found.append(self._number[word.group(1)])
            at = word.end()
        most = self.question_length
        if not 0 < len(found) <= most or (len(found) < most and not self._varies):
            raise UserError(f"prompt={text}: found {len(found)} tokens; legal: a question of "
                            f"{'1 to ' if self._varies else ''}{most}")
        return found, self.answer_length

    # --- files ----------------------------------------------------------------------------------

    def _read(self, path: Path) -> list[tuple[str, Problem]]:
        """(split, problem) of every row. Raises `UserError` that names the line."""
        rows = read_table(path)
        require(path, rows, ("question", "answer"))
        found = [(self.row_split(where, row), self._row(where, row)) for where, row in rows]
        found = [(side or ("test" if self.is_held_out(one) else "train"), one)
                 for side, one in found]
        return two_sides(path, found, self.held_out < 1)

    def _row(self, where: str, row: dict[str, Any]) -> Problem:
        thought = row.get("thought")
        problem = Problem(str(row["question"]).strip(), str(row["answer"]).strip(),
                          None if thought is None else str(thought))
        try:
            self.encode_problems([problem])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return problem

    @staticmethod
    def row_split(where: str, row: dict[str, Any]) -> str | None:
        """train or test; None where the table has no column split."""
        split = row.get("split")
        if "split" in row and split not in ("train", "test"):
            raise UserError(f"{where}: found split {split!r}; legal: train, test")
        return split

    def contradictions(self, config: Any) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        yield from missing("data", self.data, TABLES)
        if self.held_out == 0 and self.data is None:
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, at most 0.9")
        if self.held_out == 1 and config.action != "evaluate":
            yield (f"task.held_out={self.held_out:g}: found no question to train on; legal: below "
                   "1, or action=evaluate")
        kind: Any = TASKS[self.name].target  # type: ignore[attr-defined]
        if kind._prepare is ToyTask._prepare:
            yield from _gold_fits(kind(self, 0).survey, self, config)


def _gold_fits(survey: Survey, keys: Any, config: Any) -> Iterator[str]:
    """What of a configuration needs other gold thoughts than the problems have."""
    wanted = {"gold_thought", "gold_tokens"} & {*config.reward} or config.trainer.rehearse \
        or config.answerer.learns_from == "gold"
    if not config.thinker.tokens or not wanted:
        return
    if survey.thought is None:
        yield (f"task={keys.name}: found problems without a thought, which variant=super, "
               "variant=clean and trainer.rehearse need; legal: Problem(..., thought=...)")
    elif config.thinker.vocabulary < len(survey.thought_symbols):
        yield (f"thinker.vocabulary={config.thinker.vocabulary}: found "
               f"{len(survey.thought_symbols)} symbols in gold thoughts; legal: at least as many")


def two_sides(path: Path, rows: list[tuple[str, Any]], trained: bool) -> list[tuple[str, Any]]:
    """The (split, row) pairs of a table. Raises `UserError` where none is held out, or, if the
    table is trained on, where all are.
    """
    for name in ("train", "test") if trained else ("test",):
        if name not in {split for split, _ in rows}:
            raise UserError(f"{path}: found no {name} problems; legal: a column split with "
                            "train and test in it, or another task.held_out")
    return rows


def _ordered(texts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Symbols, each once: numbers by size, then words by their letters."""
    symbols = {symbol for text in texts for symbol in text}
    rank: Callable[[str], Any] = lambda word: (  # noqa: E731
        not word.isdecimal(), len(word) if word.isdecimal() else 0, word)
    return tuple(sorted(symbols, key=rank))


def _padded(rows: Sequence[Sequence[int]], width: int, pad: int, left: bool = False) -> Tensor:
    """(N, width): rows of tokens, padded on one side."""
    full = [[*[pad] * (width - len(row)), *row] if left else [*row, *[pad] * (width - len(row))]
            for row in rows]
    return torch.tensor(full, dtype=torch.long).view(len(rows), width)
