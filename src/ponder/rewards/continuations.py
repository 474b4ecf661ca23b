"""Rewards of texts that were written: most are a function of the text of a row and of what the task
is told about it, which gives a number.

A new one is one function here, decorated with `@of_text`, and one file in `conf/reward/`. An empty
text is worth 0. With `task.interim` each token earns what it adds, so that a row's sum is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ponder.config.errors import UserError
from ponder.config.texts import CorpusTask
from ponder.core.types import Rollouts
from ponder.models.policies.continuation import Author
from ponder.models.policies.text_continuation import TextAuthor


class Written(Protocol):
    """What is judged: rollouts of an author, who judges them as a reference, what counts."""

    rollouts: Rollouts
    policy: Any
    reference: Any
    task: Any


WRITTEN: dict[str, Callable[[Written], Tensor]] = {}


def of_text(function: Callable[[str, CorpusTask], float]) -> Callable[[str, CorpusTask], float]:
    """Make a reward of a function of a text."""
    def reward(judged: Written) -> Tensor:
        task, rollouts, words = judged.task, judged.rollouts, judged.policy.vocabulary
        rows = zip(rollouts.thought[:, :-1].tolist(), rollouts.lengths.tolist(), strict=True)
        worth = torch.tensor([[_worth(function, text, task)
                               for text in _texts(words, row, length, task.interim)]
                              for row, length in rows], device=rollouts.thought.device)
        return _paid(worth.diff(dim=1, prepend=torch.zeros_like(worth[:, :1])), task)

    WRITTEN[function.__name__] = reward
    return function


def _texts(words: Any, row: list[int], length: int, interim: bool) -> Iterator[str]:
    """The text of a row (K,); interim: as it is behind each of its tokens, where a character of
    which a part is missing is not there yet. Behind its `length` tokens nothing changes.
    """
    begun = [words.begun(row[:end]) for end in range(1, length)] if interim else []
    yield from begun
    yield from [words.decode(row)] * (len(row) - len(begun) if interim else 1)


def _worth(function: Callable[[str, CorpusTask], float], text: str, task: CorpusTask) -> float:
    """What a text is worth; `task.unit`: kept within 0 and 1."""
    value = function(text, task) if text else 0.0
    return min(max(value, 0.0), 1.0) if task.unit else value


def _paid(added: Tensor, task: CorpusTask) -> Tensor:
    """What tokens add to the worth of a text (B, K): to each what it adds, or (B,) all at once."""
    return added if task.interim else added.sum(1)


@of_text
def wanted(text: str, task: CorpusTask) -> float:
    """Share of the characters that are in task.wanted."""
    return sum(map(text.count, set(task.wanted))) / len(text)


@of_text
def unwanted(text: str, task: CorpusTask) -> float:
    """Share of the characters that are in task.unwanted."""
    return sum(map(text.count, set(task.unwanted))) / len(text)


@of_text
def whitespace(text: str, task: CorpusTask) -> float:
    """Share of the characters that are white space."""
    return sum(map(str.isspace, text)) / len(text)


@of_text
def pattern(text: str, task: CorpusTask) -> float:
    """Share of the characters that lie in matches of task.pattern."""
    return sum(len(found[0]) for found in re.finditer(task.pattern, text)) / len(text)


@of_text
def matches(text: str, task: CorpusTask) -> float:
    """Number of matches of task.pattern that are not empty and do not overlap."""
    return float(sum(1 for found in re.finditer(task.pattern, text) if found[0]))


@of_text
def words(text: str, task: CorpusTask) -> float:
    """Share of the words, letters and apostrophes in any case, that are in task.words."""
    known = _listed(tuple(task.words))
    found = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())
    return sum(word in known for word in found) / len(found) if found else 0.0


@cache
def _listed(told: tuple[str, ...]) -> frozenset[str]:
    """Words, and those in files among them. Raises `UserError` where a file cannot be read."""
    found: list[str] = []
    for word in told:
        try:
            text = Path(word).read_text(encoding="utf-8-sig") if word.endswith(".txt") else word
        except (OSError, ValueError) as error:
            raise UserError(f"task.words=[{word}]: cannot be read ({error}); legal: words, or .txt "
                            "files in UTF-8") from None
        if not text.split():
            raise UserError(f"task.words=[{word}]: found no words in it; legal: words, or .txt "
                            "files with a word a line")
        found += text.lower().split()
    return frozenset(found)


# --- rewards of tokens ---------------------------------------------------------------------------

def plausibility(judged: Written) -> Tensor:
    """log p of the ordinary tokens by the reference, which sees no others, over K, the most tokens
    there may be: in nats; where all K are ordinary the mean of a token.
    """
    reference: Author | TextAuthor = judged.reference
    logprobs = reference.plausible(judged.rollouts)
    return _paid(logprobs / logprobs.shape[1], judged.task)


def ordinary(judged: Written) -> Tensor:
    """Ordinary tokens (no thought tokens) as a share of the most tokens there may be."""
    author: Author | TextAuthor = judged.policy
    there = author.ordinary(judged.rollouts.thought[:, :-1])
    return _paid(there / there.shape[1], judged.task)


WRITTEN |= {"plausibility": plausibility, "ordinary": ordinary}
