"""Evaluation on held-out prompts: the reward of continuations, and the KL to the reference model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ponder.core.math import row_codes
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.question import Evaluation, evaluation_mode, standard_error
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts import Source

ROWS_AT_ONCE = 256
ROUNDING = 1e-6  # rounding error of sums of rewards


def evaluate_corpus(policy: ContinuationPolicy, problems: Problems, source: Source, reward: Reward,
                    enough: float, seed: int = 0) -> Evaluation:
    """One continuation of every prompt, always sampled with the same random numbers.

    accuracy is the share of continuations whose reward is at least `enough`. Standard errors are
    over prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    metrics: dict[str, list[Tensor]] = {}
    rows: list[dict[str, Any]] = []
    thoughts: list[Tensor] = []
    reference: Any = reward.reference
    with evaluation_mode(policy):
        for start in range(0, len(problems), ROWS_AT_ONCE):
            part = problems[slice(start, start + ROWS_AT_ONCE)]
            rollouts = reward(policy, source.collect(policy, part, 0, generator))
            earned = rollouts.total_reward
            found = {"reward": earned, "right": (earned >= enough - ROUNDING).float(),
                     **_parts(rollouts), **policy.distances(rollouts), **_shape(policy, rollouts)}
            if reference is not None:
                found["plausible"] = reference.plausible(rollouts).sum(1)
            for name, value in found.items():
                metrics.setdefault(name, []).append(value.double())
            rows += _rows(policy, rollouts, found["right"], start)
            thoughts.append(rollouts.thought)
    whole = {name: torch.cat(values) for name, values in metrics.items()}
    return Evaluation({**_summary(whole), **_variety(policy, torch.cat(thoughts))}, rows)


def _parts(rollouts: Rollouts) -> dict[str, Tensor]:
    """Each reward of a row (B,), before its weight."""
    return {f"part/{name}": value if value.dim() == 1 else value.sum(1)
            for name, value in rollouts.parts.items()}


def _shape(policy: ContinuationPolicy, rollouts: Rollouts) -> dict[str, Tensor]:
    """Counts of tokens in each row (B,)."""
    decisions = rollouts.mask[:, :-1]
    return {"tokens": decisions.sum(1), "length": rollouts.lengths,
            "repeats": rollouts.repeats.sum(1),
            "ordinary": (policy.ordinary(rollouts.thought[:, :-1]) & decisions).sum(1)}


def _summary(rows: dict[str, Tensor]) -> dict[str, float]:
    """Means over rows, or over the tokens of all rows."""
    def mean(name: str) -> float:
        return float(rows[name].mean())

    def error(name: str) -> float:
        return standard_error(rows[name])

    def ratio(name: str, of: str) -> float:
        return float(rows[name].sum() / rows[of].sum().clamp_min(1))

    found = {"accuracy": mean("right"), "accuracy_stderr": error("right"),
             "val/reward": mean("reward"), "val/reward_stderr": error("reward"),
             **{f"val/reward/{name[5:]}": mean(name) for name in rows if name.startswith("part/")},
             "val/entropy": ratio("entropy", "tokens"), "thought/length": mean("length"),
             "thought/repetition": ratio("repeats", "length"),
             "text/thoughts": 1 - ratio("ordinary", "tokens")}
    if "kl" in rows:
        found |= {"val/kl": mean("kl"), "val/kl_stderr": error("kl")}
    if "plausible" in rows:
        found["text/plausibility"] = ratio("plausible", "ordinary")
    return found


def _variety(policy: ContinuationPolicy, thought: Tensor) -> dict[str, float]:
    """Shares of distinct continuations, and of distinct pairs of neighbouring tokens (distinct-2,
    Li et al. 2016).
    """
    pairs = torch.stack([thought[:, :-1], thought[:, 1:]], 2)
    pairs = pairs[((pairs != policy.vocabulary.pad) & (pairs != policy.end)).all(2)]
    return {"text/distinct": int(row_codes(thought).max() + 1) / len(thought),
            "text/distinct_2": len(pairs.unique(dim=0)) / max(len(pairs), 1)}


def _rows(policy: ContinuationPolicy, rollouts: Rollouts, right: Tensor, start: int,
          ) -> list[dict[str, Any]]:
    """Table rows: prompt and continuation as text, without an end-of-text that was forced."""
    words, written = policy.vocabulary, rollouts.thought.clone()
    text, room = words.text, written.shape[1] - 1
    written[:, -1] = rollouts.problems.pad
    columns = zip(rollouts.problems.question.tolist(), written.tolist(), right.tolist(),
                  rollouts.total_reward.tolist(), strict=True)
    return [{"id": number, "question": text(question), "thought": text(thought), "answer": "",
             "gold": "", "correct": int(correct), "reward": round(earned, 6),
             "end": words.ended_by(thought, room)}
            for number, (question, thought, correct, earned) in enumerate(columns, start)]
