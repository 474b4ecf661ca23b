"""The task and the policy that a checked configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ponder.config.errors import UserError
from ponder.config.registry import TASKS
from ponder.config.spine import Config, writes
from ponder.models.backbone import Backbone
from ponder.models.huggingface.pretrained import load_text_model
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.models.policies.latent import ContinuousPolicy, GumbelPolicy
from ponder.models.policies.next_token import NextTokenPolicy, PositionPolicy
from ponder.models.policies.question import QuestionPolicy
from ponder.tasks.base import Task
from ponder.tasks.text.corpus import Corpus
from ponder.tasks.text.passages import Text
from ponder.tokenizers.pieces import load_pieces
from ponder.tokenizers.vocabulary import TextVocabulary, ThinkingVocabulary, Vocabulary
from ponder.training.build.networks import (
    build_network,
    build_reference,
    build_value_head,
    own_network,
    thinking_model,
    thinking_words,
    unthinking_network,
    words_of_text,
)
from ponder.training.checkpoint import load_attached, load_model

THOUGHTS = {"tokens": QuestionPolicy, "continuous": ContinuousPolicy, "gumbel": GumbelPolicy}


# --- tasks ----------------------------------------------------------------------------------------

def build_task(config: Config) -> Task:
    """The task, with as many thought tokens in its vocabulary as the thinker has."""
    if config.task.name == "text":
        return _running_text(config)
    if config.task.name == "corpus":
        return _corpus(config)
    if config.model.kind == "hf":
        return TASKS[config.task.name].target(config.task, words_of_text(config.model))
    thoughts = config.thinker.vocabulary if config.thinker.tokens else 0
    return TASKS[config.task.name].target(config.task, thoughts)


def _running_text(config: Config) -> Text:
    """Passages in the tokens of a Hugging Face model, of the checkpoint a model begins with, or in
    those that the text is to be cut into.
    """
    if config.model.kind == "hf":
        words = words_of_text(config.model)
        if config.thinker.tokens:
            thinking = thinking_words(config)
            words = ThinkingVocabulary(thinking.tokenizer, thinking.ends)
        return Text(config.task, words=words)
    start = None if config.model.name is None else load_pieces(Path(config.model.name))
    if start is not None and config.task.tokens not in ("chars", start.state()["kind"]):
        raise UserError(f"task.tokens={config.task.tokens}: found model.name={config.model.name}, "
                        f"which reads {start.state()['kind']}; legal: no word about it")
    return Text(config.task, config.thinker.vocabulary if config.thinker.tokens else 0, start)


def _corpus(config: Config) -> Corpus:
    """The prompts, with thought tokens in the vocabulary where the thinker may write them."""
    both = writes(config) == "both"
    if config.model.kind == "hf":
        return Corpus(config.task, words=thinking_words(config) if both else
                      words_of_text(config.model))
    return Corpus(config.task, config.thinker.vocabulary if both else 0, config.model.name)


# --- policies -------------------------------------------------------------------------------------

def build_policy(config: Config, task: Task) -> Policy:
    """Thinker and answerer: new ones, or those of the checkpoint `model.name`."""
    net = build_network(config, task, config.model.name)
    return POLICIES[task.policy_kind](config, task, net)


def build_rules(config: Config) -> Rules:
    """How thoughts end, and what the answerer sees; of any policy."""
    sees, thinker = config.answerer.sees, config.thinker
    return Rules(thinker.tokens, thinker.stops and not thinker.flows, "question" in sees,
                 "thought" in sees, writes(config))


def _question(config: Config, task: Task, net: Backbone) -> Policy:
    answerer = None
    if config.answerer.model == "separate" and config.thinker.tokens:
        path = None if config.model.name is None else str(Path(config.model.name) / "answerer")
        if path is not None and not Path(path).is_dir():
            raise UserError(f"model.name={config.model.name}: has no answerer/ of its own; legal: "
                            "answerer.model=shared, or a checkpoint with one")
        answerer = own_network(config, task, path)
    kind = THOUGHTS[config.thinker.kind]
    return kind(net, answerer, task.vocabulary, build_rules(config),
                config.answerer.model == "frozen", build_value_head(config, task, net),
                *build_reference(config, task, net))


def _choice(config: Config, task: Task, net: Backbone) -> Policy:
    return ChoicePolicy(net, task.vocabulary, build_rules(config), config.task.answer,
                        build_value_head(config, task, net), *build_reference(config, task, net))


def _continuation(config: Config, task: Task, net: Backbone) -> Policy:
    return ContinuationPolicy(net, None, task.vocabulary, build_rules(config), False,
                              build_value_head(config, task, net),
                              *build_reference(config, task, net))


def _next_token(config: Config, task: Task, net: Backbone) -> Policy:
    """A plain language model, or one that thinks at positions; a reference says which are hard."""
    rules, text = build_rules(config), config.task
    if rules.tokens:
        norm = None if config.model.ref_name is None else _unthinking_reader(config, task)
        policy = PositionPolicy(net, task.vocabulary, rules, text.ahead, text.mix, norm)
    else:
        policy = NextTokenPolicy(net, task.vocabulary, rules, text.ahead)
    if config.model.name is not None:
        load_attached(policy, Path(config.model.name))
    return policy


POLICIES: dict[str, Callable[[Config, Task, Backbone], Policy]] = {
    "question": _question, "choice": _choice, "next_token": _next_token,
    "continuation": _continuation}


# --- models that judge ----------------------------------------------------------------------------

def build_judge(config: Config, task: Task) -> Policy:
    """The model `model.ref_name` of reward=reference or plausibility, which knows no thoughts."""
    if task.policy_kind == "next_token":
        return _unthinking_reader(config, task)
    if task.policy_kind == "continuation":
        net, vocabulary = unthinking_network(config, task)
        return ContinuationPolicy(net, None, vocabulary, Rules(0, False))
    net = load_model(Path(config.model.ref_name or ""), "model.ref_name")
    return QuestionPolicy(net, None, type(task.vocabulary)(task.vocabulary.ordinary, 0),
                          Rules(0, False))


def _unthinking_reader(config: Config, task: Task) -> PositionPolicy:
    """The reference model, which predicts without thoughts."""
    net, vocabulary = unthinking_network(config, task)
    return PositionPolicy(net, vocabulary, Rules(0, False), config.task.ahead, False)


# --- a checkpoint that thinks at positions, without its text --------------------------------------

def position_policy(config: Config, net: Backbone | None = None,
                    vocabulary: Vocabulary | TextVocabulary | None = None) -> PositionPolicy:
    """The checkpoint `model.name` as it thinks at positions: a network and vocabulary of our own,
    or, without them, a Hugging Face model. Raises `UserError` where it has not learnt to think, or
    its positions leave no room for text.
    """
    if net is None or vocabulary is None:
        thoughts = words_of_text(replace(config.model, thought_tokens=0)).thoughts
        words = thinking_words(config)
        vocabulary = ThinkingVocabulary(words.tokenizer, words.ends)
        net = load_text_model(thinking_model(config), len(vocabulary))
    else:
        thoughts = vocabulary.thoughts
    _must_think(config, thoughts, net.positions)
    policy = PositionPolicy(net, vocabulary, build_rules(config), config.task.ahead,
                            config.task.mix)
    path = Path(config.model.name or "")
    for name in policy.attached:
        if not (path / f"{name}.safetensors").is_file():
            raise UserError(f"model.name={path}: found no {name}.safetensors, which mixes what is "
                            "predicted with and without a thought; legal: with it, or "
                            "task.mix=false")
    load_attached(policy, path)
    return policy


def _must_think(config: Config, thoughts: int, positions: int | None) -> None:
    """Raise `UserError` for a checkpoint without thought tokens, or room for text beside them."""
    asked = f"thinker.tokens={config.thinker.tokens}: found model.name={config.model.name}"
    if thoughts == 0:
        raise UserError(f"{asked}, which knows no thought tokens; legal: 0, or a checkpoint of "
                        "experiment=supervised_rollout_think")
    if positions is not None and config.thinker.tokens > positions - 2:
        raise UserError(f"{asked}, which has {positions} positions; legal: at most {positions - 2}")
