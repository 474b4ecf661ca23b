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
from typing import Any, ClassVar

from ponder.config.errors import UserError, shown
from ponder.config.option import option
from ponder.config.registry import TASKS
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import hashed_share, padded
from ponder.tasks.toy.levels import LeveledTask
from ponder.tasks.toy.survey import SAMPLE, questions_of

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
    characters: ClassVar[bool]
    asked_length: int  # symbols of the longest question about a thought; 0 where none is asked
    _number: dict[str, int]
    _held_out: Any  # the problems of `test`, as text

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
        return (self.unasked > 0 and asked != own
                and hashed_share(f"{self.unasked}/{asked}") < self.unasked)

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
        asked, answers = zip(*drawn, strict=True)
        return replace(encoded, asked=self._spelt(asked, each, self.asked_length, left=True),
                       asked_answer=self._spelt(answers, each, self.answer_length))

    def completed(self, encoded: Problems) -> Problems:
        """Typed questions as tokens, each asked what it asks itself, with their empty answers.
        Raises `UserError` for what is no question of the task.
        """
        if not self.asks:
            return encoded
        join = "" if self.characters else " "
        symbols = {token: symbol for symbol, token in self._number.items()}
        typed = [join.join(symbols[token] for token in row if token in symbols)
                 for row in encoded.question.tolist()]
        own = [questions_of(self, Problem(text, ""))[0][0] for text in typed]
        asked = self._spelt(own, 1, self.asked_length, left=True).to(encoded.question.device)
        return replace(encoded, asked=asked, asked_answer=encoded.answer[:, None])

    def _spelt(self, texts: Sequence[str], each: int, width: int, left: bool = False) -> Tensor:
        """(P, each, width): tokens of what is asked about P thoughts, or of the answers."""
        cut = [self.cut(text) for text in texts]
        for text, symbols in zip(texts, cut, strict=True):
            if len(symbols) > width or not self._number.keys() >= {*symbols}:
                raise UserError(f"task={self.config.name}: found {text!r} from questions(), whose "
                                f"length or symbols none of {SAMPLE} sample problems has; legal: "
                                "all declared as symbols in the class")
        tokens = [[self._number[symbol] for symbol in symbols] for symbols in cut]
        return padded(tokens, self.vocabulary.pad, width, left=left).view(-1, each, width)

    def check_questions(self, rows: Sequence[Problem]) -> None:
        """`questions_must_agree`, where any are asked."""
        if self.asks:
            self.questions_must_agree(rows)

    def questions_must_agree(self, rows: Sequence[Problem]) -> None:
        """Raise `UserError` for the first problem whose questions disagree with it: of a table, or
        of some sample problems, always the same ones.
        """
        random = Random("questions")
        where = f"task.data={self.config.data}" if rows else f"task={self.config.name}"
        for one in rows or (self.problem(random) for _ in range(CHECKED)):
            every = questions_of(self, one, where)
            sizes = sorted({len(self.cut(text)) for text, _ in every})
            wrong = [*disagreements(every, one), *[(
                f"texts of {shown(sizes)} symbols", "equally many in all")][:len(sizes) > 1]]
            for found, legal in wrong:
                raise UserError(f"{where}: question {one.question[:60]!r}, answer "
                                f"{one.answer[:40]!r}: found {found} from questions(); legal: "
                                f"{legal}")

    def contradictions(self, config: Any) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        keys: Any = self
        kind, asked = TASKS[keys.name].target, config.thinker.asked
        able = "several_questions" in kind.offers
        if keys.unasked and not (able and asked):
            yield (f"task.unasked={keys.unasked:g}: found " + (
                "thinker.asked=0; legal: 0, or with questions about thoughts, as in "
                "thinker.asked=4" if able else f"task={keys.name}, which has one question about a "
                "thought; legal: 0"))
        elif asked and able and config.action != "problems":
            yield from _thoughts_are_read(config.thinker)
            yield from _questions_must_do(kind, keys, config.thinker)

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


def _thoughts_are_read(thinker: Any) -> Iterator[str]:
    """Questions are asked about thoughts that are made of tokens."""
    if not thinker.tokens:
        yield (f"thinker.asked={thinker.asked}: found thinker.tokens=0; legal: 0, or with think, "
               "as in think=true")
    elif thinker.kind != "tokens":
        yield (f"thinker.asked={thinker.asked}: found thinker.kind={thinker.kind}; legal: 0, or "
               "thinker.kind=tokens")


def _questions_must_do(kind: Any, keys: Any, thinker: Any) -> Iterator[str]:
    """There are as many questions as are asked, and they agree with the problems."""
    try:
        found = kind.surveyed(keys)
    except UserError:  # of keys that a subclass refuses, or told when the task is made
        return
    left_out = f" that are asked in training (task.unasked={keys.unasked:g})" * bool(keys.unasked)
    if keys.unasked and not found.unasked:
        yield (f"task.unasked={keys.unasked:g}: found a problem of task={keys.name} none of whose "
               f"{found.questions} questions is left out; legal: 0, or a larger share")
    elif thinker.asked > found.trained:
        yield (f"thinker.asked={thinker.asked}: found task={keys.name} with {found.trained} "
               f"questions about a thought{left_out}; legal: at most {found.trained}")
    else:
        task = kind._bare(keys)
        task.questions_must_agree([one for _, one in kind._checked_rows(keys, thinker.vocabulary)])


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
        if seen.setdefault(asked, answer) != answer:
            yield f"two answers to {asked!r}, {seen[asked]!r} and {answer!r}", "one"
