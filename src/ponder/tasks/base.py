"""What a task is: what is asked, what is right, and what a hand-made thought would be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ponder.config.errors import UserError

if TYPE_CHECKING:
    import torch

    from ponder.core.types import Problem, Problems


class Task:
    """Questions, their answers and gold thoughts, as tokens and as text.

    vocabulary: the tokens, a `Vocabulary` or a `TextVocabulary`. labels: number of distinct answers
    where `Problems.label` numbers them, else None. question_length, answer_length: tokens of the
    longest one. epoch_size: how many training questions there are, where a round is all of them;
    None where they never end.
    """

    vocabulary: Any
    labels: int | None = None
    epoch_size: int | None = None
    question_length: Any
    answer_length: Any

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems."""
        raise NotImplementedError

    def test(self) -> Problems:
        """The held-out problems: always the same ones."""
        raise NotImplementedError

    def problems(self) -> list[tuple[str, Problem]]:
        """(split, problem) for `action=problems`, as text."""
        raise NotImplementedError

    def hinted(self, problems: Problems) -> Problems:
        """The same problems with the answer in their questions (`trainer.rationalise`)."""
        return replace(problems)

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` problems with gold thoughts that are given (`trainer.rehearse`)."""
        return self.sample(count, generator)

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question, and how many tokens its answer has (`action=generate`).

        Raises `UserError` where it is no question of the task.
        """
        raise UserError(f"prompt={text}: found a task whose questions cannot be typed; legal: a "
                        "model of a toy task, or of text")
