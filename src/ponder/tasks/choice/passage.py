"""Passages with several questions about each: the rationale is about the passage alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import torch
from ponder.core.types import Problems
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tasks.choice.questions import Question

PREAMBLE = "Read the following text and note what is worth knowing about it."


@dataclass
class PassageKeys(QaKeys):
    """Passages from a file, with multiple-choice questions about each."""

    name: str = option("passage", "name of the task", legal=("passage",))
    data: str | None = option(None, "questions: .csv, .jsonl or .parquet with the columns of "
                              "task=qa and a column passage; where no split says which, the rows "
                              "of one passage are held out together")
    answer: str = option("cloze", "how a question is answered after the rationale: by the most "
                         "likely letter, or by the most likely text of an option",
                         legal=("letter", "cloze"))
    shots: int = option(0, "there are no worked examples", low=0, high=0)
    asked: int = option("${thinker.asked}", "questions about the passage that a rationale is "
                        "rewarded by, its own among them; 0: its own", low=0)

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        yield from super().contradictions(config)
        if self.asked and config is not None and not config.thinker.tokens:
            yield (f"thinker.asked={self.asked}: found no thoughts; legal: 0, or with think, as in "
                   "think=true")
        elif self.asked and config is not None and config.action == "train":
            yield from self._too_many()

    def _too_many(self) -> Iterator[str]:
        """A line where no passage of the training questions has as many as are asked."""
        try:
            most = Passage.most(self)
        except (UserError, OSError):  # told when the files are checked
            return
        if self.asked > most:
            yield (f"thinker.asked={self.asked}: found task.data={self.data} with {most} training "
                   f"questions about a passage at most; legal: at most {most}")


@task("passage", keys=PassageKeys)
class Passage(Qa):
    """A rationale about a passage, and then questions that it was written without.

    A row of the file is a problem: its passage is the prompt, and its question follows the
    rationale. With `thinker.asked=m` a training rationale is judged by m questions of its passage,
    drawn anew in each round, as `Problems.also`; rewards take the mean of their log-likelihoods, or
    of right answers. With `blind` the answerer sees the rationale and not the passage.
    """

    experiment, variants = "star_smollm2", ("think", "blind")
    offers = Qa.offers - {"hints"} | {"several_questions"}
    config: PassageKeys

    def read(self, path: Path) -> list[Question]:
        """The questions of a file. Raises `UserError` for one without a passage."""
        found = super().read(path)
        for number, one in enumerate(found, start=1):
            if not one.passage:
                raise UserError(f"{path}: found no passage of question {number} "
                                f"({one.question[:40]!r}); legal: text in a column passage")
        return found

    @classmethod
    def most(cls, keys: PassageKeys) -> int:
        """Training questions about the passage that has most of them. Raises `UserError` where the
        files cannot be used.
        """
        task = cls.__new__(cls)
        task.config = keys
        trained = task._some(task._split()[0], keys.train_questions)
        return max(Counter(one.passage for one in trained).values())

    def _some(self, questions: list[Question], count: int | None) -> list[Question]:
        """Up to `count` of the questions, in their order: all of a passage before the next one,
        passages chosen by a hash.
        """
        order = sorted(range(len(questions)), key=lambda i: (
            self._share(questions[i].passage, "some"), i))
        return [questions[i] for i in sorted(order[:count])]

    def _words(self, question: Question) -> tuple[str, ...]:
        """What must not be on both sides of the split: a passage."""
        return (question.passage,)

    @classmethod
    def typed(cls, text: str) -> Question:
        """A passage, and in a new line `Question: ...` with its options. Raises `UserError` where
        a text is something else.
        """
        passage, _, asked = text.partition(f"\n{prompts.ASKS}")
        if not passage.strip() or not asked:
            raise UserError(f"prompt={text[:40]!r}: found no passage and question; legal: the "
                            f"passage, a line {prompts.ASKS}..., and a line for each option: A. "
                            "..., B. ...")
        return replace(prompts.typed_question(asked), passage=passage.strip())

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """Up to `count` training questions, none twice, each with others of its passage that are
        drawn anew.
        """
        found = super().sample(count, generator)
        if self.config.asked < 2 or not len(found):
            return found
        assert found.index is not None
        random = Random(int(torch.randint(2**62, (1,), generator=generator)))
        others = [other for i in found.index.tolist() for other in self._others(i, random)]
        return found.beside(self.encode(others))

    def _others(self, i: int, random: Random) -> list[int]:
        """The numbers of other training questions about the passage of question i; some are drawn
        twice where there are too few, and question i itself where there is none.
        """
        wanted = self.config.asked - 1
        legal = [j for j in self._about[self.list[i].passage] if j != i] or [i]
        if len(legal) >= wanted:
            return random.sample(legal, wanted)
        return [*legal, *random.choices(legal, k=wanted - len(legal))]

    @cached_property
    def _about(self) -> dict[str, list[int]]:
        """The numbers of the training questions about each passage."""
        found = defaultdict(list)
        for i, one in enumerate(self.list[:self.epoch_size]):
            found[one.passage].append(i)
        return found

    def _turns(self, question: Question, hint: bool = False) -> prompts.Turns:
        text = f"Text: {question.passage}"
        about = PREAMBLE if self.config.preamble is None else self.config.preamble
        return [("user", f"{about}\n\n{text}" if about else text)]

    def bridge(self, question: Question) -> str:
        """The question, and its options where a letter is the answer."""
        return f"\n{prompts.shown(question, self.way)}\nAnswer:"

    def _key(self, question: Question) -> str:
        """What decides whether a question is held out."""
        return question.passage
