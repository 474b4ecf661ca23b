"""Refuse a configuration that cannot mean anything, before anything heavy starts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ponder.config.checks.corpus import corpus_contradictions, prompts_need
from ponder.config.checks.latent import latent_contradictions
from ponder.config.checks.prompt import prompt_contradictions
from ponder.config.checks.text import text_contradictions
from ponder.config.checks.trainer import trainer_contradictions
from ponder.config.errors import UserError, closest, shown
from ponder.config.external import no_model
from ponder.config.players import thought_count
from ponder.config.schedule import FORMS, parse_schedule
from ponder.config.spine import GROUPS, OF_A_PROMPT, REWARDS, SCHEMAS, VARIANTS, Config, variants
from ponder.config.tasks import QUESTIONS

ENUMERABLE = 4096  # thoughts of a question that strategy=exact takes
MOST_ROWS = 2**18  # thoughts of all questions of a micro-batch that it takes
OUTPUTS = {"problems": QUESTIONS, "export": QUESTIONS, "compare": (*QUESTIONS, ".md", ".html"),
           "generate": QUESTIONS}
LARGEST = 10**18  # every whole number fits 64 bits, with room for arithmetic


def check(config: Config) -> None:
    """Raise `UserError` with one line for the first thing that is wrong."""
    for group, _ in GROUPS:
        if getattr(config, group) is None:
            raise UserError(f"{group}=null: found null; legal: {', '.join(SCHEMAS[group])}")
    for key, value, about in leaves(config):
        check_leaf(key, value, about)
    for name, weight in config.reward.items():
        if name not in REWARDS:
            raise UserError(f"reward.{name}: no such reward{closest(name, list(REWARDS))}; "
                            f"legal: {', '.join(REWARDS)}")
        _check_range(f"reward.{name}={shown(weight)}", weight, {})
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


def check_leaf(key: str, value: Any, about: dict) -> None:
    typed = f"{key}={shown(value)}"
    numbers = [value]
    if about.get("schedule"):
        try:
            schedule = parse_schedule(value)
        except ValueError as error:
            raise UserError(f"{typed}: {error}; legal: {FORMS}") from None
        numbers = [schedule(0), schedule(LARGEST)]  # every schedule runs from one to the other
    for number in numbers:
        _check_range(typed, number, about)
    legal = about.get("legal") or ()
    for word in value if isinstance(value, list) else [value]:
        if legal and word not in legal:
            raise UserError(f"{typed}: found {word!r}{closest(str(word), list(legal))}; "
                            f"legal: {', '.join(legal)}")


def _check_range(typed: str, number: Any, about: dict) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    low, high = about.get("low"), about.get("high")
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{typed}: found {number}; legal: a finite number")
    if low is not None and number < low:
        raise UserError(f"{typed}: found {number}; legal: at least {low}")
    if high is not None and number > high:
        raise UserError(f"{typed}: found {number}; legal: at most {high}")
    if isinstance(number, int) and abs(number) > LARGEST:
        raise UserError(f"{typed}: found {number}; legal: at most {LARGEST}")


def contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    if config.action == "compare":  # which reads runs, and nothing of task or model
        yield from _files_must_fit(config)
        return
    if config.action in OF_A_PROMPT:
        yield from prompt_contradictions(config)
        yield from _files_must_fit(config)
        return
    yield from config.task.contradictions()
    if config.action == "problems":  # which asks the task alone
        if config.task.name == "corpus":
            yield from prompts_need(config)
        yield from _files_must_fit(config)
        return
    yield from _variants_need_thought(config)
    yield from latent_contradictions(config)
    yield from corpus_contradictions(config)
    yield from _gold_must_fit(config)
    yield from _learning_needs(config)
    yield from trainer_contradictions(config)
    yield from text_contradictions(config)
    yield from _model_must_fit(config)
    yield from _files_must_fit(config)


def _variants_need_thought(config: Config) -> Iterator[str]:
    typed = [*variants(config), *([] if config.thinker.stops else ["fixed"])]
    flags = ",".join(sorted(set(typed), key=VARIANTS.index))
    if config.thinker.tokens == 0 and flags:
        yield (f"variant=[{flags}]: found thinker.tokens=0; legal: together with think, as in "
               f"variant=[think,{flags}]")
    if config.thinker.tokens and "thought" not in config.answerer.sees:
        yield (f"answerer.sees={shown(config.answerer.sees)}: found a thought that nobody sees; "
               "legal: [question,thought] or [thought]")


def _gold_must_fit(config: Config) -> Iterator[str]:
    task, thinker = config.task, config.thinker
    whole = {"variant=super": config.answerer.learns_from == "gold",
             "variant=clean": "gold_thought" in config.reward,
             "strategy=sft": config.strategy.name == "sft" and config.rollout.kind != "search"
             and config.model.kind != "hf",  # which learns what it wrote, right or wrong
             "trainer.rehearse": config.trainer.rehearse > 0,
             "thinker.stage_steps": thinker.stage_steps > 0}
    ends = thinker.stops and not thinker.flows
    wanted = {**whole, "reward=gold_tokens": "gold_tokens" in config.reward}
    words = 20 if task.name == "addition" else 10
    for name in (name for name, on in wanted.items() if on and thinker.tokens):
        if task.gold == "none":
            yield (f"task.gold=none: found no gold thoughts, which {name} needs; legal: digits, "
                   "scratchpad")
        if thinker.vocabulary < words:
            yield (f"thinker.vocabulary={thinker.vocabulary}: found too few tokens to spell the "
                   f"digits of gold thoughts, which {name} needs; legal: at least {words}")
        length = task.thought_length
        if whole.get(name) and (thinker.tokens < length or (
                not ends and thinker.tokens != length)):
            yield (f"thinker.tokens={thinker.tokens}: found other room than the gold thought of "
                   f"{name} takes; legal: {length}{' or more' if ends else ''}")


def _learning_needs(config: Config) -> Iterator[str]:
    rollout, strategy = config.rollout, config.strategy
    baseline = getattr(strategy, "baseline", "none")
    learns = config.thinker.tokens and config.trainer.learns and not config.thinker.flows
    if learns and rollout.samples < 2 and baseline in ("group_mean", "leave_one_out"):
        yield (f"rollout.samples={rollout.samples}: found one sample, from which "
               f"strategy={strategy.name} with baseline {baseline} learns nothing; legal: at "
               "least 2")
    if learns and strategy.name == "dpo" and rollout.samples < 2:
        yield (f"rollout.samples={rollout.samples}: found one sample, of which strategy=dpo makes "
               "no pair; legal: at least 2")
    if strategy.name == "exact" and config.thinker.tokens:
        yield from _exact_needs(config)
    yield from _ratio_needs(config)
    if not config.reward:
        yield f"reward={{}}: found none; legal: one or more of {', '.join(REWARDS)}"
    if "reference" in config.reward and config.model.ref_name is None:
        yield ("reward=reference: found model.ref_name=null; legal: with "
               "model.ref_name=<checkpoint directory>")
    if getattr(rollout, "method", "") == "balanced" and (
            config.answerer.learns_from == "gold" or "gold_thought" in config.reward):
        yield ("rollout.method=balanced: found super or clean, but it invents a language of its "
               "own; legal: auto, exhaustive, beam, tree")


def _exact_needs(config: Config) -> Iterator[str]:
    thinker, rollout = config.thinker, config.rollout
    count = thought_count(thinker.tokens, thinker.vocabulary, thinker.stops, ENUMERABLE)
    if count > ENUMERABLE:
        yield (f"strategy=exact: found more than {ENUMERABLE} thoughts to enumerate; legal: "
               "fewer thinker.tokens or a smaller thinker.vocabulary")
    elif count * config.trainer.train_batch_size > MOST_ROWS:
        yield (f"trainer.train_batch_size={config.trainer.train_batch_size}: found {count} "
               f"thoughts of each question; legal with strategy=exact: at most "
               f"{MOST_ROWS // count}, with more train_gradient_accumulation_steps")
    if rollout.kind == "search":
        yield "strategy=exact: found a search, but it takes every thought; legal: rollout=sample"
    elif rollout.top_k or rollout.top_p < 1:
        yield ("strategy=exact: found rollout.top_k or top_p, but it takes every thought; legal: "
               "rollout.top_k=0 rollout.top_p=1")


def _ratio_needs(config: Config) -> Iterator[str]:
    strategy = config.strategy
    if getattr(strategy, "kl_place", "") == "loss" and strategy.kl_estimator == "k1" \
            and strategy.kl not in (0, 0.0):
        yield ("strategy.kl_estimator=k1: found strategy.kl_place=loss, where its gradient is zero "
               "on average; legal: k3, or strategy.kl_place=reward")
    if strategy.tokens_per_rollout and strategy.name in ("dpo", "exact"):
        yield (f"strategy.tokens_per_rollout={strategy.tokens_per_rollout}: found strategy="
               f"{strategy.name}, which weighs whole thoughts; legal: 0")
    if getattr(strategy, "scale", "") == "group" and config.rollout.samples < 2 \
            and config.thinker.tokens and config.rollout.kind != "search":
        yield (f"strategy.scale=group: found rollout.samples={config.rollout.samples}, which has "
               "no deviation; legal: at least 2 samples, or scale none or batch")


def _model_must_fit(config: Config) -> Iterator[str]:
    model = config.model
    yield from model.contradictions()
    for key, path in (("model.name", model.name), ("model.ref_name", model.ref_name)):
        unused = key == "model.ref_name" and config.action != "train"
        ours = model.kind == "transformer" and not unused
        if ours and path is not None and not (Path(path) / "config.json").is_file():
            yield f"{key}={path}: {no_model(Path(path), 'a checkpoint directory')}"
    if config.action == "evaluate" and model.name is None:
        yield ("action=evaluate: found model.name=null; legal: with "
               "model.name=<checkpoint directory>")


def _files_must_fit(config: Config) -> Iterator[str]:
    ends = OUTPUTS.get(config.action, ("",))
    if not str(config.out or "").endswith(ends) and (
            config.out or config.action not in ("compare", "generate")):
        yield (f"out={shown(config.out)}: found no table to write; legal: out=<file> that ends in "
               f"{', '.join(ends)}")
    if config.action == "export" and (config.model.kind != "hf" or config.strategy.name != "dpo"):
        yield (f"action=export: found model={config.model.kind} with strategy="
               f"{config.strategy.name}; legal: model=hf with strategy=dpo")
    if not re.fullmatch(r"\w[\w.-]*", config.run_type):
        yield (f"run_type={config.run_type}: found {config.run_type!r}; legal: letters, digits, "
               "_ . and -, as it names a directory")
