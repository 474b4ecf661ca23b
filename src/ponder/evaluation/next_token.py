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
    accuracy: the share of positions whose next token was predicted as the most likely one.

    A policy that thinks writes a greedy thought after every position. val/loss is then the loss
    with thoughts; `necessity/...` are accuracies, `necessity_loss/...` losses.
    """
    thinks = policy.thinks_at_positions
    with evaluation_mode(policy):
        found = (_thinking(cast(PositionPolicy, policy), problems, seed) if thinks
                 else _plain(policy, problems))
    loss, right, metrics, rows = found
    own, nats = float(right.double().mean()), float(loss.double().mean())
    passages = loss.double().mean(1)
    metrics = {"accuracy": own, "accuracy_stderr": binomial_error(own, right.numel()),
               "val/loss": nats, "val/loss_stderr": standard_error(passages),
               "val/bits_per_byte": nats / math.log(2) / max(bytes_per_token, 1e-9), **metrics}
    for row, value in zip(rows, passages.tolist(), strict=False):
        row["loss"] = round(value, 4)
    necessity = {name: metrics[f"necessity/{name}"] for name in NECESSITY} if thinks else {}
    return Evaluation(metrics, necessity, rows)


Found = tuple[Tensor, Tensor, dict[str, float], list[dict[str, Any]]]  # loss and right (P, T),
# metrics, table rows


def _plain(policy: NextTokenPolicy, problems: Problems) -> Found:
    """Without thoughts."""
    loss, guess = policy.predict(problems)
    return loss, guess == problems.answer, {}, _rows(policy, problems, guess[:, -1], None)


def _thinking(policy: PositionPolicy, problems: Problems, seed: int) -> Found:
    """With a greedy thought after every position, and with each of its replacements."""
    problems = replace(problems, positions=all_positions(policy, problems))
    assert problems.positions is not None
    parts = [problems[part] for part in policy.in_parts(problems, problems.positions.shape[1])]
    written = [think_at_positions(policy, part, 1, GREEDY) for part in parts]
    thought = torch.cat([part.thought for part in written])
    rollouts = given(problems, thought, problems.positions.shape[1])
    generator = torch.Generator().manual_seed(seed)
    thoughts = {"own": thought, **replacements(policy, rollouts, generator)}
    found = {name: _first_tokens(policy, parts, changed) for name, changed in thoughts.items()}
    metrics = {}
    for name in NECESSITY:
        metrics[f"necessity/{name}"] = float(found[name][1].double().mean())
        metrics[f"necessity_loss/{name}"] = float(found[name][0].double().mean())
    count = problems.positions.shape[1]
    without = torch.cat([policy.next_token_nll(part)[:, :count] for part in parts])
    metrics["val/loss_without"] = float(without.double().mean())
    metrics["val/gain"] = float((without - found["own"][0]).double().mean())
    flat = replace(rollouts, problems=replace(problems, answer=problems.answer[
        :, :problems.positions.shape[1]].reshape(-1, 1), positions=None), samples=1)
    metrics |= thought_statistics(policy, flat)
    last = problems.positions.shape[1] - 1
    return (*found["own"][:2], metrics, _rows(policy, problems, found["own"][2][:, last],
                                              thought.view(len(problems), last + 1, -1)[:, last]))


def _first_tokens(policy: PositionPolicy, parts: list[Problems], thought: Tensor,
                  ) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, whether it was predicted, the most likely token), each (P, N), of the next token after
    the thoughts (P * N, K + 1).
    """
    found: list[tuple[Tensor, ...]] = []
    start = 0
    for part in parts:
        assert part.positions is not None
        count = part.positions.shape[1]
        rows = thought[start:start + len(part) * count]
        start += len(rows)
        predicted = policy.predictions(part, rows, count, *policy.read(part))[:, :, 0]
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
