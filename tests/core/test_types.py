"""The records: selecting, concatenating and replacing rows, and that nobody changes them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from ponder.core.types import Problems, Rollouts


def rollouts_of(*first: int) -> Rollouts:
    """Two rows a problem; the thoughts of problem i are first[i] and first[i] + 1, then an end."""
    question = torch.tensor([[each] for each in first])
    words = torch.tensor([[word, 1] for each in first for word in (each, each + 1)])
    real = torch.ones(len(words), 1, dtype=torch.bool)
    return Rollouts(Problems(question, question, None, 0, features={"units": question[:, 0]}), 2,
                    words, real, torch.zeros(real.shape), learn=real,
                    reward=words[:, 0].float(), parts={"exact_match": words[:, 0].float()})


def test_records_are_frozen() -> None:
    rollouts: Any = rollouts_of(10, 20)
    with pytest.raises(FrozenInstanceError):
        rollouts.reward = None
    with pytest.raises(FrozenInstanceError):
        rollouts.problems.answer = rollouts.thought


def test_groups_are_replaced_in_their_places() -> None:
    found = rollouts_of(10, 20, 30).replace_groups(torch.tensor([2, 0]), rollouts_of(50, 60))
    assert found.thought[:, 0].tolist() == [60, 61, 20, 21, 50, 51]
    assert found.parts["exact_match"].tolist() == [60, 61, 20, 21, 50, 51]


def test_a_field_that_one_side_has_not_is_in_neither() -> None:
    bare = replace(rollouts_of(50), reward=None, parts={})
    both = rollouts_of(10).concatenate(bare)
    assert both.thought[:, 0].tolist() == [10, 11, 50, 51] and len(both.problems) == 2
    assert both.reward is None and both.parts == {}
    assert both.problems.features["units"].tolist() == [10, 50]


def test_rows_are_selected_with_what_belongs_to_them() -> None:
    found = rollouts_of(10, 20, 30)[torch.tensor([2, 1])]
    assert found.thought[:, 0].tolist() == [30, 31, 20, 21]
    assert found.problems.question.tolist() == [[30], [20]]
    assert found.parts["exact_match"].tolist() == [30, 31, 20, 21]
