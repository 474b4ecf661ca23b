"""Evaluation on held-out passages: how well is the next token predicted, and does that need the
thought?
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ponder.core.math import GREEDY
from ponder.core.types import Problems
from ponder.evaluation.question import (
    NECESSITY,
    Evaluation,
    binomial_error,
    evaluation_mode,
    replacements,
    standard_error,
    thought_statistics,
)
from ponder.models.policies.next_token import NextTokenPolicy, PositionPolicy
from ponder.rollouts import given
from ponder.rollouts.sampler import all_positions, think_at_positions

SHOWN = 200  # passages in the table


def evaluate_reading(policy: NextTokenPolicy, problems: Problems, bytes_per_token: float,
                     seed: int = 0) -> Evaluation:
    """val/loss in nats per token with its standard error over passages, bits per byte of text, and
    accuracy: the share of positions whose next token was the most likely one.

    A policy that thinks writes a greedy thought after every position. val/loss is then the loss
    with thoughts; `necessity/...` are accuracies, `necessity_loss/...` losses.
    """
    with evaluation_mode(policy):
        loss, right, metrics, rows = (
            _thinking(cast(PositionPolicy, policy), problems, seed) if policy.thinks_at_positions
            else _plain(policy, problems))
    own, nats = float(right.double().mean()), float(loss.double().mean())
    passages = loss.double().mean(1)
    metrics = {"accuracy": own, "accuracy_stderr": binomial_error(own, right.numel()),
               "val/loss": nats, "val/loss_stderr": standard_error(passages),
               "val/bits_per_byte": nats / math.log(2) / max(bytes_per_token, 1e-9), **metrics}
    for row, value in zip(rows, passages.tolist(), strict=False):
        row["loss"] = round(value, 4)
    return Evaluation(metrics, rows)


# Loss (P, T), whether the prediction is right (P, T), metrics, table rows.
Found = tuple[Tensor, Tensor, dict[str, float], list[dict[str, Any]]]


def _plain(policy: NextTokenPolicy, problems: Problems) -> Found:
    """Without thoughts."""
    loss, guess = policy.predict(problems)
    return loss, guess == problems.answer, {}, _rows(policy, problems, guess[:, -1], None)


def _thinking(policy: PositionPolicy, problems: Problems, seed: int) -> Found:
    """With a greedy thought after every position, and with each of its replacements."""
    positions = all_positions(policy, problems)
    problems, count = replace(problems, positions=positions), positions.shape[1]
    parts = [problems[part] for part in policy.in_parts(problems, count)]
    thought = torch.cat([think_at_positions(policy, part, 1, GREEDY).thought for part in parts])
    rollouts = given(problems, thought, count)
    generator = torch.Generator().manual_seed(seed)
    thoughts = {"own": thought, **replacements(policy, rollouts, generator)}
    found = {name: _first_tokens(policy, parts, changed) for name, changed in thoughts.items()}
    metrics = {}
    for name in NECESSITY:
        metrics[f"necessity/{name}"] = float(found[name][1].double().mean())
        metrics[f"necessity_loss/{name}"] = float(found[name][0].double().mean())
    without = torch.cat([policy.predict(part)[0][:, :count] for part in parts])
    loss, right, guess = found["own"]
    metrics["val/loss_without"] = float(without.double().mean())
    metrics["val/gain"] = float((without - loss).double().mean())
    answer = problems.answer[:, :count].reshape(-1, 1)
    metrics |= thought_statistics(policy, replace(
        rollouts, problems=replace(problems, answer=answer, positions=None), samples=1))
    last = thought.view(len(problems), count, -1)[:, -1]
    return loss, right, metrics, _rows(policy, problems, guess[:, -1], last)


def _first_tokens(policy: PositionPolicy, parts: list[Problems], thought: Tensor,
                  ) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, whether it was predicted, the most likely token), each (P, N), of the next token after
    the thoughts (P * N, K + 1); the P passages are in parts.
    """
    found: list[tuple[Tensor, ...]] = []
    each = len(thought) // sum(map(len, parts))
    rows = thought.split([len(part) * each for part in parts])
    for part, own in zip(parts, rows, strict=True):
        predicted = policy.predictions(part, own, each)[:, :, 0]
        real = policy.targets(part)[:, :, 0]
        guess = predicted.argmax(-1)
        found.append((-predicted.gather(-1, real[..., None])[..., 0], guess == real, guess))
    loss, right, guess = (torch.cat(values) for values in zip(*found, strict=True))
    return loss, right, guess


def _rows(policy: NextTokenPolicy, problems: Problems, guess: Tensor,
          thought: Tensor | None) -> list[dict[str, Any]]:
    """Table rows: a passage, and the thought (P, K + 1) and guess (P,) after its last position."""
    text, end = policy.vocabulary.text, problems.answer.shape[1]
    last = end - 1 if problems.positions is None else problems.positions.shape[1] - 1
    said = [""] * len(problems) if thought is None else [text(row) for row in thought.tolist()]
    columns = zip(problems.question[:SHOWN, :last + 1].tolist(), said[:SHOWN],
                  guess[:SHOWN].tolist(), problems.answer[:SHOWN, last].tolist(), strict=True)
    return [{"id": number, "question": text(question), "thought": thought_text,
             "answer": text([token]), "gold": text([gold]), "correct": int(token == gold)}
            for number, (question, thought_text, token, gold) in enumerate(columns)]
