"""Old command lines, spelt as today.

Ponder follows a program for STaR and DPO on MMLU whose command lines people keep in scripts and
notes. A line with one of its keys is rewritten, and what it left unsaid is what that program did:

- MMLU in English (`mmlu`; `mmlu_YO-NG` is Yoruba), written rationales of `MODEL`, all weights
  trained unless `lora_r` says otherwise, exact match, ten rounds, seed 2: every name of its runs
  ends in `seed=2`, and a run without `max_epochs` left a `checkpoint_10`.
- `reinforce`, its default, was no policy gradient: it learnt the right rationales by likelihood,
  one a question, which is `strategy=star strategy.keep=correct rollout.samples=1`.
- `run_type=val` was an evaluation; it takes over what its checkpoint was trained with.
- The last of several words for a key counts.

Left out: `reset_model_every_star_epoch` is false where nobody says so, as it is today; tokenizers
come from the model itself without `checkpoint_base`. These shims may go when nobody types them.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ponder.cli.errors import sweeps
from ponder.config.errors import UserError
from ponder.config.running import TrainerConfig
from ponder.config.spine import program
from ponder.tasks.choice.questions import split_name

MODEL = "unsloth/Llama-3.1-8B-Instruct"
_AGENT = "trainer.agent."
_HANDLER = f"{_AGENT}model_handler."
KEYS = {
    f"{_HANDLER}optimizer_partial.lr": "trainer.lr",
    f"{_HANDLER}optimizer_partial.weight_decay": "trainer.weight_decay",
    f"{_HANDLER}warmup": "trainer.warmup",
    f"{_HANDLER}lora_r": "model.lora_r",
    f"{_HANDLER}checkpoint_base": "model.chat_name",
    "trainer.model_name": "model.name",
    "trainer.ref_model_name": "model.ref_name",
    "trainer.dataset_name": "task.language",
    "trainer.num_train_questions": "task.train_questions",
    "trainer.shuffle_dataloader": "task.shuffle",
    "trainer.meta_prompt_to_preamble": "task.preamble",
    "trainer.train_strategy": "strategy",
    "trainer.dpo_beta": "strategy.beta",
    "trainer.samples_per_train_question": "rollout.samples",
    "trainer.interal_epochs": "trainer.internal_epochs",
    "trainer.reset_model_every_star_epoch": "trainer.reset_model_every_epoch",
    "model_checkpoint_to_eval": "model.name",
    "current_global_step": "step",
}
LOGGER = "CustomWandBLogger"
CHOICES = {"task": "mmlu", "model": "hf", "variant": "[think]", "rollout": "sample",
           "reward": "exact_match", "trainer": "text"}

Words = dict[str, str]  # key -> value; None stands for words without one, such as -m


def modern(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments in today's spelling, and a line for each thing that the user should know.

    Raises `UserError` for words that look like an old key and are none.
    """
    notes: list[str] = []
    for key in map(_key, arguments):
        _refuse_unknown(key)
    if not any(map(_is_old, arguments)):
        return arguments, notes
    options = [word for word in arguments if "=" not in word or word.startswith(("-", "~"))]
    words = _today(word for word in arguments if word not in options)
    _fit(words, notes)
    if not sweeps(arguments):
        _stay(words, notes)
    words = {**_unsaid(words), **words}
    line = [*options, *(f"{key}={value}" for key, value in words.items())]
    return line, [*notes, f"old spelling; today: {program()} {shlex.join(line)}"]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _is_old(word: str) -> bool:
    return "=" in word and (_key(word) in KEYS or word == f"logger={LOGGER}")


# --- keys and values ----------------------------------------------------------------------------


def _today(typed: Iterable[str]) -> Words:
    """Keys and values as today, in the order of the last word for each."""
    words: Words = {}
    for word in typed:
        key, _, value = word.partition("=")
        for new, spelt in _translated(key, value):
            words.pop(new, None)
            words[new] = spelt
    return words


def _translated(typed: str, value: str) -> list[tuple[str, str]]:
    """What one word means today, as keys and values."""
    key = typed.lstrip("+")
    if key == "trainer.train_strategy":
        return _strategies(value)
    if key == "trainer.dataset_name":
        return [("task.language", ",".join(map(_language, _swept(value))))]
    if key == "logger" and value == LOGGER:
        return [("logger", "wandb"), ("logger.naming", "parameters")]
    if key == "model_checkpoint_to_eval":
        return [("action", "evaluate"), ("model.name", value)]
    if typed == "run_type" and value == "val":
        return [("action", "evaluate"), ("run_type", value)]
    return [(KEYS[key], value) if key in KEYS else (typed, value)]


def _swept(value: str) -> list[str]:
    """`a,"b"` as the values of a sweep."""
    return [one.strip().strip("'\"") for one in value.split(",")]


def _strategies(value: str) -> list[tuple[str, str]]:
    names = _swept(value)
    if "reinforce" not in names:
        return [("strategy", value)]
    if set(names) != {"reinforce"}:
        raise UserError(f"trainer.train_strategy={value}: found reinforce among others, which have "
                        "other keys today; legal: one of them in each call")
    return [("strategy", "star"), ("strategy.keep", "correct")]


def _language(name: str) -> str:
    try:
        return split_name(name)
    except ValueError:
        raise UserError(f"trainer.dataset_name={name}: found {name!r}; legal: mmlu, "
                        "mmlu_<language>, or task=qa task.data=<file>") from None


def _fit(words: Words, notes: list[str]) -> None:
    """Take out what the old program let stand idle: keys of another strategy."""
    strategy = words.get("strategy", "star")
    if strategy != "star":
        words.pop("strategy.keep", None)
    if strategy != "dpo" and "experiment" not in words and "strategy.beta" in words:
        notes.append(f"trainer.dpo_beta={words.pop('strategy.beta')}: left out, as it means "
                     "nothing without trainer.train_strategy=dpo")


def _stay(words: Words, notes: list[str]) -> None:
    """Take out where a sweep is sent: without -m the old program ran here, whatever was said."""
    for key in [key for key in words if key.startswith("hydra.launcher.")]:
        notes.append(f"{key}={words.pop(key)}: left out, as nothing is launched without -m; "
                     "running here")


def _unsaid(words: Words) -> Words:
    """What a line meant without saying so. One that names an experiment is today's already."""
    if "experiment" in words:
        return {}
    unsaid = dict(CHOICES)
    if words.get("model", "hf") == "hf":
        unsaid["model.name"] = MODEL
    if words.get("action") == "evaluate":
        return unsaid
    if "strategy" not in words:
        unsaid |= {"strategy": "star", "strategy.keep": "correct"}
    if words.get("strategy", "star") == "star":
        unsaid["rollout.samples"] = "1"
    return {**unsaid, "trainer.max_epochs": "10", "seed": "2"}


# --- runs of earlier versions -------------------------------------------------------------------


def thought_tokens_of(run: Path) -> list[str]:
    """The word for the thought tokens of a run whose configuration has their number: 10 was once
    the default whatever the task. None where it says that the task decides.
    """
    with contextlib.suppress(OSError, ValueError):
        told = (run / ".hydra" / "config.yaml").read_text("utf-8")
        found = re.search(r"^thinker:\n(?: .*\n)*? +vocabulary: (\d+)$", told, re.MULTILINE)
        return [f"thinker.vocabulary={found[1]}"] if found else []
    return []


# --- mistakes -----------------------------------------------------------------------------------


def _refuse_unknown(key: str) -> None:
    """Raise `UserError` for a key that is nearer to an old one than to any of today's."""
    if key in KEYS or not key.startswith("trainer."):
        return
    agent = key.startswith(_AGENT)
    known = [old for old in KEYS if old.startswith(_AGENT)]
    if not agent:
        known = [*KEYS, *(f"trainer.{item.name}" for item in fields(TrainerConfig))]
    leaves = {old.rpartition(".")[2]: old for old in known}  # what is in front says little
    near = difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.8)
    if near and leaves[near[0]] in KEYS:
        meant = leaves[near[0]]
        raise UserError(f"{key}: no such key (did you mean {meant}?); legal: {meant}, which is "
                        f"{KEYS[meant]} today")
    if agent:
        legal = ", ".join(f"{old} (today {KEYS[old]})" for old in known)
        raise UserError(f"{key}: no such key; legal: {legal}")
