"""Rollouts out of a file (of an earlier run, another model or other software), and preference pairs
for other software, as tokens and as text in TRL's columns.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponder.config.errors import UserError
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts import Source, given
from ponder.tasks.base import read_table
from ponder.tasks.choice.qa import Qa
from ponder.tokenizers.vocabulary import TextVocabulary

TEXTS = ("rationale", "thought", "generated", "completion", "text")  # columns, by preference
KINDS = (".csv", ".jsonl", ".parquet")


def read_generated(path: Path, key: str, task: Qa, policy: ChoicePolicy, samples: int) -> Rollouts:
    """The first `samples` rollouts of every question of the task for which the file has that many.

    Needed are a column id or question, and one with the text (`TEXTS`). A column tokens (numbers
    with spaces between) has the tokens of the text, which is encoded without it. No token counts as
    chosen by this policy. Raises `UserError` where nothing fits.
    """
    groups = _groups(path, key)
    rows, texts = [], []
    for number, question in enumerate(task.list):
        found = groups.get(question.id) or groups.get(_plain(question.question)) or []
        if len(found) >= samples:
            rows.append(number)
            texts += found[:samples]
    if not rows:
        most = max(map(len, groups.values()), default=0)
        raise UserError(f"{key}={path}: found no question of the task with {samples} rollouts (at "
                        f"most {most} a question); legal: a generated.csv of these questions, or "
                        "fewer rollout.samples")
    problems = task.encode(rows).to(policy.thinker.device)
    thought = _tokens(texts, policy, problems.pad).to(policy.thinker.device)
    return given(problems, thought, samples)


def _groups(path: Path, key: str) -> dict[str, list[tuple[str, str]]]:
    """(text, tokens) of all rows, by id and by question."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for _, row in read_table(path, KINDS):
        name = next((name for name in TEXTS if name in row), None)
        if name is None or not {"id", "question"} & set(row):
            raise UserError(f"{key}={path}: found columns {', '.join(row)}; legal: id or question, "
                            f"and one of {', '.join(TEXTS)}")
        found = str(row[name] or ""), str(row.get("tokens") or "")
        for column in ("id", "question"):
            if row.get(column):
                groups[_plain(str(row[column])) if column == "question" else
                       str(row[column])].append(found)
    return groups


def _plain(text: str) -> str:
    """A question with single spaces."""
    return " ".join(text.split())


def _tokens(texts: list[tuple[str, str]], policy: ChoicePolicy, pad: int) -> Tensor:
    """(B, K + 1): texts as thoughts, cut at the length that thoughts may have."""
    words, room = policy.vocabulary, policy.rules.tokens
    rows = []
    for text, tokens in texts:
        numbers = list(map(int, tokens.split())) if tokens else words.encode(text)
        at = next((i for i, number in enumerate(numbers) if number in words.ends), None)
        end = words.end if at is None else numbers[at]
        numbers = numbers[:at][:room]
        rows.append([*numbers, end, *[pad] * (room - len(numbers))])
    return torch.tensor(rows)


class Preloaded(Source):
    """The first round comes out of a file, later ones from `inner`."""

    def __init__(self, first: Rollouts, inner: Source) -> None:
        self.first, self.inner = first, inner
        self.used = self.just_used = False

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        self.just_used = not self.used
        if self.used:
            return self.inner.collect(policy, problems, step, generator)
        self.used = True
        wanted = set(problems.index.tolist())  # type: ignore[union-attr]
        assert self.first.problems.index is not None
        kept = [place for place, number in enumerate(self.first.problems.index.tolist())
                if number in wanted]
        return self.first[torch.tensor(kept, device=self.first.thought.device)]

    def withdraw(self) -> None:
        self.used = self.used and not self.just_used

    def sampling(self, step: int) -> Sampling:
        return self.inner.sampling(step)

    def state(self) -> dict[str, Any]:
        return {"used": self.used, "inner": self.inner.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.used = state["used"]
        self.inner.load(state["inner"])


# --- pairs of preference --------------------------------------------------------------------------


def pairs_of(rollouts: Rollouts) -> list[dict[str, Any]]:
    """The pairs of rollouts with DPO's credit: prompt_ids, chosen_ids and rejected_ids, and the
    log-probabilities ref_chosen_logps and ref_rejected_logps under the reference, where noted.
    """
    pad, reference = rollouts.problems.pad, rollouts.reference
    questions = tokens_of(rollouts.problems.question, pad)
    thoughts = tokens_of(rollouts.thought[:, :-1], pad)
    pairs = []
    for number in rollouts.learn.any(1)[0::2].nonzero()[:, 0].tolist():
        won, lost = 2 * number, 2 * number + 1
        pair: dict[str, Any] = {"prompt_ids": questions[number], "chosen_ids": thoughts[won],
                                "rejected_ids": thoughts[lost]}
        if reference is not None:
            sums = (reference * rollouts.learn).sum(1)
            pair |= {"ref_chosen_logps": float(sums[won]), "ref_rejected_logps": float(sums[lost])}
        pairs.append(pair)
    return pairs


def texts_of(rollouts: Rollouts, vocabulary: TextVocabulary) -> list[dict[str, str]]:
    """The pairs as text that encodes to the same tokens: prompt, chosen and rejected.

    What the tokenizer puts in front of every text by itself is left out of the prompt.
    """
    tokenizer = vocabulary.tokenizer
    added = [token for token in tokenizer("")["input_ids"] if token not in vocabulary.ends]

    def text(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    pairs = []
    for pair in pairs_of(rollouts):
        prompt = pair["prompt_ids"]
        start = len(added) if added and prompt[:len(added)] == added else 0
        pairs.append({"prompt": text(prompt[start:]), "chosen": text(pair["chosen_ids"]),
                      "rejected": text(pair["rejected_ids"])})
    return pairs


def tokens_of(rows: Tensor, pad: int) -> list[list[int]]:
    """The tokens of rows (N, T) without padding."""
    return [[token for token in row if token != pad] for row in rows.tolist()]
