"""Evaluation of thoughts in text on questions: accuracy, necessity, failures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor

from ponder.core.types import Problems, Rollouts
from ponder.evaluation.question import NECESSITY, Evaluation, evaluation_mode, standard_error
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts.written import Written
from ponder.tasks.choice.answers import UNPARSED
from ponder.tasks.choice.qa import Qa

SHORT = 16  # tokens of a passage that three copies make a loop of; of a longer one, two


def evaluate_text(policy: ChoicePolicy, task: Qa, problems: Problems, source: Written,
                  seed: int = 0) -> Evaluation:
    """Sampled thoughts and answers for every problem, as many as `source` samples.

    `accuracy` is by the task's answer mode, over questions and samples, with the standard error of
    the mean over questions. The necessity table is as in `evaluate`, without random texts. With
    answer mode `generated` the answer is part of the text, so only `dropped` (the most likely
    letter without a text) remains. Names and meanings: docs/metrics.md.
    """
    with evaluation_mode(policy):
        rollouts = source.collect(policy, problems, 0, torch.Generator().manual_seed(seed))
        assert rollouts.answered is not None
        right = (rollouts.answered[:, 1] >= 1).to(rollouts.answered).view(-1, rollouts.samples)
        chosen = rollouts.answered[:, 2].long()
        metrics = {"accuracy": float(right.mean()),
                   "accuracy_stderr": standard_error(right.mean(1)),
                   "chance": task.chance(problems),
                   **_necessity(policy, task, rollouts, float(right.mean()), seed),
                   **_of_groups(right, chosen, problems), **_of_texts(policy, rollouts, chosen),
                   **_of_parts(task, problems, right.mean(1)),
                   **_by_name(policy, task, rollouts, float(right.mean()))}
        return Evaluation(metrics, rows_of(policy, task, rollouts, seed))


def _necessity(policy: ChoicePolicy, task: Qa, rollouts: Rollouts, own: float, seed: int,
               ) -> dict[str, float]:
    """Accuracy with own thoughts, those of other questions, and none; NaN for the others."""
    problems, thought, samples = rollouts.problems, rollouts.thought, rollouts.samples
    if not (policy.rules.tokens and "options" in task.offers):
        return {}
    end = torch.full_like(thought[:, :1], policy.vocabulary.end)  # the answerer does not see it
    others = {"dropped": end.expand_as(thought)}
    if policy.answer_mode != "generated":
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(problems), generator=generator).to(thought.device)
        others["shuffled"] = thought.view(-1, samples, thought.shape[1])[order].flatten(0, 1)
    every = torch.stack([changed.unflatten(0, (-1, samples)) for changed in others.values()], 1)
    mode = "letter" if policy.answer_mode == "generated" else policy.answer_mode
    judged = policy.judge_thoughts(problems, every.flatten(0, 2), samples * len(others), mode)
    right = judged[:, 1].float().view(-1, len(others), samples)
    found = {name: float(right[:, i].mean()) for i, name in enumerate(others)}
    return {f"necessity/{name}": {"own": own, **found}.get(name, math.nan) for name in NECESSITY}


def _of_groups(right: Tensor, chosen: Tensor, problems: Problems) -> dict[str, float]:
    """pass@k, majority@k, and the questions with both right and wrong samples."""
    samples = right.shape[1]
    if samples == 1:
        return {}
    assert problems.label is not None
    majority = []
    for answers, gold in zip(chosen.view(-1, samples).tolist(), problems.label.tolist(),
                             strict=True):
        votes = Counter(answer for answer in answers if answer >= 0)
        top = [answer for answer, count in votes.items() if count == max(votes.values())]
        majority.append((gold in top) / len(top) if top else 0.0)
    both = right.any(1) & ~right.all(1)
    mixed = right[both]
    return {f"pass@{samples}": float(right.any(1).float().mean()),
            f"majority@{samples}": sum(majority) / len(majority),
            "mixed/accuracy": float(mixed.mean()) if len(mixed) else float("nan"),
            "mixed/questions": float(both.float().mean())}


def degenerate(tokens: list[int]) -> bool:
    """Whether a text ends with a passage and its copies: one, or two of at most `SHORT` tokens,
    and at least six tokens in all.
    """
    for period in range(1, len(tokens) // 2 + 1):
        copies = 3 if period <= SHORT else 2
        tail = tokens[-period * copies:]
        if len(tail) == period * copies >= 6 and tail[period:] == tail[:-period]:
            return True
    return False


def _of_texts(policy: ChoicePolicy, rollouts: Rollouts, chosen: Tensor) -> dict[str, float]:
    """Shares of texts without a readable answer, without an end, and with a degenerate end."""
    if not policy.rules.tokens:
        return {}
    lengths = rollouts.lengths
    room = rollouts.thought.shape[1] - 1
    truncated = [policy.vocabulary.truncated(row, room) for row in rollouts.thought.tolist()]
    rows = [row[:length] for row, length in zip(rollouts.thought.tolist(), lengths.tolist(),
                                                strict=True)]
    return {"thought/length": float(lengths.float().mean()),
            "text/unparsable": float((chosen < 0).float().mean()),
            "text/truncated": sum(truncated) / max(len(rows), 1),
            "text/degenerate": sum(map(degenerate, rows)) / max(len(rows), 1)}


def _of_parts(task: Qa, problems: Problems, right: Tensor) -> dict[str, float]:
    """Accuracy by subject and by language, where there is more than one."""
    found = {}
    for kind in ("subject", "language"):
        groups: dict[str, list[float]] = defaultdict(list)
        for question, value in zip(task.questions(problems), right.tolist(), strict=True):
            groups[getattr(question, kind)].append(value)
        if len(groups) > 1:
            found |= {f"accuracy/{name or 'none'}": sum(values) / len(values)
                      for name, values in sorted(groups.items())}
    return found


def _by_name(policy: ChoicePolicy, task: Qa, rollouts: Rollouts, own: float) -> dict[str, float]:
    """The accuracy named by its answer mode. With `generated`, also that of the most likely
    letter after the text, where there are options.
    """
    if policy.answer_mode != "generated" or "options" not in task.offers:
        return {f"{policy.answer_mode}/accuracy": own}
    judged = policy.judge_thoughts(rollouts.problems, rollouts.thought, rollouts.samples, "letter")
    return {"generated/accuracy": own, "letter/accuracy": float(judged[:, 1].float().mean())}


def rows_of(policy: ChoicePolicy, task: Qa, rollouts: Rollouts, seed: int) -> list[dict[str, Any]]:
    """A row of generated.csv for every thought: its text, answer and tokens."""
    assert rollouts.answered is not None
    words, room = policy.vocabulary, rollouts.thought.shape[1] - 1
    unread = {code: why for why, code in UNPARSED.items()}
    questions = [question for question in task.questions(rollouts.problems)
                 for _ in range(rollouts.samples)]
    texts = [words.text(thought) for thought in rollouts.thought.tolist()]
    columns = zip(questions, texts, rollouts.thought.tolist(), rollouts.answered.tolist(),
                  rollouts.logprobs.sum(1).tolist(), strict=True)
    return [{"id": question.id, "subject": question.subject, "question": question.question,
             "thought": text, "answer": task.said(question, int(answer), text,
                                                  words.truncated(thought, room)),
             "gold": task.gold(question), "correct": int(right >= 1), "reward": right,
             "unread": unread.get(int(answer), ""), "logprob": logprob, "seed": seed,
             "end": words.ended_by(thought, room),
             "tokens": " ".join(str(token) for token in thought if token != rollouts.problems.pad)}
            for question, text, thought, (_, right, answer), logprob in columns]
