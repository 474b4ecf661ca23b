"""`AskedTask`: tasks where several questions can be asked about one thought (`thinker.asked`).

A thought that is read for one answer has to carry that answer and nothing else. Where several
questions are asked about it, drawn anew each time, it is worth carrying all that any of them needs:
a predictive state (Littman et al. 2001, "Predictive Representations of State").
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import hashed_share, padded
from ponder.tasks.toy.levels import LeveledTask

PROBES = 4  # questions about each thought of an evaluation
CHECKED = 200  # sample problems whose questions are checked against their answers
Question = tuple[str, str]  # (what is asked, its answer)


class AskedTask(LeveledTask):
    """A task whose problems have `questions` beside the one that they are about.

    `asks` of them are drawn for each training problem; 0: none is, and the answer follows the
    thought at once.
    """

    unasked: float = option(0.0, "share of the questions about a thought that are never asked in "
                            "training; evaluations ask them", low=0, high=0.9, later=True)

    seed: int
    asked_length: int  # symbols of the longest question about a thought; 0 where none is asked
    _number: dict[str, int]
    _held_out: list[Problem]

    def questions(self, problem: Problem) -> Sequence[Question]:
        """(what is asked, its answer) for all that may be asked about a thought, as texts: first
        the problem's own question, whose answer is `problem.answer`. Nothing: it is the only one.
        """
        return ()

    @abstractmethod
    def cut(self, text: str) -> list[str]:
        """The symbols of a text."""
        raise NotImplementedError

    def is_unasked(self, asked: str, own: str) -> bool:
        """Whether a question is never asked in training; the problem's own one always is."""
        return asked != own and hashed_share(f"{self.unasked}/{asked}") < self.unasked

    def drawn_questions(self, problem: Problem, count: int, random: Random,
                        unasked: bool = False) -> list[Question]:
        """`count` different questions about a thought, of those that are asked in training or of
        those that never are; all of them, and then some again, where there are fewer.
        """
        every = self.questions(problem)
        own = every[0][0]
        legal = [one for one in every if self.is_unasked(one[0], own) == unasked]
        if len(legal) >= count:
            return random.sample(legal, count)
        return [*legal, *random.choices(legal, k=count - len(legal))]

    def asking(self, encoded: Problems, problems: Sequence[Problem], random: Random | None,
               count: int | None = None, unasked: bool = False) -> Problems:
        """Encoded problems with `count` questions each (default: `asks`), drawn with `random`; with
        their own question alone where that is None, or where nothing else is asked.
        """
        if not self.asks:
            return encoded
        count = self.asks if count is None else count
        drawn = [question for one in problems for question in (
            self.questions(one)[:1] if random is None
            else self.drawn_questions(one, count, random, unasked))]
        each = len(drawn) // len(problems)
        asked, answers = ([[self._number[symbol] for symbol in self.cut(text)] for text in texts]
                          for texts in zip(*drawn, strict=True))
        pad, width = self.vocabulary.pad, self.asked_length
        return replace(
            encoded, asked=padded(asked, pad, width, left=True).view(-1, each, width),
            asked_answer=padded(answers, pad, self.answer_length).view(-1, each,
                                                                       self.answer_length))

    def check_questions(self) -> None:
        """Raise `UserError` for a sample problem whose questions disagree with it."""
        random = Random("questions")
        for _ in range(CHECKED):
            one = self.problem(random)
            for found, legal in disagreements(self.questions(one), one):
                raise UserError(f"task={self.config.name}: question {one.question[:60]!r}: found "
                                f"{found} from questions(); legal: {legal}")

    def _asked_anew(self, encoded: Problems, problems: Sequence[Problem], rows: Tensor,
                    generator: torch.Generator) -> Problems:
        """Some problems (P,) of a table, with new questions about their thoughts."""
        if not self.asks:
            return encoded[rows]
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        return self.asking(encoded[rows], [problems[row] for row in rows.tolist()], random)

    def probes(self) -> dict[str, Problems]:
        """The held-out problems with `PROBES` other questions about each thought, always the same
        ones: asked, those that training draws from; unasked, those that it leaves out.
        """
        kinds = {"asked": False, "unasked": True} if self.unasked else {"asked": False}
        random = Random(f"{self.seed}/probes")
        return {name: self.asking(self.test(), self._held_out, random, PROBES, unasked)
                for name, unasked in kinds.items() if self.asks}


def disagreements(every: Sequence[Question], problem: Problem) -> Iterator[tuple[str, str]]:
    """(what was found, what is legal) for each fault of the questions about a problem's thought."""
    if not every:
        yield "nothing", "the problem's own question first, and others"
        return
    own, answer = every[0]
    if answer != problem.answer:
        yield (f"the answer {answer!r} to {own!r}", f"first its own question, whose answer is "
               f"{problem.answer!r}")
    seen: dict[str, str] = {}
    for asked, answer in every:
        if not asked or not answer:
            yield f"{(asked, answer)!r}", "texts that are not empty"
        if seen.setdefault(asked, answer) != answer:
            yield f"two answers to {asked!r}, {seen[asked]!r} and {answer!r}", "one"
