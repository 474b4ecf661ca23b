"""The roof: the only module that turns configuration nodes into objects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ponder.build_corpus import build_corpus, corpus_evaluation, corpus_reward
from ponder.build_text import (
    build_rules,
    build_text_evaluation,
    build_text_policy,
    build_text_task,
    build_writer,
    has_leash,
    preloaded,
    val_rollouts,
)
from ponder.checkpoint import load_model
from ponder.config import Config
from ponder.config.strategies import Sft
from ponder.errors import UserError
from ponder.evaluate import Evaluation, evaluate
from ponder.evaluate_reading import evaluate_reading
from ponder.learner import Learner
from ponder.models.author import Author
from ponder.models.critic import Critic
from ponder.models.policy import Policy, Rules
from ponder.models.reader import Reader
from ponder.models.text import TextPolicy
from ponder.models.transformer import Init, Shape, Transformer
from ponder.models.widen import widened
from ponder.processes import give_memory_back, keep_memory, several
from ponder.rewards import Reward
from ponder.rollout import Gold, Sampler, Source
from ponder.schedule import parse_schedule
from ponder.search import SEARCHES, Balanced, EveryThought, choose
from ponder.sharding import is_sharded, shard
from ponder.strategies import SFT, STRATEGIES
from ponder.tasks import TASKS, Task
from ponder.tasks.corpus import Corpus
from ponder.tasks.qa import Qa
from ponder.tasks.text import Text
from ponder.tokens.pieces import PieceVocabulary
from ponder.trainer import Trainer
from ponder.types import Problems, Rollouts

SMALL = 1_000_000  # parameters


def build_task(config: Config) -> Task:
    """The task, with as many thought tokens in its vocabulary as the thinker has."""
    if config.model.kind == "hf":
        return build_text_task(config)
    thoughts = config.thinker.vocabulary if config.thinker.tokens else 0
    if config.task.name == "text":
        return Text(config.task, thoughts, config.model.name)
    if config.task.name == "corpus":
        return build_corpus(config)
    return TASKS[config.task.name](config.task, thoughts)


def build_policy(config: Config, task: Task) -> Policy:
    """Thinker and answerer: new ones, or those of the checkpoint `model.name`."""
    if isinstance(task, Qa):
        return build_text_policy(config, task)
    thinker = _network(config, task, config.model.name)
    if isinstance(task, Text):
        return Reader(thinker, None, task.vocabulary, build_rules(config))
    if isinstance(task, Corpus):
        return Author(thinker, None, task.vocabulary, build_rules(config), False,
                      _critic(config, task, thinker), _reference(config, task, thinker))
    answerer = None
    if config.answerer.model == "separate" and config.thinker.tokens:
        path = None if config.model.name is None else str(Path(config.model.name) / "answerer")
        if path is not None and not Path(path).is_dir():
            raise UserError(f"model.name={config.model.name}: has no answerer/ of its own; legal: "
                            "answerer.model=shared, or a checkpoint with one")
        answerer = _network(config, task, path)
    return Policy(thinker, answerer, task.vocabulary, build_rules(config),
                  config.answerer.model == "frozen", _critic(config, task, thinker),
                  _reference(config, task, thinker))


def place(config: Config, policy: Policy, device: torch.device) -> Policy:
    """The policy on its device; of several processes each has a share, if that is asked for."""
    if config.trainer.data_parallel == "replicate" or not several():
        return policy.to(device)
    critic = policy.critic
    nets = [policy.thinker, policy.answerer, policy.frozen, policy.reference,
            critic.trunk if critic else None]
    for net in filter(None, dict.fromkeys(nets)):
        shard(net, net.blocks, device, "run" if isinstance(policy, TextPolicy) else "forward")
    if critic is not None:
        shard(critic.head, [], device)
    return policy


def _critic(config: Config, task: Task, thinker: Transformer) -> Critic | None:
    """The value head that the strategy asks for; a network of its own begins as the thinker does.
    """
    kind = getattr(config.strategy, "value", "none")
    if kind == "none" or config.thinker.tokens == 0:
        return None
    trunk = _network(config, task, config.model.name) if kind == "separate" else None
    return Critic((trunk or thinker).shape.d_model, config.strategy.value_reads, trunk)


def _reference(config: Config, task: Task, thinker: Transformer) -> Transformer | None:
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
        return _network(config, task, config.model.ref_name, "model.ref_name")
    return copy.deepcopy(thinker)


def _network(config: Config, task: Task, path: str | None, key: str = "model.name",
             ) -> Transformer:
    model = config.model
    positions = task.question_length + config.thinker.tokens + 1 + task.answer_length
    if path is not None:
        net = load_model(Path(path), key)
        if isinstance(task.vocabulary, PieceVocabulary):  # a normal model becomes a thinking one
            return widened(net, len(task.vocabulary), positions)
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


def build_reward(config: Config, task: Task, device: torch.device) -> Reward:
    """The weighted sum of rewards, with its reference model where one is named."""
    reference = None
    if "reference" in config.reward:
        net = load_model(Path(config.model.ref_name or "")).to(device).requires_grad_(False)
        vocabulary = type(task.vocabulary)(task.vocabulary.ordinary, 0)
        reference = Policy(net, None, vocabulary, Rules(0, False))
    if isinstance(task, Corpus):
        return corpus_reward(config, task, device)
    weights = dict(config.reward)
    if getattr(config.strategy, "keep", "") == "correct" or config.strategy.name == "dpo":
        weights.setdefault("exact_match", 0.0)
    return Reward(weights, reference)


def build_source(config: Config, task: Task, device: torch.device) -> Source:
    """Where thoughts come from: samples, gold ones, or a search."""
    if config.rollout.kind == "search":
        method = choose(config, task.labels)
        if method == "balanced":
            if several():
                raise UserError("rollout.method=balanced: found several processes; legal: one, or "
                                "another method")
            return Balanced(config.rollout, task, config.thinker.tokens, device)
        return SEARCHES[method](config.rollout)
    if config.model.kind == "hf":
        return build_writer(config)
    if config.strategy.name == "sft" or config.thinker.tokens == 0:
        return Gold()
    if config.strategy.name == "exact":
        return EveryThought(config.rollout)
    return Sampler(config.rollout)


def build_evaluation(config: Config, policy: Policy, task: Task, test: Problems,
                     follow: Callable[[Source], None] = lambda source: None,
                     ) -> Callable[[], Evaluation]:
    """What looks at the held-out questions; follow hears of the source that writes thoughts."""
    if isinstance(policy, TextPolicy) and isinstance(task, Qa):
        return build_text_evaluation(config, policy, task, test, follow)
    if isinstance(policy, Author) and isinstance(task, Corpus):
        return corpus_evaluation(config, policy, task, test)
    if isinstance(policy, Reader) and isinstance(task, Text):
        return lambda: evaluate_reading(policy, test, task.text.bytes_per_token)
    return lambda: evaluate(policy, test, config.seed)


def build_val_rollouts(config: Config, policy: Policy, task: Task) -> Rollouts | None:
    """Rollouts whose losses are looked at beside the accuracy."""
    if isinstance(policy, TextPolicy) and isinstance(task, Qa):
        return val_rollouts(config, policy, task)
    return None


def build_trainer(config: Config, task: Task, policy: Policy, device: torch.device) -> Trainer:
    """The loop with everything it needs."""
    gold = config.answerer.learns_from == "gold" and config.thinker.tokens > 0
    if config.trainer.compile:
        for net in {policy.thinker, policy.answerer}:
            net.compile()
    source = build_source(config, task, device)
    if isinstance(policy, TextPolicy) and isinstance(task, Qa):
        source = preloaded(config, policy, task, source)
    strategy = config.strategy
    if getattr(strategy, "unsolved", True) is None:
        strategy = replace(strategy, unsolved=config.model.kind != "hf")
    thinks = config.thinker.tokens > 0  # who does not think has nothing to learn it by
    learner = Learner(config.trainer, policy,
                      STRATEGIES[strategy.name](strategy) if thinks else SFT(Sft()),
                      parse_schedule(strategy.entropy), gold, device)
    loop = Trainer
    if config.trainer.engine == "trl":
        from ponder.trl_engine import TrlTrainer as loop
    return loop(config.trainer, task, source,
                build_reward(config, task, device), learner, config.answerer.refresh_every,
                   strategy.tokens_per_rollout, torch.Generator().manual_seed(config.seed))


def use_threads(config: Config, policy: Policy) -> None:
    """CPU threads: as asked for; else one for a small policy, which gains little from more and
    loses much where another job runs beside it, and whose results then depend on no core count.
    A large one keeps its memory, unless it is in shares.
    """
    small = sum(p.numel() for p in policy.parameters()) < SMALL
    if config.trainer.threads or small:
        torch.set_num_threads(config.trainer.threads or 1)
    if is_sharded(policy):
        give_memory_back()
    elif not small:
        keep_memory()


def build_device(config: Config) -> torch.device:
    """The device of `trainer.device`. Raises `UserError` for CUDA where there is none."""
    wanted = config.trainer.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: this machine has no CUDA GPU; legal: cpu, auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
