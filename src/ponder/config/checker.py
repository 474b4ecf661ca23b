"""Refuse a configuration that cannot mean anything, before anything heavy starts.

Three sources of refusals: the legal values of each key; the contradictions that each chosen part
states where it is written; and what parts require of each other (`requires` and `offers`).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, closest, must_be_text, shown
from ponder.config.option import FORMS, legal_words, parse_schedule
from ponder.config.registry import (
    ABILITIES,
    ENGINES,
    REWARDS,
    SEARCHES,
    STRATEGIES,
    TASKS,
    lines_of,
)
from ponder.config.resolve import no_model
from ponder.config.spine import (
    GROUPS,
    OF_A_PROMPT,
    OF_THE_HUB,
    VARIANTS,
    Config,
    schemas,
    variants,
    writes,
)

TABLES = (".csv", ".jsonl", ".parquet")
OUTPUTS = {"problems": TABLES, "export": TABLES, "compare": (*TABLES, ".md", ".html"),
           "browse": (".html",), "generate": TABLES, "lm_eval": (".json", *TABLES)}
OF_RUNS = ("compare", "browse", "sweep")  # actions that read runs, and nothing of a task
Required = tuple[str, set[str] | frozenset[str]]
LARGEST = 10**18  # every whole number fits 64 bits, with room for arithmetic


def check(config: Config) -> None:
    """Raise `UserError` with one line for the first thing that is wrong."""
    for group, _ in GROUPS:
        if getattr(config, group) is None:
            raise UserError(f"{group}=null: found null; legal: {', '.join(schemas(group))}")
    for key, value, about in leaves(config):
        check_leaf(key, value, about)
    for name, weight in config.reward.items():
        if name not in REWARDS:
            raise UserError(f"reward.{name}: no such reward{closest(name, REWARDS.names())}; "
                            f"legal: {', '.join(REWARDS.names())}")
        _check_range(f"reward.{name}={shown(weight)}", weight, {})
    for problem in contradictions(config):
        raise UserError(problem)


# --- values of keys -------------------------------------------------------------------------------

def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict]]:
    """Every `(key, value, metadata)` below a dataclass node."""
    known = [item.name for item in fields(node)]
    for name in vars(node):
        if name not in known and not name.startswith("_"):  # computed from keys, and kept there
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
    """Raise `UserError` for a value outside of its legal words or bounds."""
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
    legal = legal_words(about)
    several = isinstance(value, list) or (isinstance(value, dict) and legal)
    for word in value if several else [value]:
        if isinstance(word, str):
            must_be_text(key, word)
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


# --- contradictions -------------------------------------------------------------------------------

def contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    if config.action in OF_A_PROMPT:
        yield from config.generate.contradictions(config)
    elif config.action in OF_THE_HUB:
        yield from config.hub.contradictions(config)
    elif config.action == "lm_eval":
        yield from config.lm_eval.contradictions(config)
    elif config.action not in OF_RUNS:
        yield from _of(config.task, config)
        if config.action == "problems":  # which asks the task alone
            own = TASKS[config.task.name].requires - {"hf_model"}  # a table needs no tokenizer
            yield from missing_abilities(config, [(f"task={config.task.name}", own)])
        else:
            yield from _of_a_run(config)
    yield from _files_must_fit(config)


def _of_a_run(config: Config) -> Iterator[str]:
    """What is refused of a configuration that trains or evaluates."""
    yield from _variants_need_thought(config)
    yield from _of(config.model, config)
    yield from missing_abilities(config, required_abilities(config))
    yield from _of(config.thinker, config)
    yield from _of(config.answerer, config)
    yield from _gold_must_fit(config)
    if config.thinker.tokens:
        for whole in (config.strategy, config.rollout, config.engine):
            yield from _of(whole, config)
    yield from _rewards_need(config)
    yield from _of(config.trainer, config)
    yield from _of(config.logger, config)
    refuses = ENGINES[config.trainer.engine].refuses
    yield from refuses(config) if refuses else ()
    yield from _models_must_be_there(config)
    yield from _must_fit_memory(config)


def _of(part: Any, config: Config) -> Iterator[str]:
    """What a part of the configuration refuses, if it has anything to say."""
    stated = getattr(type(part), "contradictions", None)
    if stated is not None:
        yield from lines_of(stated, part, config)


def missing_abilities(config: Config, required: Iterable[Required]) -> Iterator[str]:
    """A line for each part that requires what task, model and strategy do not offer."""
    offers = {"task": TASKS[config.task.name].offers, "model": type(config.model).offers,
              "strategy": STRATEGIES[config.strategy.name].offers}
    for typed, abilities in required:
        for ability in sorted(abilities):
            if any(ability in offered for offered in offers.values()):
                continue
            able = {group: names for group, names in _able(ability).items() if names}
            if not able:
                yield (f"{typed}: found that it needs {ABILITIES[ability]}, which nothing offers; "
                       "legal: with plugins=[<module>] of a part that does")
                continue
            group, names = next(iter(able.items()))
            found = config.model.kind if group == "model" else getattr(config, group).name
            yield (f"{typed}: found {group}={found}, but it needs {ABILITIES[ability]}; legal: "
                   f"with {group}={', '.join(names)}")


def _able(ability: str) -> dict[str, list[str]]:
    """group -> the names in it that offer an ability."""
    return {"task": [entry.name for entry in TASKS if ability in entry.offers],
            "model": [name for kind in schemas("model").values() if ability in kind.offers
                      for name in kind.presets],
            "strategy": [entry.name for entry in STRATEGIES if ability in entry.offers]}


def required_abilities(config: Config) -> Iterator[Required]:
    """(the part as typed, what it requires), for every part that is chosen; the task is first."""
    thinker, trainer, strategy = config.thinker, config.trainer, config.strategy
    yield f"task={config.task.name}", TASKS[config.task.name].requires
    if thinker.flows:
        yield thinker.flowing, {"predicted_answers"}
    elif thinker.tokens:
        yield f"strategy={strategy.name}", STRATEGIES[strategy.name].requires
    for name in config.reward:
        yield f"reward={name}", REWARDS[name].requires
    flags = {"blind": {"questions"}, "super": {"gold_thoughts"},
             "search": {"questions", "own_network"}}
    if config.rollout.gold_share:
        yield f"rollout.gold_share={config.rollout.gold_share:g}", {"gold_thoughts"}
    for flag in variants(config):
        yield f"variant={flag}", flags.get(flag, set())
    if "search" in variants(config) and config.rollout.method != "auto":
        method = config.rollout.method
        yield f"rollout.method={method}", SEARCHES[method].requires
    if writes(config) != "thoughts":
        yield f"thinker.writes={thinker.writes}", {"text"}
    if trainer.rationalise:
        yield "trainer.rationalise=true", {"hints"}
    if trainer.curriculum != "none":
        yield f"trainer.curriculum={trainer.curriculum}", {"easier", "predicted_answers"}
    if thinker.pace:
        wanted = "moves" if trainer.curriculum == "none" else "easier"
        yield f"thinker.pace={thinker.pace}", {wanted}
    if thinker.asked:
        yield f"thinker.asked={thinker.asked}", {"several_questions"}
    if trainer.rehearse:
        yield f"trainer.rehearse={trainer.rehearse}", {"worked_examples"}
    yield f"trainer.engine={trainer.engine}", ENGINES[trainer.engine].requires
    if config.action == "export":
        yield "action=export", {"hf_model", "pairs"}


def _variants_need_thought(config: Config) -> Iterator[str]:
    typed = [*variants(config), *([] if config.thinker.stops else ["fixed"])]
    flags = ",".join(sorted(set(typed), key=VARIANTS.index))
    if config.thinker.tokens == 0 and flags:
        yield (f"variant=[{flags}]: found thinker.tokens=0; legal: together with think, as in "
               f"variant=[think,{flags}]")
    if config.thinker.tokens == 0 and config.rollout.gold_share:
        yield (f"rollout.gold_share={config.rollout.gold_share:g}: found no thoughts; legal: 0, or "
               "with think, as in think=true")
    if config.thinker.tokens == 0 and getattr(config.task, "answer", "") == "generated":
        others = "letter or cloze, or " if "options" in TASKS[config.task.name].offers else ""
        yield ("task.answer=generated: found no thoughts, so no text that says the answer; legal: "
               f"{others}with think, as in think=true")
    if config.thinker.tokens and "thought" not in config.answerer.sees:
        yield (f"answerer.sees={shown(config.answerer.sees)}: found a thought that nobody sees; "
               "legal: [question,thought] or [thought]")


def _gold_must_fit(config: Config) -> Iterator[str]:
    """Where something needs gold thoughts, the task gives some, and the thinker can write them."""
    task, thinker = config.task, config.thinker
    given = STRATEGIES[config.strategy.name].target.thoughts == "gold"
    whole = {"variant=super": config.answerer.learns_from == "gold",
             "variant=clean": "gold_thought" in config.reward,
             f"strategy={config.strategy.name}": given and config.rollout.kind != "search"
             and config.model.kind != "hf",  # which learns what it wrote, right or wrong
             "trainer.rehearse": config.trainer.rehearse > 0,
             "rollout.gold_share": config.rollout.gold_share > 0,
             "thinker.stage_steps": thinker.stage_steps > 0}
    ends = thinker.stops and not thinker.flows
    wanted = {**whole, "reward=gold_tokens": "gold_tokens" in config.reward}
    entry = TASKS[task.name]
    words = getattr(entry.target or entry.keys, "gold_vocabulary", 10)
    for name in (name for name, on in wanted.items() if on and thinker.tokens):
        if getattr(task, "gold", "") == "none":
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


def _rewards_need(config: Config) -> Iterator[str]:
    """Some reward, and the keys that each reward is told by."""
    if not config.reward:
        yield f"reward={{}}: found none; legal: one or more of {', '.join(REWARDS.names())}"
    for name in config.reward:
        entry = REWARDS[name]
        for key in entry.needs:
            group, _, leaf = key.partition(".")
            value = getattr(getattr(config, group), leaf, None)
            if not value:
                yield (f"reward={name}: found {key}={shown(value)}; legal: with {key}=<"
                       f"{'checkpoint directory' if group == 'model' else 'what counts'}>")
        if entry.refuses is not None:
            yield from entry.refuses(config)


def _models_must_be_there(config: Config) -> Iterator[str]:
    model = config.model
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
            config.out or config.action not in ("compare", "browse", "generate", "lm_eval")):
        found = "no table to write" if TABLES[0] in ends else "another kind of file"
        yield (f"out={shown(config.out)}: found {found}; legal: out=<file> that ends in "
               f"{', '.join(ends)}")
    if not re.fullmatch(r"\w[\w.-]*", config.run_type):
        yield (f"run_type={config.run_type}: found {config.run_type!r}; legal: letters, digits, "
               "_ . and -, as it names a directory")


def remarks(config: Config) -> Iterator[str]:
    """A line for each choice that is legal but cannot teach what the task asks."""
    told = [name for name in config.reward if REWARDS[name].requires]
    asks = "questions" in TASKS[config.task.name].offers
    learns = config.thinker.tokens and not config.thinker.flows and config.rollout.kind == "sample"
    if asks and learns and not told:
        yield (f"reward=[{','.join(config.reward)}]: says nothing of question or answer, so "
               "thoughts cannot learn to help; with another one besides, as in "
               f"reward=[log_likelihood,{','.join(config.reward)}]")


# --- memory ---------------------------------------------------------------------------------------

def _must_fit_memory(config: Config) -> Iterator[str]:
    """Sizes of which even a lower bound of the memory is more than there is.

    A parameter takes 16 bytes (weight, gradient, two moments of the optimizer); a token of a row
    that is learnt at least 10 vectors of the width in each block. Nothing is known of networks of
    Hugging Face but that a token takes 8 bytes.
    """
    model, trainer, thinker = config.model, config.trainer, config.thinker
    width, blocks = getattr(model, "d_model", 1), getattr(model, "layers", 1)
    networks = 2 if thinker.apart and config.answerer.model == "separate" else 1
    weights = networks * 16 * 12 * blocks * width**2 if model.kind == "transformer" else 0
    rows = max(trainer.train_batch_size, trainer.gen_batch_size or 0) * config.rollout.samples
    rows *= thinker.tokens + 1
    learnt = rows * (40 * width * blocks if model.kind == "transformer" else 8)
    room = memory_bytes()
    if weights + learnt <= room:
        return
    sizes = {  # in units of what is usual
        "model.layers": blocks / 2, "model.d_model": width / 64,
        "trainer.train_batch_size": trainer.train_batch_size / 256,
        "trainer.gen_batch_size": (trainer.gen_batch_size or 0) / 256,
        "rollout.samples": config.rollout.samples / 8, "thinker.tokens": thinker.tokens / 8}
    key = max(sizes, key=lambda name: sizes[name])
    group, _, leaf = key.partition(".")
    yield (f"{key}={getattr(getattr(config, group), leaf)}: found a run that needs at least "
           f"{(weights + learnt) / 2**30:,.0f} GiB of memory; legal: what fits into the "
           f"{room / 2**30:,.0f} GiB of this machine")


def memory_bytes() -> float:
    """Memory that this process may use; without bound where there is a GPU, whose is not known."""
    if Path("/dev/nvidia0").exists():
        return math.inf
    room = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # where no other bound is told
        room = min(room, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return room
