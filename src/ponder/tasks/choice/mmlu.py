"""MMLU (Hendrycks et al. 2020): from the hub, in English or translated, or from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.tasks.base import Row
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tasks.choice.questions import Question, hub_rows, questions_of


@dataclass
class MmluKeys(QaKeys):
    """MMLU (Hendrycks et al. 2020) in English or translated: from the hub, or from files."""

    name: str = option("mmlu", "name of the task", legal=("mmlu",))
    language: str = option("EN", "EN (cais/mmlu), or a language of openai/MMMLU such as YO-NG")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        yield from super().contradictions(config)
        if self.data is None and self.language not in ("EN", *prompts.LANGUAGES):
            yield (f"task.language={self.language}: found no such language on the hub; legal: EN, "
                   f"{', '.join(prompts.LANGUAGES)}, or task.data=<file> with the questions")


ENGLISH, TRANSLATED = "cais/mmlu", "openai/MMMLU"
SPLITS = {"auxiliary_train": "train", "test": "test", "validation": "val"}  # there -> here


@task("mmlu", keys=MmluKeys)
class Mmlu(Qa):
    """MMLU from `task.data`, else from the hub.

    English trains on auxiliary_train. A translation has test questions only, so a share of these
    is held out by their ids, which are the same in every language.
    """

    config: MmluKeys

    def data(self) -> list[Question]:
        """The questions of `task.data`, or of the hub in `task.language`."""
        if self.config.data is not None:
            return super().data()
        for problem in self.config.contradictions():
            raise UserError(problem)
        language = self.config.language
        if language == "EN":
            parts = {ours: self._load(ENGLISH, "all", part) for part, ours in SPLITS.items()}
        else:
            parts = {"test": self._load(TRANSLATED, language.replace("-", "_"), "test")}
        return [question for split, rows in parts.items() for question in questions_of(
            rows[0][0], [(where, {**row, "split": split}) for where, row in rows], language)]

    def _load(self, name: str, part: str, split: str) -> list[Row]:
        """The rows of a split, each with its place. Raises `UserError` if they cannot be loaded."""
        return hub_rows(f"task.language={self.config.language}", name, part, split)
