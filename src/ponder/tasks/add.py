"""Sums of digit strings, the toy task on which thoughts can be watched: `31+84=` -> `15`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ponder.config.tasks import AddTask
from ponder.errors import UserError
from ponder.tasks.table import read_table
from ponder.tokens import Vocabulary
from ponder.types import Problem, Problems

PLACES = ("units", "tens", "hundreds", "thousands")
ENUMERABLE = 2_000_000
LABELLED = 20_000


class Add:
    """Sums of `terms` numbers below `max`, modulo `max` or plain.

    A question is its zero-padded digits, `+` between the numbers and `=` at the end. Questions
    that differ only in the order of their numbers are always on the same side of the split.
    """

    def __init__(self, config: AddTask, thoughts: int) -> None:
        self.config = config
        self.largest = config.max - 1 if config.modular else config.terms * (config.max - 1)
        numbers = [f"#{n}" for n in range(self.largest + 1)] if config.answer == "number" else []
        self.vocabulary = Vocabulary((*"0123456789", "+", "=", *numbers), thoughts)
        self.width = len(str(config.max - 1))
        self.answer_width = len(str(self.largest))
        self.labels = self.largest + 1 if self.largest < LABELLED else None
        self.question_length = config.terms * (self.width + 1)
        self.answer_length = 1 if config.answer == "number" else self.answer_width
        self.table = self._read(Path(config.data)) if config.data else None
        self._test: Problems | None = None

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems, drawn uniformly with replacement."""
        if self.table is not None:
            numbers, answers = self.table["train"]
            rows = torch.randint(len(numbers), (count,), generator=generator)
            return self.encode(numbers[rows], answers[rows])
        kept = torch.empty(0, self.config.terms, dtype=torch.long)
        while len(kept) < count:
            numbers = torch.randint(self.config.max, (2 * count, self.config.terms),
                                    generator=generator)
            kept = torch.cat([kept, numbers[~self.held_out(numbers)]])
        return self.encode(kept[:count])

    def test(self) -> Problems:
        """Up to `test_questions` held-out problems, the same ones for the same `task.seed`."""
        if self._test is None:
            if self.table is not None:
                numbers, answers = self.table["test"]
                self._test = self.encode(numbers, answers)[:self.config.test_questions]
            else:
                self._test = self.encode(self._test_numbers())
        return self._test

    def problems(self) -> list[tuple[str, Problem]]:
        """All problems where they are few, else as many training ones as there are test ones."""
        if self.config.max ** self.config.terms <= ENUMERABLE:
            numbers = self._all()
        else:
            generator = torch.Generator().manual_seed(self.config.seed)
            drawn = self.sample(self.config.test_questions, generator)
            numbers = torch.cat([self._decode(drawn.question), self._test_numbers()])
        encoded = self.encode(numbers)
        rows = zip(self.held_out(numbers).tolist(), numbers.tolist(), self._sums(numbers).tolist(),
                   encoded.thought.tolist() if encoded.thought is not None
                   else [None] * len(numbers), strict=True)
        return [("test" if out else "train",
                 Problem("+".join(map(str, terms)) + "=", str(answer), gold and self.vocabulary.text(
                     gold[:-1]))) for out, terms, answer, gold in rows]

    # --- the split ------------------------------------------------------------------------------

    def held_out(self, numbers: Tensor) -> Tensor:
        """True (N,) for questions (N, terms) that are never trained on.

        A hash of the sorted numbers (or, if systematic, of their sorted unit digits) decides, so
        that the split needs no memory and is the same for every run with the same `task.seed`.
        """
        keys = (numbers % 10 if self.config.split == "systematic" else numbers).sort(1).values
        state = torch.full((len(keys),), self.config.seed + 1, dtype=torch.long)
        for column in keys.unbind(1):
            state = _mix(state * 0x9E3779B9 + column + 0x7F4A7C15)
        return (state & (2**52 - 1)).double() / 2**52 < self.config.held_out

    def _test_numbers(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        wanted = self.config.test_questions
        if self.config.max ** self.config.terms <= ENUMERABLE:
            numbers = self._all()
            numbers = numbers[self.held_out(numbers)]
            numbers = numbers[torch.randperm(len(numbers), generator=generator)[:wanted]]
        else:
            drawn = torch.randint(self.config.max, (int(4 * wanted / self.config.held_out) + 100
                                                    if self.config.held_out else 0,
                                                    self.config.terms), generator=generator)
            drawn = drawn[self.held_out(drawn)].unique(dim=0)
            numbers = drawn[torch.randperm(len(drawn), generator=generator)[:wanted]]
        if len(numbers) == 0:
            raise UserError(f"task.held_out={self.config.held_out}: holds out no question of this "
                            "task; legal: a larger share, or another task.seed")
        return numbers

    def _all(self) -> Tensor:
        ranges = [torch.arange(self.config.max)] * self.config.terms
        return torch.cartesian_prod(*ranges).view(-1, self.config.terms)

    # --- tokens ---------------------------------------------------------------------------------

    def encode(self, numbers: Tensor, answers: Tensor | None = None) -> Problems:
        """Problems of numbers (N, terms); answers (N,) are their sums unless given."""
        if answers is None:
            answers = self._sums(numbers)
        if self.config.answer == "number":
            answer = 1 + 12 + answers[:, None]
        else:
            answer = 1 + self._ordered(answers)
        return Problems(self._question(numbers), answer, self._gold(numbers, answers),
                        self.vocabulary.pad, label=answers if self.labels else None,
                        features=self._features(answers))

    def _sums(self, numbers: Tensor) -> Tensor:
        total = numbers.sum(1)
        return total % self.config.max if self.config.modular else total

    def _question(self, numbers: Tensor) -> Tensor:
        digits = _digits(numbers, self.width)
        plus = torch.full((*numbers.shape, 1), 10)
        question = torch.cat([digits, plus], 2).flatten(1)
        question[:, -1] = 11
        return 1 + question

    def _decode(self, question: Tensor) -> Tensor:
        digits = (question - 1).view(len(question), self.config.terms, self.width + 1)[:, :, :-1]
        return (digits * 10 ** torch.arange(self.width - 1, -1, -1)).sum(2)

    def _gold(self, numbers: Tensor, answers: Tensor) -> Tensor | None:
        """(N, K + 1): the hand-made thought and end-of-thought."""
        if self.config.gold == "none" or self.vocabulary.thoughts < 10:
            return None
        digits = self._ordered(answers)
        if self.config.gold == "scratchpad":
            steps = self._scratchpad(numbers)
            reduced = self.config.modular and 10**self.width != self.config.max
            digits = torch.cat([steps, digits], 1) if reduced else steps
        end = torch.full((len(answers), 1), self.vocabulary.end)
        return torch.cat([self.vocabulary.first_thought + digits, end], 1)

    def _scratchpad(self, numbers: Tensor) -> Tensor:
        """(N, 2 * width): digit and carry of every column, units first."""
        steps, carry = [], torch.zeros(len(numbers), dtype=torch.long)
        for column in _digits(numbers, self.width).flip(2).unbind(2):
            total = column.sum(1) + carry
            carry = total // 10
            steps += [total % 10, carry]
        return torch.stack(steps, 1)

    def _ordered(self, answers: Tensor) -> Tensor:
        digits = _digits(answers, self.answer_width)
        return digits if self.config.order == "most" else digits.flip(1)

    def _features(self, answers: Tensor) -> dict[str, Tensor]:
        names = [PLACES[i] if i < len(PLACES) else f"10^{i}" for i in range(self.answer_width)]
        return {name: answers // 10**i % 10 for i, name in enumerate(names)}

    # --- files ----------------------------------------------------------------------------------

    def _read(self, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
        """(numbers, answers) of the splits train and test of a .csv or .parquet file."""
        rows = read_table(path, required=("question", "answer"))
        numbers, answers = [], []
        for line, row in enumerate(rows, start=2):
            terms = str(row["question"]).strip().rstrip("=").split("+")
            digits = [*terms, str(row["answer"])]
            if len(terms) != self.config.terms or not all(term.isdigit() for term in digits):
                raise UserError(f"{path}, line {line}: found {row['question']!r} and answer "
                                f"{row['answer']!r}; legal: {self.config.terms} whole numbers "
                                "joined by +, and a whole number")
            numbers.append([int(term) for term in terms])
            answers.append(int(row["answer"]))
            if max(numbers[-1]) >= self.config.max or answers[-1] > self.largest:
                raise UserError(f"{path}, line {line}: {row['question']!r} -> {row['answer']} is "
                                f"out of range; legal: numbers below task.max={self.config.max}, "
                                f"answers up to {self.largest}")
        all_numbers, all_answers = torch.tensor(numbers), torch.tensor(answers)
        test = self.held_out(all_numbers)
        if rows and "split" in rows[0]:
            test = torch.tensor([row["split"] == "test" for row in rows])
        for name, part in (("train", ~test), ("test", test)):
            if not part.any():
                raise UserError(f"{path}: no {name} problems in it; legal: a column split with "
                                "train and test, or another task.held_out")
        return {name: (all_numbers[part], all_answers[part])
                for name, part in (("train", ~test), ("test", test))}


def _digits(values: Tensor, width: int) -> Tensor:
    """(...,) -> (..., width), most significant first."""
    return values[..., None] // 10 ** torch.arange(width - 1, -1, -1) % 10


def _mix(state: Tensor) -> Tensor:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return state ^ (state >> 31 & 0x1FFFFFFFF)
