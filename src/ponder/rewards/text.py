"""Rewards of written texts: most are a function of the text of a row and of the task's keys.

A new one is one function here or in a plugin, decorated with `@text_reward`. An empty text earns 0.
With `task.interim` each token earns what it adds, so that the sum of a row is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ponder.config.errors import UserError
from ponder.config.registry import reward
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Rollouts

OfText = Callable[[str, Any], float]


class JudgedTexts(Protocol):
    """What a reward of texts reads: rollouts, who wrote them, a reference that judges, the task."""

    rollouts: Rollouts
    policy: Any
    reference: Any
    task: Any


def text_reward(function: OfText | None = None, *, weight: float = 1.0,
                needs: Iterable[str] = ()) -> Any:
    """Register `function(text, task)`, a number, as a reward; `task` has the keys of the task.

    weight and needs are those of `ponder.config.registry.reward`.
    """
    def put(worth: OfText) -> OfText:
        def of_rows(judged: JudgedTexts) -> Tensor:
            return earned(judged, worth)

        of_rows.__name__, of_rows.__module__ = worth.__name__, worth.__module__
        of_rows.__doc__ = worth.__doc__
        reward(weight=weight, requires={"text"}, needs=needs)(of_rows)
        return worth

    return put if function is None else put(function)


def earned(judged: JudgedTexts, worth: OfText) -> Tensor:
    """What each text earns (B,), or with `task.interim` each token (B, K), by its worth."""
    task, rollouts, vocabulary = judged.task, judged.rollouts, judged.policy.vocabulary
    rows = zip(rollouts.thought[:, :-1].tolist(), rollouts.lengths.tolist(), strict=True)
    values = torch.tensor([[_worth(worth, text, task)
                            for text in _texts(vocabulary, row, length, task.interim)]
                           for row, length in rows], device=rollouts.thought.device)
    return _paid(values.diff(dim=1, prepend=torch.zeros_like(values[:, :1])), task)


def _texts(vocabulary: Any, row: list[int], length: int, interim: bool) -> Iterator[str]:
    """The text of a row (K,); interim: the text after each of its tokens.

    A character of which bytes are missing is left out until it is complete. After its `length`
    tokens nothing changes.
    """
    begun = [vocabulary.begun(row[:end]) for end in range(1, length)] if interim else []
    yield from begun
    yield from [vocabulary.decode(row)] * (len(row) - len(begun) if interim else 1)


def _worth(function: OfText, text: str, task: Any) -> float:
    """What a text is worth; `task.unit`: kept within 0 and 1."""
    value = function(text, task) if text else 0.0
    return min(max(value, 0.0), 1.0) if task.unit else value


def _paid(added: Tensor, task: Any) -> Tensor:
    """What tokens add to the worth of a text (B, K): each its own, or their sum (B,)."""
    return added if task.interim else added.sum(1)


@text_reward(needs=["task.wanted"])
def wanted(text: str, task: Any) -> float:
    """Share of a text's characters that are in task.wanted."""
    return sum(map(text.count, set(task.wanted))) / len(text)


@text_reward(weight=-1.0, needs=["task.unwanted"])
def unwanted(text: str, task: Any) -> float:
    """Share of a text's characters that are in task.unwanted (a penalty: negative weight)."""
    return sum(map(text.count, set(task.unwanted))) / len(text)


@text_reward(weight=-1.0)
def whitespace(text: str, task: Any) -> float:
    """Share of a text's characters that are white space (a penalty: negative weight)."""
    return sum(map(str.isspace, text)) / len(text)


@text_reward(needs=["task.pattern"])
def pattern(text: str, task: Any) -> float:
    """Share of a text's characters that lie in matches of task.pattern."""
    return sum(len(found[0]) for found in re.finditer(task.pattern, text)) / len(text)


@text_reward(needs=["task.pattern"])
def matches(text: str, task: Any) -> float:
    """Number of matches of task.pattern in a text; with task.unit: whether there is one.

    Matches that are empty or overlap another are not counted.
    """
    return float(sum(1 for found in re.finditer(task.pattern, text) if found[0]))


@reward(requires={"text"}, needs=["task.words"])
def words(judged: JudgedTexts) -> Tensor:
    """Share of a text's words, letters and apostrophes in any case, that are in task.words."""
    known = _listed(judged.task.words)

    def share(text: str, task: Any) -> float:
        found = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())
        return sum(word in known for word in found) / len(found) if found else 0.0

    return earned(judged, share)


def _listed(told: Iterable[str]) -> frozenset[str]:
    """Words, and the words in files. Raises `UserError` where a file cannot be read."""
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

def _not_within_bounds(config: Any) -> Iterator[str]:
    if config.task.unit:
        yield ("task.unit=true: found reward=plausibility, a logarithm, of which nothing is left "
               "between 0 and 1; legal: false")


@reward(requires={"text"}, needs=["model.ref_name"], refuses=_not_within_bounds)
def plausibility(judged: JudgedTexts) -> Tensor:
    """log p of a text's ordinary tokens by model.ref_name, over thinker.tokens.

    The reference sees no thought tokens. In nats; where all K tokens are ordinary, the mean of a
    token.
    """
    logprobs = judged.reference.plausible(judged.rollouts)
    return _paid(logprobs / logprobs.shape[1], judged.task)


@reward(requires={"text"})
def ordinary(judged: JudgedTexts) -> Tensor:
    """Ordinary tokens of a text (no thought tokens), as a share of the most allowed."""
    there = judged.policy.ordinary(judged.rollouts.thought[:, :-1])
    return _paid(there / there.shape[1], judged.task)
