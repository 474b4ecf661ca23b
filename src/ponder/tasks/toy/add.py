"""Sums of numbers as digits: `31+84=` -> `15`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import digits_of, in_share, is_in_share, typed_numbers
from ponder.tasks.toy.base import ToyTask
from ponder.tokenizers.vocabulary import Vocabulary, place

ENUMERABLE = 2_000_000  # of fewer questions all are listed
LABELLED = 20_000  # answers are numbered below so many
TRIES = 1000  # rounds of draws after which a side of the split is complete
NUMBER_TOKENS = 1_000_000  # the most answers that are a token each


@task("add")
class Add(ToyTask):
    """Sums of `terms` numbers below `max`, modulo `max` or plain.

    A question is its zero-padded digits, `+` between the numbers and `=` at the end. Questions
    that differ only in the order of their numbers are always on the same side of the split.
    """

    offers = frozenset({"questions", "answers", "predicted_answers", "labels", "gold_thoughts"})
    gold_vocabulary = 10

    max: int = option(100, "operands (and, if modular, answers) are below this", low=2, high=10**15)
    terms: int = option(2, "how many numbers are added", low=2, high=16)
    modular: bool = option(True, "answer modulo max; false: the plain sum")
    answer: str = option("number", "answer as one number token or as digits",
                         legal=("number", "digits"))
    order: str = option("most", "digits of thoughts and answers: most or least significant first",
                        legal=("most", "least"))
    gold: str = option("digits", "gold thought: digits of the answer, scratchpad (column sums with "
                       "carries), or none", legal=("digits", "scratchpad", "none"))
    split: str = option("random", "held out: a random share, or whole combinations of unit digits",
                        legal=("random", "systematic"))

    def _describe(self, thoughts: int) -> None:
        self.largest = self.max - 1 if self.modular else self.terms * (self.max - 1)
        numbers = [f"#{n}" for n in range(self.largest + 1)] if self.answer == "number" else []
        self.vocabulary = Vocabulary((*"0123456789", "+", "=", *numbers), thoughts)
        self.width = len(str(self.max - 1))
        self.answer_width = len(str(self.largest))
        self.labels = self.largest + 1 if self.largest < LABELLED else None
        self.question_length = self.terms * (self.width + 1)
        self.answer_length = 1 if self.answer == "number" else self.answer_width

    def _must_have_questions(self) -> None:
        self._draw(1, held_out=False, generator=self._seeded())

    @classmethod
    def longest_thought(cls, keys: Any) -> int:
        """Tokens of each gold thought."""
        digits = len(str(keys.max - 1 if keys.modular else keys.terms * (keys.max - 1)))
        if keys.gold != "scratchpad":
            return digits
        columns = len(str(keys.max - 1))
        reduced = keys.modular and 10**columns != keys.max
        return 2 * columns + digits * reduced

    def batch(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems, drawn uniformly with replacement."""
        return self.encode(self._draw(count, held_out=False, generator=generator))

    def _distinct(self, held_out: bool) -> list[Problem]:
        """All problems of one side where they are few, else as many as are tested."""
        if self._few():
            numbers = self._all()
            numbers = numbers[self.are_held_out(numbers) == held_out]
        else:
            numbers = (self._test_numbers() if held_out else self._draw(
                self.test_questions, held_out, self._seeded())).unique(dim=0)
        return self._as_text(numbers, self._sums(numbers))

    def _drawn_test(self) -> Problems:
        numbers = self._test_numbers()
        return self._with_states(numbers, self._sums(numbers))

    def _held_out_problems(self, found: Sequence[Problem]) -> Problems:
        return self._with_states(*_read(found, self.terms))

    def _with_states(self, numbers: Tensor, answers: Tensor) -> Problems:
        """Problems with their intermediate states: the digits of gold thoughts."""
        digits = self._gold_digits(numbers, answers)
        return replace(self.encode(numbers, answers), states=digits,
                       state_names=() if digits is None else tuple("0123456789"))

    def problem(self, random: Random) -> Problem:
        """One problem; `sample` and `test` draw many at a time."""
        numbers = torch.tensor([[random.randrange(self.max) for _ in range(self.terms)]])
        return self._as_text(numbers, self._sums(numbers))[0]

    def _as_text(self, numbers: Tensor, answers: Tensor) -> list[Problem]:
        gold = self._gold(numbers, answers)
        thoughts = [None] * len(numbers) if gold is None else [
            self.vocabulary.text(row) for row in gold[:, :-1].tolist()]
        return [Problem("+".join(map(str, terms)) + "=", str(answer), thought)
                for terms, answer, thought in zip(numbers.tolist(), answers.tolist(), thoughts,
                                                  strict=True)]

    # --- the split ------------------------------------------------------------------------------

    def are_held_out(self, numbers: Tensor) -> Tensor:
        """True (N,) for questions (N, terms) that are never trained on.

        A hash of the sorted numbers (or, if systematic, of their sorted unit digits) decides, so
        that the split needs no memory and is the same for every run with the same `task.seed`.
        """
        keys = (numbers % 10 if self.split == "systematic" else numbers).sort(1).values
        return in_share(keys, self.held_out, self.seed)

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a question is never trained on: `are_held_out` of one, without tensors."""
        terms = [term % 10 if self.split == "systematic" else term
                 for term in _terms(problem.question)]
        return is_in_share(sorted(terms), self.held_out, self.seed)

    def _seeded(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _draw(self, count: int, held_out: bool, generator: torch.Generator) -> Tensor:
        """(count, terms): questions of one side of the split, drawn with replacement.

        Fewer where a side is so small that `TRIES` times as many draws bring no more of it. Raises
        `UserError` where it is empty.
        """
        kept = torch.empty(0, self.terms, dtype=torch.long)
        for _ in range(TRIES):
            numbers = torch.randint(self.max, (2 * count, self.terms),
                                    generator=generator)
            kept = torch.cat([kept, numbers[self.are_held_out(numbers) == held_out]])
            if len(kept) >= count:
                break
        if len(kept) == 0:
            raise UserError(f"task.held_out={self.held_out}: found that it holds out "
                            f"{'no question' if held_out else 'every question'} of this task; "
                            f"legal: a {'larger' if held_out else 'smaller'} share, or another "
                            "task.seed")
        return kept[:count]

    def _test_numbers(self) -> Tensor:
        numbers = self._all() if self._few() else torch.empty(0, self.terms).long()
        numbers = numbers[self.are_held_out(numbers)]
        if len(numbers) == 0:
            count = 2 * self.test_questions
            numbers = self._draw(count, held_out=True, generator=self._seeded()).unique(dim=0)
        return numbers[self._some(len(numbers))]

    def _few(self) -> bool:
        """Whether all questions can be listed."""
        return self.max ** self.terms <= ENUMERABLE

    def _all(self) -> Tensor:
        ranges = [torch.arange(self.max)] * self.terms
        return torch.cartesian_prod(*ranges).view(-1, self.terms)

    # --- tokens ---------------------------------------------------------------------------------

    def encode(self, numbers: Tensor, answers: Tensor | None = None) -> Problems:
        """Problems of numbers (N, terms); answers (N,) are their sums unless given."""
        if answers is None:
            answers = self._sums(numbers)
        if self.answer == "number":
            answer = 1 + 12 + answers[:, None]
        else:
            answer = 1 + self._ordered(answers)
        return Problems(self._question(numbers), answer, self._gold(numbers, answers),
                        self.vocabulary.pad, label=answers if self.labels else None,
                        features=self._features(answers))

    def encode_problems(self, problems: Sequence[Problem], random: Random | None = None,
                        ) -> Problems:
        """Problems as tokens; their answers are right, whatever the sums are."""
        return self.encode(*_read(problems, self.terms))

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question (`3+84=`), and how many tokens its answer has.

        Raises `UserError` where it is no sum of this task.
        """
        numbers = typed_numbers(text, self.terms, self.max)
        return self._question(numbers)[0].tolist(), self.answer_length

    def _sums(self, numbers: Tensor) -> Tensor:
        total = numbers.sum(1)
        return total % self.max if self.modular else total

    def _question(self, numbers: Tensor) -> Tensor:
        digits = digits_of(numbers, self.width)
        plus = torch.full((*numbers.shape, 1), 10)
        question = torch.cat([digits, plus], 2).flatten(1)
        question[:, -1] = 11
        return 1 + question

    def _gold(self, numbers: Tensor, answers: Tensor) -> Tensor | None:
        """(N, K + 1): the hand-made thought and end-of-thought."""
        digits = self._gold_digits(numbers, answers)
        if digits is None or self.vocabulary.thoughts < 10:
            return None
        end = torch.full((len(answers), 1), self.vocabulary.end)
        return torch.cat([self.vocabulary.first_thought + digits, end], 1)

    def _gold_digits(self, numbers: Tensor, answers: Tensor) -> Tensor | None:
        """(N, K): what the tokens of the hand-made thought say."""
        if self.gold != "scratchpad":
            return self._ordered(answers) if self.gold == "digits" else None
        steps = self._scratchpad(numbers)
        reduced = self.modular and 10**self.width != self.max
        return torch.cat([steps, self._ordered(answers)], 1) if reduced else steps

    def _scratchpad(self, numbers: Tensor) -> Tensor:
        """(N, 2 * width): digit and carry of every column, units first."""
        steps, carry = [], torch.zeros(len(numbers), dtype=torch.long)
        for column in digits_of(numbers, self.width).flip(2).unbind(2):
            total = column.sum(1) + carry
            carry = total // 10
            steps += [total % 10, carry]
        return torch.stack(steps, 1)

    def _ordered(self, answers: Tensor) -> Tensor:
        digits = digits_of(answers, self.answer_width)
        return digits if self.order == "most" else digits.flip(1)

    def _features(self, answers: Tensor) -> dict[str, Tensor]:
        return {place(i): answers // 10**i % 10 for i in range(self.answer_width)}

    # --- checks ---------------------------------------------------------------------------------

    def solution(self, problem: Problem) -> str:
        """The sum, modulo `max` where the task is."""
        total = sum(_terms(problem.question))
        return str(total % self.max if self.modular else total)

    def _row(self, where: str, row: dict[str, Any]) -> Problem:
        """The problem of a row of `task.data`. Raises `UserError` that names the line."""
        question, answer = str(row["question"]).strip(), str(row["answer"]).strip()
        terms, limit = _words(question), self.max
        if len(terms) != self.terms or not all(
                word.isdecimal() and word.isascii() for word in [*terms, answer]):
            raise UserError(f"{where}: found question {question!r} and answer {answer!r}; legal: "
                            f"{self.terms} whole numbers joined by +, and a whole number")
        if any(int(term) >= limit for term in terms) or int(answer) > self.largest:
            raise UserError(f"{where}: found question {question!r} and answer {answer!r}; legal: "
                            f"numbers below task.max={limit}, answers up to {self.largest}")
        return Problem(question, str(int(answer)), str(row.get("thought") or "") or None)

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        largest = self.max - 1 if self.modular else self.terms * (self.max - 1)
        if self.answer == "number" and largest >= NUMBER_TOKENS:
            yield (f"task.max={self.max}: found answers up to {largest}, too many for a token "
                   f"each; legal: answers below {NUMBER_TOKENS}, or task.answer=digits")
        if self.gold == "scratchpad" and self.terms > 10:
            yield (f"task.terms={self.terms}: found carries that are no digit, in "
                   "task.gold=scratchpad; legal: at most 10")


def _words(question: str) -> list[str]:
    return [word.strip() for word in question.removesuffix("=").split("+")]


def _read(problems: Sequence[Problem], terms: int) -> tuple[Tensor, Tensor]:
    """(numbers (N, terms), answers (N,)) of problems as text."""
    return (torch.tensor([_terms(one.question) for one in problems]).view(-1, terms),
            torch.tensor([int(one.answer) for one in problems]).long())


def _terms(question: str) -> list[int]:
    """The numbers of a question as text: "31+84=" -> [31, 84]."""
    return [int(word) for word in _words(question)]
