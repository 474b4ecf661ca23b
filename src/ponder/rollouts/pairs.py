"""Pairs of preference, for others: as tokens and as text, in TRL's columns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ponder.core.types import Rollouts
from ponder.tokenizers.vocabulary import TextVocabulary


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
    """The pairs as text, from which the same tokens are made again: prompt, chosen and rejected.

    What the tokenizer puts in front of every text by itself is left out of the prompt.
    """
    tokenizer = vocabulary.tokenizer
    added = [token for token in tokenizer("")["input_ids"] if token != vocabulary.end]

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
