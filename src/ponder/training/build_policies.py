"""Task, networks and policy, from a checked configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ponder.config.errors import UserError
from ponder.config.players import HfConfig
from ponder.config.registry import STRATEGIES, TASKS
from ponder.config.spine import Config, writes
from ponder.core.distributed import device_mesh, is_distributed, shard
from ponder.models.backbone import Backbone
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.gpt2.resized import resized
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary, reads_at_most
from ponder.models.policies.base import OnProgress, Policy, Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.models.policies.next_token import NextTokenPolicy, PositionPolicy
from ponder.models.policies.question import THOUGHTS, QuestionPolicy
from ponder.models.policies.value_head import ValueHead
from ponder.tasks.base import Task
from ponder.tasks.text.passages import Corpus, Text
from ponder.tokenizers.pieces import HfPieces, PieceVocabulary, identity, load_pieces
from ponder.tokenizers.vocabulary import TextVocabulary, ThinkingVocabulary, Vocabulary
from ponder.training.checkpoint import load_attached, load_model

REFERENCE = "model.ref_name"


# --- tasks ----------------------------------------------------------------------------------------

def build_task(config: Config) -> Task:
    """The task, with as many thought tokens in its vocabulary as the thinker has."""
    kind, thinker = TASKS[config.task.name].target, config.thinker
    if kind.policy_kind == "next_token":
        return _running_text(config, kind)
    if kind.policy_kind == "continuation":
        return _corpus(config, kind)
    if config.model.kind == "hf":
        words = words_of_text(config.model, config.scratch)
        return kind(config.task, words, thinks=thinker.tokens > 0)
    if "hf_model" in kind.requires:  # of action=problems alone
        return kind(config.task, None)
    return kind(config.task, thinker.vocabulary if thinker.tokens else 0, thinker.asked)


def _running_text(config: Config, kind: type[Text]) -> Text:
    """Passages in the tokens of a Hugging Face model, of the checkpoint a model begins with, or in
    those that the text is to be cut into.
    """
    scratch = Path(config.scratch)
    if config.model.kind == "hf":
        words = words_of_text(config.model, scratch)
        if config.thinker.tokens:
            words = _words_at_positions(config)
        return kind(config.task, words=words, scratch=scratch)
    start = None if config.model.name is None else load_pieces(Path(config.model.name))
    if start is not None and config.task.tokens not in ("chars", start.state()["kind"]):
        raise UserError(f"task.tokens={config.task.tokens}: found model.name={config.model.name}, "
                        f"which reads {start.state()['kind']}; legal: no word about it")
    return kind(config.task, config.thinker.vocabulary if config.thinker.tokens else 0, start,
                scratch=scratch)


def _corpus(config: Config, kind: type[Corpus]) -> Corpus:
    """The prompts, with thought tokens in the vocabulary where the thinker may write them."""
    both, scratch = writes(config) == "both", Path(config.scratch)
    if config.model.kind == "hf":
        return kind(config.task, words=thinking_words(config) if both else
                    words_of_text(config.model, scratch), scratch=scratch)
    return kind(config.task, config.thinker.vocabulary if both else 0, config.model.name,
                scratch=scratch)


# --- vocabularies of Hugging Face models ----------------------------------------------------------

def words_of_text(model: HfConfig, scratch: str | Path) -> TextVocabulary:
    """The model's tokenizer. scratch: as of `load_vocabulary`. Raises `UserError` if it has no
    end-of-sequence token.
    """
    vocabulary = load_vocabulary(model, scratch=scratch)
    if vocabulary.end is None:
        raise UserError(f"model.name={model.name}: found a tokenizer without an "
                        "end-of-sequence token, which stands between documents; legal: one "
                        "with it, as model.chat_name=<model>")
    return vocabulary


def thinking_model(config: Config) -> HfConfig:
    """The model with the thinker's thought tokens, and one more before them that ends a thought."""
    return replace(config.model, thought_tokens=config.thinker.vocabulary + 1)


def thinking_words(config: Config) -> TextVocabulary:
    """The tokenizer of `thinking_model`. Raises `UserError` where the model has other thoughts."""
    known = words_of_text(replace(config.model, thought_tokens=0), config.scratch).thoughts
    if known not in (0, config.thinker.vocabulary + 1):
        raise UserError(f"thinker.vocabulary={config.thinker.vocabulary}: found model.name="
                        f"{config.model.name}, which has {known - 1} thought tokens and their end; "
                        f"legal: {known - 1}")
    return load_vocabulary(thinking_model(config), closes=True, scratch=config.scratch)


def _words_at_positions(config: Config) -> ThinkingVocabulary:
    """The tokens of `thinking_words` for a model that thinks at positions of a text."""
    words = thinking_words(config)
    return ThinkingVocabulary(words.tokenizer, words.ends)


# --- networks -------------------------------------------------------------------------------------

def build_network(config: Config, task: Task, path: str | None, key: str = "model.name",
                  ) -> Backbone:
    """The network that `key` names, or a new one of our own, as the task needs it. Raises
    `UserError` where it does not fit.
    """
    if config.model.kind == "hf":
        return _hugging_face(config, task, key)
    return own_network(config, task, path, key)


def _hugging_face(config: Config, task: Task, key: str) -> Backbone:
    """A Hugging Face model, with thought tokens where it thinks in them. Raises `UserError` for
    texts longer than it reads.
    """
    words, kind, tokens = task.vocabulary, task.policy_kind, config.thinker.tokens
    both, barred, written = writes(config) == "both", (), None
    thinks = both if kind == "continuation" else tokens > 0 and kind == "next_token"
    if kind == "continuation":
        written = len(words) if both else words.plain
        barred = () if config.thinker.stops else words.ends
    _must_fit(config, task, key)
    if key == REFERENCE:
        _must_read_alike(config, words)
    return load_text_model(thinking_model(config) if thinks else config.model, len(words), key,
                           written, barred, config.strategy.entropy not in (0, 0.0),
                           config.scratch)


def _must_read_alike(config: Config, words: TextVocabulary) -> None:
    """Raise `UserError` for a reference model whose tokenizer is neither the task's nor, where that
    one is of `model.chat_name`, the model's own.
    """
    model, scratch, own = config.model, config.scratch, [words]
    if model.chat_name:
        own.append(load_vocabulary(replace(model, chat_name=None), scratch=scratch))
    other = load_vocabulary(replace(model, thought_tokens=0), REFERENCE, scratch=scratch)
    if identity(HfPieces(other.tokenizer)) not in [identity(HfPieces(one.tokenizer))
                                                   for one in own]:
        raise _other_tokens(config.model.ref_name or "")


def _must_fit(config: Config, task: Task, key: str) -> None:
    """Raise `UserError` for texts that are longer than the model which `key` names reads, before it
    is loaded.
    """
    limit, tokens = reads_at_most(config.model, key, config.scratch), config.thinker.tokens
    if limit is None:
        return
    name = config.model.ref_name if key == REFERENCE else config.model.name
    model = f"{key}={name}, which reads {limit} tokens at most"
    if task.policy_kind == "choice":
        longest: Any = task
        longest.must_fit(limit, tokens, model, config.action != "evaluate",
                         config.trainer.rationalise)
        return
    typed, asked, others = "thinker.tokens", tokens, task.question_length
    if task.policy_kind == "next_token":
        typed, asked, others = "task.length", task.config.length, 0
        others = tokens + task.config.ahead if tokens else 0
    if asked + others > limit:
        raise UserError(f"{typed}={asked}: found {model}; legal: at most {limit - others}")


def own_network(config: Config, task: Task, path: str | None, key: str = "model.name",
                ) -> Transformer:
    """A GPT-2 that fits the task: new, or of a checkpoint. Raises `UserError` if it does not."""
    model = config.model
    said = task.asked_length + task.answer_length
    positions = task.question_length + config.thinker.tokens + 1 + said
    if path is not None:
        net = load_model(Path(path), key)
        if task.policy_kind in ("next_token", "continuation"):  # a plain model learns to think
            return resized(net, len(task.vocabulary), positions)
        if net.shape.vocabulary != len(task.vocabulary):
            raise UserError(f"{key}={path}: found {net.shape.vocabulary} tokens; legal: "
                            f"{len(task.vocabulary)}, as task and thinker.vocabulary say")
        if net.shape.positions < positions:
            raise UserError(f"{key}={path}: found {net.shape.positions} positions; legal: "
                            f"{positions} or more, as task and thinker need")
    else:
        shape = Shape(len(task.vocabulary), positions, model.d_model, model.layers, model.heads,
                      model.positions == "sinusoidal", model.tie_embeddings)
        net = Transformer(shape, Init(model.init_std, model.query_key_std, model.embedding_std,
                                      model.position_std, model.head_std))
    net.counts_padding = task.from_left
    return net


# --- what a network is compared with --------------------------------------------------------------

def build_value_head(config: Config, task: Task, net: Backbone) -> ValueHead | None:
    """The value head that the strategy asks for; a trunk of its own begins as the thinker does."""
    kind = getattr(config.strategy, "value", "none")
    if kind == "none" or config.thinker.tokens == 0:
        return None
    trunk = None
    if kind == "separate":  # a new network of our own is drawn anew
        trunk = copy.deepcopy(net) if config.model.kind == "hf" else own_network(
            config, task, config.model.name)
    return ValueHead(net.width, config.strategy.value_reads, trunk).to(net.dtype)


def has_kl(config: Config) -> bool:
    """Whether the strategy compares the thinker with a reference model."""
    return STRATEGIES[config.strategy.name].target.of(config.strategy).needs_reference


def build_reference(config: Config, task: Task, net: Backbone) -> tuple[Backbone | None, bool]:
    """(the reference model, whether there is one): model.ref_name, or the thinker as it begins.
    None where its adapters can be switched off instead.

    With reward=reference or plausibility that name is of the model that judges, and of no
    reference. A checkpoint that is only evaluated does not know how it began; exported pairs need
    no log-probabilities.
    """
    named = config.model.ref_name is not None and not {"reference", "plausibility"} & {
        *config.reward}
    unasked = config.action == "export" or (config.action == "evaluate" and not named)
    if not has_kl(config) or config.thinker.tokens == 0 or unasked:
        return None, False
    if named:
        return build_network(config, task, config.model.ref_name, REFERENCE), True
    return None if net.has_beginning else copy.deepcopy(net).requires_grad_(False), True


def unthinking_network(config: Config, task: Task,
                       ) -> tuple[Backbone, Vocabulary | TextVocabulary]:
    """The network of `model.ref_name`, which knows no thought tokens, and its vocabulary. Raises
    `UserError` where it cuts text into others than the thinker."""
    path = config.model.ref_name or ""
    if config.model.kind == "hf":
        model = replace(config.model, thought_tokens=0)
        words = load_vocabulary(model, REFERENCE, scratch=config.scratch)
        if identity(HfPieces(words.tokenizer)) != identity(HfPieces(task.vocabulary.tokenizer)):
            raise _other_tokens(path)
        return load_text_model(model, len(words), REFERENCE, words.plain,
                               scratch=config.scratch), words
    pieces = load_pieces(Path(path), REFERENCE)
    if identity(pieces) != identity(task.vocabulary.pieces):
        raise _other_tokens(path)
    words, positions = PieceVocabulary(pieces, 0), task.question_length + config.thinker.tokens + 1
    return resized(load_model(Path(path), REFERENCE), len(words), positions), words


def _other_tokens(path: str) -> UserError:
    return UserError(f"{REFERENCE}={path}: found other tokens than those of the thinker; legal: a "
                     "model that cuts text into the same, such as the one it began as")


# --- policies -------------------------------------------------------------------------------------

def build_policy(config: Config, task: Task, on_progress: OnProgress | None = None) -> Policy:
    """Thinker and answerer: new ones, or those of the checkpoint `model.name`."""
    net = build_network(config, task, config.model.name)
    policy = POLICIES[task.policy_kind](config, task, net)
    policy.on_progress = on_progress or policy.on_progress
    return policy


def place(config: Config, policy: Policy, device: torch.device) -> Policy:
    """The policy on its device; sharded across processes where `trainer.data_parallel` says so."""
    if config.trainer.data_parallel == "replicate" or not is_distributed():
        return policy.to(device)
    critic, mesh = policy.critic, device_mesh(device.type)
    nets = [policy.thinker, policy.answerer, policy.frozen, policy.reference,
            critic.trunk if critic else None]
    for net in filter(None, dict.fromkeys(nets)):
        shard(net, net.blocks, mesh, net.inner)
    if critic is not None:
        shard(critic.head, [], mesh)
    return policy


def build_rules(config: Config) -> Rules:
    """How thoughts end, and what the answerer sees; of any policy."""
    sees, thinker = config.answerer.sees, config.thinker
    return Rules(thinker.tokens, thinker.stops and not thinker.flows, "question" in sees,
                 "thought" in sees, writes(config), thinker.filler,
                 config.answerer.positions == "from_end", thinker.pace)


def _question(config: Config, task: Task, net: Backbone) -> Policy:
    answerer = None
    if config.answerer.model == "separate" and config.thinker.apart:
        path = None if config.model.name is None else str(Path(config.model.name) / "answerer")
        if path is not None and not Path(path).is_dir():
            raise UserError(f"model.name={config.model.name}: has no answerer/ of its own; legal: "
                            "answerer.model=shared, or a checkpoint with one")
        answerer = own_network(config, task, path)
    kind = THOUGHTS["filler" if config.thinker.filler else config.thinker.kind]
    return kind(net, answerer, task.vocabulary, build_rules(config),
                config.answerer.model == "frozen", build_value_head(config, task, net),
                *build_reference(config, task, net))


def _choice(config: Config, task: Any, net: Backbone) -> Policy:
    return ChoicePolicy(net, task.vocabulary, build_rules(config), config.task.answer,
                        build_value_head(config, task, net), *build_reference(config, task, net),
                        reads=task.judge)


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
        plain = replace(config.model, thought_tokens=0)
        thoughts = words_of_text(plain, config.scratch).thoughts
        vocabulary = _words_at_positions(config)
        net = load_text_model(thinking_model(config), len(vocabulary), scratch=config.scratch)
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
