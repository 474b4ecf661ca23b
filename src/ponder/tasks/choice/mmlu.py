"""MMLU (Hendrycks et al. 2020), in English or translated by people (openai/MMMLU)."""

from __future__ import annotations

from typing import Any

from ponder.config.errors import UserError, brief
from ponder.config.tasks import MmluTask
from ponder.tasks.choice.qa import Qa
from ponder.tasks.choice.questions import Question, questions_of
from ponder.tokenizers.vocabulary import TextVocabulary

ENGLISH, TRANSLATED = "cais/mmlu", "openai/MMMLU"
SPLITS = {"auxiliary_train": "train", "test": "test", "validation": "val"}  # as we call them


class Mmlu(Qa):
    """MMLU from `task.data`, else from the hub.

    English trains on auxiliary_train. A translation has test questions only, so a share of these
    is held out by their ids, which are the same in every language.
    """

    config: MmluTask

    def __init__(self, config: MmluTask, vocabulary: TextVocabulary) -> None:
        super().__init__(config, vocabulary)

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

    def _load(self, name: str, part: str, split: str) -> list[tuple[str, dict[str, Any]]]:
        """The rows of a split, and where they stand. Raises `UserError` if they cannot be had."""
        try:
            from datasets import load_dataset

            rows = list(load_dataset(name, part, split=split))
        except Exception as error:  # the network, the hub, the disk: each has errors of its own
            reason = brief(error)
            raise UserError(
                f"task.language={self.config.language}: {name} cannot be loaded ({reason}); legal: "
                "task.data=<file> with the questions, or a network and HF_HUB_OFFLINE not set",
            ) from None
        return [(f"{name}/{part}/{split}, row {number}", row)  # type: ignore[misc]
                for number, row in enumerate(rows, start=1)]
