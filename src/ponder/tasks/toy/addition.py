"""Sums of two numbers of equal length, written so that rules for columns hold at every length.

    180___:32___+85___=  <t11><t8></think>  081

is 23 + 58: every field has a fixed width and begins with the units, so that the two digits of a
column are equally far apart in every column and at every length. The field in front is a hint: the
answer, or nothing. The thought is a scratchpad: the sum of each column with the carry from the one
before, units first. The answer is the digits of the sum, the most significant first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task, digits_of, in_share, typed_numbers
from ponder.tokenizers.vocabulary import Vocabulary

PLUS, EQUALS, COLON, BLANK = 10, 11, 12, 13  # after the ten digits
SUMS = 20  # sums of a column: 0 to 9 + 9 + 1
TRIES = 1000


@task("addition")
class Addition(Task):
    """Sums of two numbers of 1 to `digits` digits; lengths are equally frequent.

    A question is shifted by a random number of blanks, at most as many as it has digits less than
    the longest, so that positions do not tell columns apart. Questions that differ only in the
    order of their numbers are always on the same side of the split.
    """

    requires = frozenset({"own_network"})
    offers = frozenset({"questions", "answers", "predicted_answers", "gold_thoughts", "hints",
                        "worked_examples"})
    gold_vocabulary = 20  # thought tokens that gold thoughts are made of

    digits: int = option(5, "the longest numbers have so many digits", low=1, high=16)
    epoch_size: int = option(4000, "training questions of a round, drawn anew", low=1)
    worked: int = option(200, "short sums whose scratchpads are given (trainer.rehearse)", low=1)
    worked_digits: int = option(2, "these have at most so many digits", low=1)
    held_out: float = option(0.2, "share of the questions that is never trained on", low=0.01,
                             high=0.9)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    gold: str = option("scratchpad", "gold thought: the sums of the columns",
                       legal=("scratchpad",))
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option("${.digits}", "tokens of the longest gold thought, computed; the "
                                 "`think` variant allows as many")

    def _prepare(self, thoughts: int) -> None:
        self.vocabulary = Vocabulary((*"0123456789", "+", "=", ":", "_"), thoughts)
        self.answer_length = self.digits + 1
        self.shift = self.digits - 1
        self.question_length = self.shift + 3 * (self.digits + 1) + 1
        self._test = self._draw(self._equal(self.test_questions), True, self._seeded()).unique(
            dim=0)
        self._worked = self._draw(self._equal(self.worked, self.worked_digits), False,
                                  self._seeded())

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems of random lengths."""
        lengths = torch.randint(1, self.digits + 1, (count,), generator=generator)
        return self.encode(self._draw(lengths, False, generator), generator)

    def test(self) -> Problems:
        """Up to `test_questions` held-out problems, equally many of each length if possible.

        They are the same for the same `task.seed`; each length is a group.
        """
        lengths = lengths_of(self._test)
        groups = {f"{n}_digits": lengths == n for n in range(1, self.digits + 1)}
        return replace(self.encode(self._test, self._seeded()), groups=groups)

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` draws from the `worked` short sums whose scratchpads are given."""
        rows = torch.randint(len(self._worked), (count,), generator=generator)
        return self.encode(self._worked[rows], generator)

    def hinted(self, problems: Problems) -> Problems:
        """The same problems with the answer in the field in front."""
        answer = problems.answer
        last = (answer != problems.pad).sum(1, keepdim=True) - 1
        hint = _mirrored(answer, last, 1 + BLANK)
        start = self.shift
        question = problems.question.clone()
        question[:, start:start + hint.shape[1]] = hint
        return replace(problems, question=question)

    def problems(self) -> list[tuple[str, Problem]]:
        """The worked examples and the held-out questions."""
        parts = {"train": self._worked, "test": self._test}
        return [(split, problem) for split, numbers in parts.items()
                for problem in self._as_text(numbers)]

    def _as_text(self, numbers: Tensor) -> list[Problem]:
        gold = self._gold(numbers)
        thoughts = [None] * len(numbers) if gold is None else [
            self.vocabulary.text(row).removesuffix("</think>") for row in gold.tolist()]
        return [Problem(f"{a}+{b}=", str(a + b), thought)
                for (a, b), thought in zip(numbers.tolist(), thoughts, strict=True)]

    # --- questions ------------------------------------------------------------------------------

    def are_held_out(self, numbers: Tensor) -> Tensor:
        """True (N,) for questions (N, 2) that are never trained on."""
        return in_share(numbers.sort(1).values, self.held_out, self.seed)

    def _seeded(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _equal(self, count: int, longest: int | None = None) -> Tensor:
        """(count,): numbers of digits 1, 2, ... up to `longest`, again and again."""
        return torch.arange(count) % (longest or self.digits) + 1

    def _draw(self, lengths: Tensor, held_out: bool, generator: torch.Generator) -> Tensor:
        """(N, 2): pairs of numbers of these lengths (N,), all of one side of the split.

        Raises `UserError` where that side has none of one of the lengths.
        """
        smallest = 10 ** (lengths - 1) * (lengths > 1)
        numbers = torch.zeros(len(lengths), 2, dtype=torch.long)
        wrong = torch.ones(len(lengths), dtype=torch.bool)
        for _ in range(TRIES):
            share = torch.rand(int(wrong.sum()), 2, generator=generator, dtype=torch.float64)
            low, high = smallest[wrong, None], 10 ** lengths[wrong, None]
            numbers[wrong] = low + (share * (high - low)).long()
            wrong = self.are_held_out(numbers) != held_out
            if not wrong.any():
                return numbers
        raise UserError(f"task.held_out={self.held_out}: found no "
                        f"{'held-out' if held_out else 'training'} question of "
                        f"{int(lengths[wrong][0])} digits; legal: another share or task.seed")

    # --- tokens ---------------------------------------------------------------------------------

    def encode(self, numbers: Tensor, generator: torch.Generator) -> Problems:
        """Problems of numbers (N, 2), each shifted by a random number of blanks."""
        width, lengths = self.digits, lengths_of(numbers)
        room = torch.rand(len(numbers), generator=generator) * (width + 1 - lengths)
        front = (1 + BLANK) * (torch.arange(self.shift) >= self.shift - room.long()[:, None])
        hint, digits = _filled(BLANK, numbers, self.answer_length), digits_of(numbers, width)
        used = torch.arange(width) < lengths[:, None, None]
        first, second = (1 + digits.flip(2).where(used, BLANK)).unbind(1)
        question = [front, hint, _filled(COLON, numbers), first, _filled(PLUS, numbers), second,
                    _filled(EQUALS, numbers)]
        return Problems(torch.cat(question, 1), self._answer(numbers), self._gold(numbers),
                        self.vocabulary.pad, padded=self.shift > 0)

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question (`23+58=`), and how many tokens its answer has.

        Raises `UserError` where it is no sum of two numbers of equally many digits.
        """
        numbers = typed_numbers(text, 2, 10**self.digits)
        if not torch.equal(lengths_of(numbers), lengths_of(numbers.flip(1))):
            raise UserError(f"prompt={text}: found numbers of different lengths; legal: two of "
                            "equally many digits, as in 23+58=")
        problem = self.encode(numbers, torch.Generator().manual_seed(0))
        question, answer = problem.question[0], problem.answer[0]
        return question[question != problem.pad].tolist(), int((answer != problem.pad).sum())

    def _answer(self, numbers: Tensor) -> Tensor:
        """(N, D + 1): one digit more than the numbers have, most significant first, padded."""
        digits = 1 + digits_of(numbers.sum(1), self.answer_length).flip(1)
        return _mirrored(digits, lengths_of(numbers)[:, None], self.vocabulary.pad)

    def _gold(self, numbers: Tensor) -> Tensor | None:
        """(N, D + 1): sums of the columns, units first, and end-of-thought."""
        if self.vocabulary.thoughts < SUMS:
            return None
        thought = torch.full((len(numbers), self.digits + 1), self.vocabulary.pad)
        lengths, carry = lengths_of(numbers), torch.zeros(len(numbers), dtype=torch.long)
        columns = digits_of(numbers, self.digits).flip(2).sum(1)
        for place, column in enumerate(columns.unbind(1)):
            total = column + carry
            carry = total // 10
            thought[:, place] = (self.vocabulary.first_thought + total) * (place < lengths)
        return thought.scatter(1, lengths[:, None], self.vocabulary.end)

    def contradictions(self) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.worked_digits > self.digits:
            yield (f"task.worked_digits={self.worked_digits}: found more than task.digits; legal: "
                   f"at most {self.digits}")
        if self.thought_length != self.digits:
            yield (f"task.thought_length={self.thought_length}: found another length than the "
                   f"gold thought has; legal: {self.digits} (set thinker.tokens for more)")


def lengths_of(numbers: Tensor) -> Tensor:
    """(N,): digits of the first of the numbers (N, 2), which have equally many."""
    powers = 10 ** torch.arange(1, 18)
    return 1 + (numbers[:, :1] >= powers).sum(1)


def _filled(word: int, numbers: Tensor, width: int = 1) -> Tensor:
    return torch.full((len(numbers), width), 1 + word)


def _mirrored(row: Tensor, last: Tensor, rest: int) -> Tensor:
    """Columns `last` (N, 1) down to 0 of rows (N, C), from left to right, then `rest`."""
    place = torch.arange(row.shape[1], device=row.device)
    return row.gather(1, (last - place).clamp_min(0)).where(place <= last, rest)
