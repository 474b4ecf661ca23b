"""What language is it? The thoughts of an evaluation against what is true after each step.

A thought is a message; its meaning is the vector of a question's states where the task names them,
else that of the features of its answer. Token k and state k belong together, from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ponder.core.language import (
    assignment,
    entropy_of_counts,
    information,
    pair_counts,
    positional_disentanglement,
    topographic_similarity,
)
from ponder.core.types import Problems
from ponder.tokenizers.vocabulary import TextVocabulary, Vocabulary

MAX_POSITIONS = 32  # tokens of a thought, and states, that are looked at
MAX_CODES = 64  # of more different tokens or states, 2,000 questions say too little
MESSAGES = 128  # thoughts that are compared in pairs
MAX_CELLS = 8192  # of the tables of all positions
ONE_DICTIONARY = 0.05  # what a dictionary for each position must be better by to be used


@dataclass(frozen=True)
class Language:
    """metrics: numbers for the log. report: tables for summary.json and the report; {} where there
    is nothing to compare.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def describe(thought: Tensor, problems: Problems,
             vocabulary: Vocabulary | TextVocabulary) -> Language:
    """The language of thoughts (P, K + 1), which end with end-of-thought and padding.

    Empty where thoughts or meanings are missing, or too many different ones occur.
    """
    meanings, names = meanings_of(problems)
    real = (thought != vocabulary.pad) & (thought != vocabulary.end)
    if meanings is None or not real.any():
        return Language()
    messages, tokens = _numbered(thought, real)
    if max(len(tokens), int(meanings.max()) + 1) > MAX_CODES:
        return Language()
    pairs = pair_counts(messages, meanings)
    known, metrics = information(pairs), _whole(messages, meanings)
    words = [vocabulary.text([token]) for token in tokens]
    report = {"attributes": names, "information": _rounded(known),
              "entropy": _rounded(entropy_of_counts(pairs.sum(2).amax(0)))}
    if problems.states is not None:
        steps = min(pairs.shape[:2])
        at_step = pairs[range(steps), range(steps)]
        if not problems.features:  # which name the digits that these states are
            metrics |= {f"meaning/t{k + 1}/step": float(known[k, k]) for k in range(steps)}
        found = dictionary(at_step, words, [*problems.state_names])
        metrics |= {"thought/state_agreement": found["agreement"],
                    "thought/state_agreement_one_to_one": found["one_to_one"],
                    "thought/state_agreement_by_position": found["own_agreement"],
                    "thought/states_apart": found["apart"],
                    "thought/codes": float((pairs[:, 0].sum((0, 2)) > 0).sum())}
        report |= {"states": [*problems.state_names], **found}
    return Language(metrics, report)


def meanings_of(problems: Problems) -> tuple[Tensor | None, list[str]]:
    """(codes (P, A), names of the attributes): the states, else the features; None without any."""
    if problems.states is not None:
        states = problems.states[:, :MAX_POSITIONS].cpu()
        return states, [str(1 + j) for j in range(states.shape[1])]
    if problems.features:
        return torch.stack([*problems.features.values()], 1).cpu(), [*problems.features]
    return None, []


def _numbered(thought: Tensor, real: Tensor) -> tuple[Tensor, list[int]]:
    """(messages (P, K), tokens): thoughts as numbers of their tokens, -1 behind their end."""
    width = min(int(real.sum(1).max()), MAX_POSITIONS)
    thought, real = thought[:, :width].cpu(), real[:, :width].cpu()
    tokens, numbers = thought[real].unique(return_inverse=True)
    messages = torch.full_like(thought, -1)
    messages[real] = numbers
    return messages, tokens.tolist()


def _whole(messages: Tensor, meanings: Tensor) -> dict[str, float]:
    """The measures of a language as a whole."""
    some = slice(MESSAGES)
    found = {"thought/topographic_similarity": topographic_similarity(messages[some],
                                                                      meanings[some])}
    if meanings.shape[1] > 1:
        found["thought/positional_disentanglement"] = positional_disentanglement(messages, meanings)
    return found


def dictionary(pairs: Tensor, tokens: list[str], states: list[str]) -> dict[str, Any]:
    """Which token stands for which state, from counts (K, V, C) of tokens and states at each step.

    - agreement: share of the steps whose state is the one that their token means most often.
    - own_agreement: the same with a dictionary of its own for each position.
    - one_to_one: the same as agreement where each state also has a token of its own, chosen for the
      largest share.
    - apart: the share of states that `_apart` says are told apart, by the dictionary of all
      positions or, as `readings`, the mean over those of each.
    - confusion: counts (C, V) of all steps; confusion_by_position (K, C, V): those of each step,
      empty where that is more than `MAX_CELLS`; confusion_tokens: the names of the V tokens.
    - by_position: agreement at each step, read by the dictionary of all positions, and by one of
      its own.
    - words: for each state the token that means it most often (null: none does), the shares of that
      token among the steps with this state and of the state among those with this token, and the
      number of steps with it.
    - tokens: for each position the token that means each state most often there (null: none does).
    - readings: [token -> state], one for all positions or one for each where those agree better.
    """
    counts = pairs.double()
    whole, total = counts.sum(0), counts.sum().clamp_min(1)
    shared, own = whole.argmax(1), counts.argmax(2)  # (V,), (K, V)
    steps = counts.sum((1, 2)).clamp_min(1)
    by_shared = counts.gather(2, shared.expand(len(counts), -1)[..., None])[..., 0].sum(1)
    by_own = counts.amax(2).sum(1)
    agreement, own_agreement = float(by_shared.sum() / total), float(by_own.sum() / total)
    one = own_agreement < agreement + ONE_DICTIONARY
    readings = [shared] if one else [*own]
    tables = pairs.transpose(1, 2).tolist() if pairs.numel() <= MAX_CELLS else []
    return {"agreement": agreement, "one_to_one": _one_to_one(whole) / float(total),
            "own_agreement": own_agreement, "confusion": pairs.sum(0).T.tolist(),
            "confusion_by_position": tables, "confusion_tokens": tokens,
            "apart": sum(map(_apart, [whole] if one else counts)) / (1 if one else len(counts)),
            "by_position": {"all": _rounded(by_shared / steps), "own": _rounded(by_own / steps)},
            "words": _words(whole, tokens, states),
            "tokens": [[tokens[v] if most else None for most, v in
                        zip(*(part.tolist() for part in table.max(0)), strict=True)]
                       for table in counts],
            "readings": [{tokens[v]: states[int(reading[v])] for v in range(len(tokens))}
                         for reading in readings]}


def _one_to_one(whole: Tensor) -> float:
    """The most steps (V, C) that a dictionary without synonyms and homonyms reads rightly."""
    gains = whole if whole.shape[0] <= whole.shape[1] else whole.T
    return float(gains.gather(1, assignment(gains)[:, None]).sum())


def _apart(whole: Tensor) -> float:
    """Of the states in counts (V, C), the share of those whose most frequent token means them more
    often than any other state, or equally often and is the first: others share their token.
    """
    seen = whole.sum(0) > 0
    means = whole.argmax(1)[whole.argmax(0)]  # (C,): what the token of each state means
    own = means == torch.arange(whole.shape[1], device=whole.device)
    return float(own[seen].double().mean()) if seen.any() else 0.0


def _words(whole: Tensor, tokens: list[str], states: list[str]) -> list[dict[str, Any]]:
    """The word for each state, from counts (V, C)."""
    found = []
    for state, column in enumerate(whole.T):
        token = int(column.argmax())
        used = float(column[token])
        found.append({"state": states[state], "token": tokens[token] if used else None,
                      "of_state": used / max(float(column.sum()), 1.0),
                      "of_token": used / max(float(whole[token].sum()), 1.0),
                      "steps": int(column.sum())})
    return found


def _rounded(values: Tensor) -> Any:
    """Nested lists with four decimals."""
    if values.dim() > 1:
        return [_rounded(row) for row in values]
    return [round(value, 4) for value in values.tolist()]
