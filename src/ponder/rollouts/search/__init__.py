"""What searches share: which one is chosen, and how good an answer is after part of a thought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ponder.config.errors import UserError
from ponder.config.players import thought_count
from ponder.config.registry import STRATEGIES
from ponder.core.lazy_imports import F, Tensor, no_grad, torch
from ponder.core.types import Problems

if TYPE_CHECKING:
    from ponder.config.spine import Config
    from ponder.models.policies.base import Policy

ROWS_AT_ONCE = 8192  # seconds of a large search: a stop is heeded between them


def choose(config: Config, labels: int | None) -> str:
    """The method of `rollout.method=auto`, or the one that was asked for.

    labels: how many distinct answers the task numbers; None where it does not.

    Balanced self-labelling invents a language, so it needs answers that are few enough to number,
    a code for each, no gold thought that says otherwise, and no other question. Raises `UserError`
    where a method that was asked for cannot work.
    """
    thinker, rollout = config.thinker, config.rollout
    full = thought_count(thinker.tokens, thinker.vocabulary, stops=False)
    free = (config.answerer.learns_from == "own" and "gold_thought" not in config.reward
            and not thinker.asked)
    space = thought_count(thinker.tokens, thinker.vocabulary, thinker.stops)
    single = STRATEGIES[config.strategy.name].target.of(config.strategy).compares
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


def described(config: Config, labels: int | None) -> str:
    """The chosen method, and how many thoughts it has to choose from."""
    if config.rollout.method == "grow":
        count = config.thinker.vocabulary ** config.thinker.pace
        return f"rollout.method=grow: the last step of a thought is one of {count:,}"
    space = thought_count(config.thinker.tokens, config.thinker.vocabulary, config.thinker.stops)
    return f"rollout.method={choose(config, labels)}: a space of {space:,} thoughts"


def close(prefixes: Tensor, end: int, pad: int) -> Tensor:
    """Thoughts (N, K + 1) of prefixes (N, K) padded on the right, with end-of-thought added."""
    thought = F.pad(prefixes, (0, 1), value=pad)
    lengths = (prefixes != pad).sum(1, keepdim=True)
    return thought.scatter(1, lengths, end)


@no_grad
def leaf_values(policy: Policy, problems: Problems, prefixes: Tensor) -> Tensor:
    """(P, n): log p(answer) if the thought ended after each of n prefixes (P, n, K) a problem.

    Where that takes several parts, `policy.on_progress` is called between them and may interrupt.
    """
    count = prefixes.shape[1]
    at_once = max(1, ROWS_AT_ONCE // count)
    values = []
    report = policy.on_progress if len(problems) > at_once else lambda *one_part: None
    for start in range(0, len(problems), at_once):
        report("trying thoughts", start * count, len(problems) * count)
        part = slice(start, start + at_once)
        thought = close(prefixes[part].flatten(0, 1), policy.vocabulary.end, problems.pad)
        logprob, _ = policy.answer(problems[part], thought, count, policy.judge, ragged=True)
        values.append(logprob.view(-1, count))
    report("trying thoughts", len(problems) * count, len(problems) * count)
    return torch.cat(values)


def best(problems: Problems, prefixes: Tensor, values: Tensor, samples: int, end: int) -> Tensor:
    """The `samples` best thoughts (P * G, K + 1) of n candidates (P, n, K) with values (P, n)."""
    top = values.topk(min(samples, values.shape[1]), 1).indices
    top = F.pad(top, (0, samples - top.shape[1]), mode="replicate") \
        if top.shape[1] < samples else top
    width = prefixes.shape[2]
    chosen = prefixes.gather(1, top[..., None].expand(-1, -1, width))
    return close(chosen.flatten(0, 1), end, problems.pad)
