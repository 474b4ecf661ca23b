"""Searches: thoughts that are found instead of only sampled."""

from __future__ import annotations

from typing import Any

from ponder.config.errors import UserError
from ponder.config.players import thought_count
from ponder.config.spine import Config
from ponder.rollouts.search.balanced import Balanced
from ponder.rollouts.search.beam import Beam
from ponder.rollouts.search.exhaustive import Exhaustive
from ponder.rollouts.search.tree import Tree

SEARCHES: dict[str, type] = {"balanced": Balanced, "exhaustive": Exhaustive, "beam": Beam,
                             "tree": Tree}


def _wants_groups(strategy: Any) -> str | None:
    """What in a strategy needs several thoughts of a question, or None."""
    if strategy.name == "dpo":
        return "strategy=dpo"
    for key, values in (("baseline", ("group_mean", "leave_one_out")), ("scale", ("group",))):
        if getattr(strategy, key, "none") in values:
            return f"strategy.{key}={getattr(strategy, key)}"
    return None


def choose(config: Config, labels: int | None) -> str:
    """The method of `rollout.method=auto`, or the one that was asked for.

    Balanced self-labelling invents a language, so it needs answers that are few enough to number,
    a code for each, and no gold thought that says otherwise. Raises `UserError` where a method
    that was asked for cannot work.
    """
    thinker, rollout = config.thinker, config.rollout
    full = thought_count(thinker.tokens, thinker.vocabulary, stops=False)
    free = config.answerer.learns_from == "own" and "gold_thought" not in config.reward
    space = thought_count(thinker.tokens, thinker.vocabulary, thinker.stops)
    single = _wants_groups(config.strategy)
    if rollout.method == "balanced" and single:
        raise UserError(f"rollout.method=balanced: found {single}, but each question has one code; "
                        "legal: strategy=star or sft, or another method")
    if rollout.method == "auto":
        if not single and free and labels is not None and full >= labels:
            return "balanced"
        return "exhaustive" if space <= rollout.limit else "beam"
    if rollout.method == "balanced" and (labels is None or full < labels):
        raise UserError(f"rollout.method=balanced: {full} thoughts for {labels or 'uncounted'} "
                        "answers; legal: thinker.vocabulary ** thinker.tokens at least as many as "
                        "answers, which the task must be able to number")
    if rollout.method == "exhaustive" and space > rollout.limit:
        raise UserError(f"rollout.method=exhaustive: {space} thoughts, more than "
                        f"rollout.limit={rollout.limit}; legal: beam, tree, or a higher limit")
    return rollout.method
