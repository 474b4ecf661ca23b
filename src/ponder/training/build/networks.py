"""Vocabularies, networks, value heads and reference models, from a checked configuration."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from ponder.config.errors import UserError
from ponder.config.players import HfConfig
from ponder.config.registry import STRATEGIES
from ponder.config.spine import Config, writes
from ponder.core.distributed import is_distributed, shard
from ponder.models.backbone import Backbone
from ponder.models.gpt2.model import Init, Shape, Transformer, resized
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.base import Policy, ValueHead
from ponder.tasks.base import Task
from ponder.tokenizers.pieces import HfPieces, PieceVocabulary, identity, load_pieces
from ponder.tokenizers.vocabulary import TextVocabulary, Vocabulary
from ponder.training.checkpoint import load_model

REFERENCE = "model.ref_name"


def place(config: Config, policy: Policy, device: torch.device) -> Policy:
    """The policy on its device; sharded across processes where `trainer.data_parallel` says so."""
    if config.trainer.data_parallel == "replicate" or not is_distributed():
        return policy.to(device)
    critic = policy.critic
    nets = [policy.thinker, policy.answerer, policy.frozen, policy.reference,
            critic.trunk if critic else None]
    for net in filter(None, dict.fromkeys(nets)):
        shard(net, net.blocks, device, net.inner)
    if critic is not None:
        shard(critic.head, [], device)
    return policy


# --- vocabularies of Hugging Face models ----------------------------------------------------------

def words_of_text(model: HfConfig) -> TextVocabulary:
    """The model's tokenizer. Raises `UserError` if it has no end-of-sequence token."""
    vocabulary = load_vocabulary(model)
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
    known = words_of_text(replace(config.model, thought_tokens=0)).thoughts
    if known not in (0, config.thinker.vocabulary + 1):
        raise UserError(f"thinker.vocabulary={config.thinker.vocabulary}: found model.name="
                        f"{config.model.name}, which has {known - 1} thought tokens and their end; "
                        f"legal: {known - 1}")
    return load_vocabulary(thinking_model(config), closes=True)


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
    net = load_text_model(thinking_model(config) if thinks else config.model, len(words), key,
                          written, barred, config.strategy.entropy not in (0, 0.0))
    if key == REFERENCE:
        return net
    if kind == "continuation":
        _must_hold(net, config, "thinker.tokens", tokens, task.question_length)
    elif kind == "next_token":
        room = tokens + task.config.ahead if tokens else 0
        _must_hold(net, config, "task.length", task.config.length, room)
    return net


def _must_hold(net: Backbone, config: Config, key: str, tokens: int, others: int = 0) -> None:
    """Raise `UserError` where `tokens`, which `key` asks for beside others, are more than a model
    reads.
    """
    limit = net.positions
    if limit is not None and tokens + others > limit:
        raise UserError(f"{key}={tokens}: found model.name={config.model.name}, which reads "
                        f"{limit} tokens at most; legal: at most {limit - others}")


def own_network(config: Config, task: Task, path: str | None, key: str = "model.name",
                ) -> Transformer:
    """A GPT-2 that fits the task: new, or that of a checkpoint. Raises `UserError` where it does
    not fit.
    """
    model = config.model
    positions = task.question_length + config.thinker.tokens + 1 + task.answer_length
    if path is not None:
        net = load_model(Path(path), key)
        if task.policy_kind in ("next_token", "continuation"):  # a plain model learns to think
            return resized(net, len(task.vocabulary), positions)
        if net.shape.vocabulary != len(task.vocabulary):
            raise UserError(f"{key}={path}: found {net.shape.vocabulary} tokens; legal: "
                            f"{len(task.vocabulary)}, as task and thinker.vocabulary say")
        if net.shape.positions < positions:
            raise UserError(f"{key}={path}: found {net.shape.positions} positions; legal: at "
                            f"least {positions}, as task and thinker.tokens need")
        return net
    shape = Shape(len(task.vocabulary), positions, model.d_model, model.layers, model.heads,
                  model.positions == "sinusoidal", model.tie_embeddings)
    return Transformer(shape, Init(model.init_std, model.query_key_std, model.embedding_std,
                                   model.position_std, model.head_std))


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
    """(the reference model, whether there is one): model.ref_name, or the thinker as it begins,
    which is None where its adapters can be switched off instead.

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
    return None if net.adapted else copy.deepcopy(net).requires_grad_(False), True


def unthinking_network(config: Config, task: Task,
                       ) -> tuple[Backbone, Vocabulary | TextVocabulary]:
    """The network of `model.ref_name`, which knows no thought tokens, and its vocabulary. Raises
    `UserError` where it cuts text into other tokens than the thinker.
    """
    path = config.model.ref_name or ""
    if config.model.kind == "hf":
        model = replace(config.model, thought_tokens=0)
        words = load_vocabulary(model, REFERENCE)
        if identity(HfPieces(words.tokenizer)) != identity(HfPieces(task.vocabulary.tokenizer)):
            raise _other_tokens(path)
        return load_text_model(model, len(words), REFERENCE, words.plain), words
    pieces = load_pieces(Path(path), REFERENCE)
    if identity(pieces) != identity(task.vocabulary.pieces):
        raise _other_tokens(path)
    vocabulary = PieceVocabulary(pieces, 0)
    positions = task.question_length + config.thinker.tokens + 1
    return resized(load_model(Path(path), REFERENCE), len(vocabulary), positions), vocabulary


def _other_tokens(path: str) -> UserError:
    return UserError(f"{REFERENCE}={path}: found other tokens than those of the thinker; legal: a "
                     "model that cuts text into the same, such as the one it began as")
