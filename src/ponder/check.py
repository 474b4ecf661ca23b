"""Refuse a configuration that cannot mean anything, before anything heavy starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ponder.config import REWARDS, Config, variants
from ponder.errors import UserError, closest
from ponder.schedule import FORMS, parse_schedule


def check(config: Config) -> None:
    """Raise `UserError` with one line for the first thing that is wrong."""
    for key, value, about in leaves(config):
        _check_leaf(key, value, about)
    for name in config.reward:
        if name not in REWARDS:
            raise UserError(f"reward.{name}: unknown reward{closest(name, list(REWARDS))}; "
                            f"legal: {', '.join(REWARDS)}")
    for problem in contradictions(config):
        raise UserError(problem)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict]]:
    """Every `(key, value, metadata)` below a dataclass node."""
    known = [item.name for item in fields(node)]
    for name in vars(node):
        if name not in known:
            raise UserError(f"{prefix}{name}: no such key{closest(name, known)}; "
                            f"legal here: {', '.join(known)}")
    for item in fields(node):
        value = getattr(node, item.name)
        key = f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from leaves(value, key + ".")
        else:
            yield key, value, dict(item.metadata)


def _check_leaf(key: str, value: Any, about: dict) -> None:
    if about.get("schedule"):
        try:
            value = parse_schedule(value)(0)
        except ValueError as error:
            raise UserError(f"{key}={value}: {error}; legal: {FORMS}") from None
    legal = about.get("legal") or ()
    for word in value if isinstance(value, list) else [value]:
        if legal and word not in legal:
            raise UserError(f"{key}={word}: found {word!r}{closest(str(word), list(legal))}; "
                            f"legal: {', '.join(legal)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = about.get("low"), about.get("high")
        if low is not None and value < low:
            raise UserError(f"{key}={value}: found {value}; legal: at least {low}")
        if high is not None and value > high:
            raise UserError(f"{key}={value}: found {value}; legal: at most {high}")


def contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    yield from _variants_need_thought(config)
    yield from _gold_must_fit(config)
    yield from _learning_needs(config)
    model = config.model
    if model.d_model % model.heads:
        yield (f"model.heads={model.heads}: does not divide model.d_model={model.d_model}; "
               "legal: a divisor of it")
    for key, path in (("model.name", model.name), ("model.ref_name", model.ref_name)):
        if path is not None and not (Path(path) / "config.json").is_file():
            yield f"{key}={path}: no config.json there; legal: a checkpoint directory"
    if config.task.data is not None and not Path(config.task.data).is_file():
        yield f"task.data={config.task.data}: no such file; legal: a .csv or .parquet file"
    if config.action == "evaluate" and model.name is None:
        yield "action=evaluate: needs model.name=<checkpoint directory>"
    if config.action == "problems" and not str(config.out).endswith((".csv", ".parquet")):
        yield f"out={config.out}: action=problems needs out=<file>.csv or <file>.parquet"


def _variants_need_thought(config: Config) -> Iterator[str]:
    if config.thinker.tokens == 0:
        for flag in variants(config):
            yield f"variant={flag}: needs think (thinker.tokens is 0); legal: variant=[think,{flag}]"
        if not config.thinker.stops:
            yield "variant=fixed: needs think (thinker.tokens is 0); legal: variant=[think,fixed]"
    elif "thought" not in config.answerer.sees:
        yield (f"answerer.sees={config.answerer.sees}: a thought nobody sees is no use; "
               "legal: [question,thought] or [thought]")


def _gold_must_fit(config: Config) -> Iterator[str]:
    task, thinker = config.task, config.thinker
    wanted = {"variant=super": config.answerer.learns_from == "gold",
              "variant=clean": "gold_thought" in config.reward,
              "strategy=sft": config.strategy.name == "sft" and config.rollout.kind != "search"}
    for name in (name for name, on in wanted.items() if on and thinker.tokens):
        if task.gold == "none" and task.data is None:
            yield f"{name}: needs gold thoughts, but task.gold=none; legal: digits, scratchpad"
        if thinker.vocabulary < 10:
            yield (f"thinker.vocabulary={thinker.vocabulary}: {name} spells gold thoughts with 10 "
                   "thought tokens; legal: at least 10")
        length = task.thought_length
        if thinker.tokens < length or (not thinker.stops and thinker.tokens != length):
            yield (f"thinker.tokens={thinker.tokens}: {name} needs room for the gold thought; "
                   f"legal: {length}{' or more' if thinker.stops else ''}")


def _learning_needs(config: Config) -> Iterator[str]:
    rollout, strategy = config.rollout, config.strategy
    baseline = getattr(strategy, "baseline", "group_mean" if strategy.name == "grpo" else "none")
    if config.thinker.tokens and rollout.samples < 2 and baseline in ("group_mean",
                                                                      "leave_one_out"):
        yield (f"rollout.samples={rollout.samples}: strategy={strategy.name} with baseline "
               f"{baseline} learns nothing from one sample; legal: at least 2")
    if "reference" in config.reward and config.model.ref_name is None:
        yield "reward=reference: needs model.ref_name=<checkpoint directory>"
    if getattr(rollout, "method", "") == "balanced":
        if config.answerer.learns_from == "gold" or "gold_thought" in config.reward:
            yield ("rollout.method=balanced: invents its own language, so super and clean cannot "
                   "steer it; legal: exhaustive, beam, tree")
