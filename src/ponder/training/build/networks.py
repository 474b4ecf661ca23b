"""The roof over networks of our own: those that play, the value head, what they are compared with.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from ponder.config.errors import UserError
from ponder.config.spine import Config
from ponder.core.distributed import is_distributed, shard
from ponder.models.gpt2.model import Init, Shape, Transformer, resized
from ponder.models.huggingface.model import Model
from ponder.models.policies.question import Policy, Rules
from ponder.models.value_head import Critic
from ponder.tasks.base import Task
from ponder.tasks.text.passages import Text
from ponder.tokenizers.pieces import PieceVocabulary
from ponder.training.build.reading import unthinking_reader
from ponder.training.build.text import has_leash
from ponder.training.checkpoint import load_model


def place(config: Config, policy: Policy, device: torch.device) -> Policy:
    """The policy on its device; of several processes each has a share, if that is asked for."""
    if config.trainer.data_parallel == "replicate" or not is_distributed():
        return policy.to(device)
    critic = policy.critic
    nets = [policy.thinker, policy.answerer, policy.frozen, policy.reference,
            critic.trunk if critic else None]
    for net in filter(None, dict.fromkeys(nets)):
        shard(net, net.blocks, device, "run" if isinstance(net, Model) else "forward")
    if critic is not None:
        shard(critic.head, [], device)
    return policy


def build_unthinking(config: Config, task: Task) -> Policy:
    """The reference model of reward=reference, which answers without thoughts."""
    if isinstance(task, Text):
        return unthinking_reader(config, task)
    net = load_model(Path(config.model.ref_name or ""), "model.ref_name")
    return Policy(net, None, type(task.vocabulary)(task.vocabulary.ordinary, 0), Rules(0, False))


def critic_of(config: Config, task: Task, thinker: Transformer) -> Critic | None:
    """The value head that the strategy asks for; a network of its own begins as the thinker does.
    """
    kind = getattr(config.strategy, "value", "none")
    if kind == "none" or config.thinker.tokens == 0:
        return None
    trunk = network(config, task, config.model.name) if kind == "separate" else None
    return Critic((trunk or thinker).shape.d_model, config.strategy.value_reads, trunk)


def reference_of(config: Config, task: Task, thinker: Transformer) -> Transformer | None:
    """What the strategy's leash is tied to: model.ref_name, or the thinker as it begins.

    With reward=reference or plausibility that name is of a model without thoughts, and no leash.
    A checkpoint that is only evaluated does not know how it began.
    """
    named = config.model.ref_name is not None and not {"reference", "plausibility"} & {
        *config.reward}
    if not has_leash(config) or config.thinker.tokens == 0 or (
            config.action == "evaluate" and not named):
        return None
    if named:
        return network(config, task, config.model.ref_name, "model.ref_name")
    return copy.deepcopy(thinker)


def network(config: Config, task: Task, path: str | None, key: str = "model.name",
            ) -> Transformer:
    """A network that fits the task: new, or that of a checkpoint, which `key` named.

    Raises `UserError` where it does not fit.
    """
    model = config.model
    positions = task.question_length + config.thinker.tokens + 1 + task.answer_length
    if path is not None:
        net = load_model(Path(path), key)
        if isinstance(task.vocabulary, PieceVocabulary):  # a normal model becomes a thinking one
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
