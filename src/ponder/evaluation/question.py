"""Evaluation on held-out questions: is the answer right, and does it need the thought?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ponder.core.math import count_entropy, mutual_information, row_codes
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.rollouts.sampler import given, greedy

NECESSITY = ("own", "shuffled", "random", "constant", "dropped")
ROWS_AT_ONCE = 8192


@dataclass
class Evaluation:
    """What one evaluation found: numbers by name, and a row of text for every question."""

    metrics: dict[str, float]
    necessity: dict[str, float]
    rows: list[dict[str, Any]]


@torch.no_grad()
def evaluate(policy: Policy, problems: Problems, seed: int = 0) -> Evaluation:
    """Greedy thoughts and answers for every problem, and the thought-necessity table.

    The table is the accuracy with the thinker's own thoughts, with thoughts shuffled across
    questions, of random tokens, of one constant token, and with none: thoughts that carry the
    answer lose it in every other column. `accuracy_stderr` is the binomial standard error;
    `accuracy/<name>` is that of a group of the problems.
    """
    was_training = policy.training
    policy.eval()
    parts = [problems[slice(start, start + ROWS_AT_ONCE)]
             for start in range(0, len(problems), ROWS_AT_ONCE)]
    thought = torch.cat([greedy(policy, part).thought for part in parts])
    rollouts = given(problems, thought)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    thoughts = {"own": thought, **replacements(policy, rollouts, generator)}
    texts = [policy.vocabulary.text(row) for row in thought.tolist()]
    found = judged(policy, problems, thoughts, texts)
    found.metrics.update(thought_statistics(policy, rollouts))
    policy.train(was_training)
    return found


def judged(policy: Policy, problems: Problems, thoughts: dict[str, Tensor],
           texts: list[str]) -> Evaluation:
    """The necessity table of thoughts (P, ...) by name, and a row for each of the own ones, which
    are also there as texts.
    """
    right = {name: _right(policy, problems, thoughts[name]) for name in NECESSITY}
    necessity = {name: float(right[name].float().mean()) for name in NECESSITY}
    own = necessity["own"]
    metrics = {"accuracy": own,
               "accuracy_stderr": (own * (1 - own) / len(problems)) ** 0.5,
               **{f"accuracy/{name}": float(right["own"][members].float().mean())
                  for name, members in problems.groups.items() if members.any()},
               **{f"necessity/{name}": value for name, value in necessity.items()}}
    rows = _rows(policy, problems, thoughts["own"], texts, right["own"])
    return Evaluation(metrics, necessity, rows)


def _right(policy: Policy, problems: Problems, thought: Tensor) -> Tensor:
    """(P,) whether each answer is right, judged by the answerer itself."""
    return torch.cat([
        policy.answer(problems[slice(i, i + ROWS_AT_ONCE)], thought[i:i + ROWS_AT_ONCE])[1]
        for i in range(0, len(problems), ROWS_AT_ONCE)])


def replacements(policy: Policy, rollouts: Rollouts,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """Other thoughts (P, K + 1) of the same lengths: shuffled, random, constant, dropped."""
    vocabulary, own = policy.vocabulary, rollouts.thought
    device = own.device
    content = (own != vocabulary.pad) & (own != vocabulary.end)
    shuffled = own[torch.randperm(len(own), generator=generator).to(device)]
    words = torch.randint(vocabulary.first_thought, max(len(vocabulary),
                                                        vocabulary.first_thought + 1),
                          own.shape, generator=generator).to(device)
    dropped = torch.full_like(own, vocabulary.pad)
    dropped[:, 0] = vocabulary.end
    if not policy.rules.stops:
        dropped = dropped[:, :1]
    return {"shuffled": shuffled, "random": torch.where(content, words, own),
            "constant": torch.where(content, vocabulary.first_thought, own), "dropped": dropped}


def thought_statistics(policy: Policy, rollouts: Rollouts) -> dict[str, float]:
    """Length, token-use entropy, distinct thoughts, and what thoughts say about the answer.

    Entropies and mutual informations are in nats. `meaning/t<k>/<feature>` is the mutual
    information of thought token k with a feature of the answer (units, tens, ...).
    """
    thought, problems = rollouts.thought, rollouts.problems
    answers = row_codes(problems.answer)
    codes = row_codes(thought)
    content = thought[(thought != problems.pad) & (thought != policy.vocabulary.end)]
    pairs = (rollouts.lengths - 1).clamp_min(0)
    found = {"thought/length": float(rollouts.lengths.float().mean()),
             "thought/token_entropy": count_entropy(content) if len(content) else 0.0,
             "thought/repetition": float(rollouts.repeats.sum() / pairs.sum().clamp_min(1)),
             "thought/distinct": float(codes.max() + 1),
             "thought/answer_information": mutual_information(codes, answers),
             "answer/entropy": count_entropy(answers)}
    for position in range(thought.shape[1] - 1):
        for name, value in problems.features.items():
            found[f"meaning/t{position + 1}/{name}"] = mutual_information(thought[:, position],
                                                                          value)
    return found


def _rows(policy: Policy, problems: Problems, thought: Tensor, texts: list[str],
          right: Tensor) -> list[dict[str, Any]]:
    text = policy.vocabulary.text
    replies = torch.cat([
        policy.reply(problems[slice(i, i + ROWS_AT_ONCE)], thought[i:i + ROWS_AT_ONCE])
        for i in range(0, len(problems), ROWS_AT_ONCE)])
    replies = replies.where(problems.answer != problems.pad, problems.pad)  # nobody asks for more
    columns = zip(problems.question.tolist(), texts, replies.tolist(), problems.answer.tolist(),
                  right.tolist(), strict=True)
    return [{"id": number, "question": text(question), "thought": said, "answer": text(reply),
             "gold": text(gold), "correct": int(correct)}
            for number, (question, said, reply, gold, correct) in enumerate(columns)]
