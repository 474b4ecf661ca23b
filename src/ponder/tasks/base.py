"""Tasks: what is asked, what is right, and what a hand-made thought would be."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from ponder.core.types import Problem, Problems
from ponder.tasks.choice.mmlu import Mmlu
from ponder.tasks.choice.qa import Qa
from ponder.tasks.text.corpus import Corpus
from ponder.tasks.text.passages import Text
from ponder.tasks.toy.add import Add
from ponder.tasks.toy.addition import Addition


class Task(Protocol):
    """Four questions every task answers.

    vocabulary: the words, a `Vocabulary` or a `TextVocabulary`. labels: number of distinct answers
    where `Problems.label` numbers them, else None. answer_length: tokens of the longest answer.
    epoch_size: how many training questions there are, where a round is all of them; None where
    they never end.
    """

    @property
    def vocabulary(self) -> Any: ...
    @property
    def labels(self) -> int | None: ...
    @property
    def answer_length(self) -> int: ...
    @property
    def question_length(self) -> int: ...
    @property
    def epoch_size(self) -> int | None: ...

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems."""
        ...

    def hinted(self, problems: Problems) -> Problems:
        """The same problems with the answer in their questions (`trainer.rationalise`)."""
        ...

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` problems with gold thoughts that are given (`trainer.rehearse`)."""
        ...

    def test(self) -> Problems:
        """The held-out problems: always the same ones."""
        ...

    def problems(self) -> list[tuple[str, Problem]]:
        """(split, problem) for `action=problems`, as text."""
        ...


TASKS: dict[str, type] = {"add": Add, "addition": Addition, "qa": Qa, "mmlu": Mmlu,
                         "text": Text, "corpus": Corpus}
