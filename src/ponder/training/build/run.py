"""The roof: the only module that turns configuration nodes into objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ponder.config.errors import UserError
from ponder.config.option import parse_schedule
from ponder.config.registry import SEARCHES, STRATEGIES, TASKS
from ponder.config.spine import Config
from ponder.core.distributed import (
    is_distributed,
    is_sharded,
    keep_freed_memory,
    return_freed_memory,
)
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.latent import evaluate_latent
from ponder.evaluation.question import Evaluation, evaluate
from ponder.models.huggingface.model import Model
from ponder.models.policies.choice import TextPolicy
from ponder.models.policies.continuation import Author
from ponder.models.policies.latent import Continuous, Gumbel
from ponder.models.policies.next_token import Reader
from ponder.models.policies.question import Policy
from ponder.models.policies.text_continuation import TextAuthor
from ponder.models.policies.text_next_token import TextReader
from ponder.rewards.answers import Reward
from ponder.rollouts.latent import Unsaid
from ponder.rollouts.positions import PlaceSampler
from ponder.rollouts.sampler import Gold, Sampler, Source
from ponder.rollouts.search.balanced import Balanced
from ponder.rollouts.search.base import choose
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.strategies.base import Strategy
from ponder.strategies.exact import Pathwise
from ponder.strategies.star import SFT
from ponder.tasks.base import Task
from ponder.tasks.choice.qa import Qa
from ponder.tasks.text.corpus import Corpus, ModelCorpus
from ponder.tasks.text.passages import ModelText, Text
from ponder.training.build.corpus import build_corpus, corpus_evaluation, corpus_reward
from ponder.training.build.foreign import build_text_author, corpus_writer
from ponder.training.build.networks import build_unthinking, critic_of, network, reference_of
from ponder.training.build.reading import (
    build_reader,
    build_running_text,
    build_text_reader,
    reading_evaluation,
)
from ponder.training.build.text import (
    build_rules,
    build_text_evaluation,
    build_text_policy,
    build_text_task,
    build_writer,
    preloaded,
    val_rollouts,
)
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer

SMALL = 1_000_000  # parameters
POLICIES = {"tokens": Policy, "continuous": Continuous, "gumbel": Gumbel}


def build_task(config: Config) -> Task:
    """The task, with as many thought tokens in its vocabulary as the thinker has."""
    if config.task.name == "text":
        return build_running_text(config)
    if config.task.name == "corpus":
        return build_corpus(config)
    if config.model.kind == "hf":
        return build_text_task(config)
    thoughts = config.thinker.vocabulary if config.thinker.tokens else 0
    return TASKS[config.task.name].target(config.task, thoughts)


def build_policy(config: Config, task: Task) -> Policy:
    """Thinker and answerer: new ones, or those of the checkpoint `model.name`."""
    if isinstance(task, Qa):
        return build_text_policy(config, task)
    if isinstance(task, ModelText):
        return build_text_reader(config, task)
    if isinstance(task, ModelCorpus):
        return build_text_author(config, task)
    thinker = network(config, task, config.model.name)
    if isinstance(task, Text):
        return build_reader(config, task, thinker)
    if isinstance(task, Corpus):
        return Author(thinker, None, task.vocabulary, build_rules(config), False,
                      critic_of(config, task, thinker), reference_of(config, task, thinker))
    answerer = None
    if config.answerer.model == "separate" and config.thinker.tokens:
        path = None if config.model.name is None else str(Path(config.model.name) / "answerer")
        if path is not None and not Path(path).is_dir():
            raise UserError(f"model.name={config.model.name}: has no answerer/ of its own; legal: "
                            "answerer.model=shared, or a checkpoint with one")
        answerer = network(config, task, path)
    kind = POLICIES[config.thinker.kind]
    return kind(thinker, answerer, task.vocabulary, build_rules(config),
                config.answerer.model == "frozen", critic_of(config, task, thinker),
                reference_of(config, task, thinker))


def build_reward(config: Config, task: Task, device: torch.device) -> Reward:
    """The weighted sum of rewards, with its reference model where one is named."""
    reference = None
    if "reference" in config.reward:
        reference = build_unthinking(config, task).to(device).requires_grad_(False)
    if isinstance(task, Corpus):
        return corpus_reward(config, task, device)
    weights = dict(config.reward)
    if STRATEGIES[config.strategy.name].target.of(config.strategy).needs_correctness:
        weights.setdefault("exact_match", 0.0)
    return Reward(weights, reference)


def build_source(config: Config, task: Task, device: torch.device) -> Source:
    """Where thoughts come from: samples, gold ones, or a search."""
    if config.rollout.kind == "search":
        method = choose(config, task.labels)
        if method == "balanced":
            if is_distributed():
                raise UserError("rollout.method=balanced: found several processes; legal: one, or "
                                "another method")
            return Balanced(config.rollout, task, config.thinker.tokens, device)
        return SEARCHES[method].target(config.rollout)
    if config.thinker.tokens == 0 and isinstance(task, Text):
        return Gold()
    if isinstance(task, ModelCorpus):
        return corpus_writer(config, config.rollout)
    if config.model.kind == "hf" and not isinstance(task, Text):
        return build_writer(config)
    if config.thinker.flows:
        return Unsaid(config.rollout, config.thinker)
    if config.strategy.name == "sft" or config.thinker.tokens == 0:
        return Gold()
    if isinstance(task, Text):
        return PlaceSampler(config.rollout, task.config.places, task.config.place_count)
    if config.strategy.name == "exact":
        return EveryThought(config.rollout)
    return Sampler(config.rollout)


def build_evaluation(config: Config, policy: Policy, task: Task, test: Problems,
                     follow: Callable[[Source], None] = lambda source: None,
                     ) -> Callable[[], Evaluation]:
    """What looks at the held-out questions; follow hears of the source that writes thoughts."""
    if isinstance(policy, TextPolicy) and isinstance(task, Qa):
        return build_text_evaluation(config, policy, task, test, follow)
    if isinstance(policy, Author | TextAuthor) and isinstance(task, Corpus):
        return corpus_evaluation(config, policy, task, test, follow)
    if isinstance(policy, Reader | TextReader) and isinstance(task, Text):
        return reading_evaluation(config, policy, task, test)
    if isinstance(policy, Continuous):
        return lambda: evaluate_latent(policy, test, config.seed)
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
            (net.base if isinstance(net, Model) else net).compile()
    source = build_source(config, task, device)
    if isinstance(policy, TextPolicy) and isinstance(task, Qa):
        source = preloaded(config, policy, task, source)
    learner = Learner(config.trainer, policy, _strategy(config),
                      parse_schedule(config.strategy.entropy), gold, device)
    loop = Trainer
    if config.trainer.engine == "trl":
        from ponder.training.trl import TrlTrainer as loop
    return loop(config.trainer, task, source,
                build_reward(config, task, device), learner, config.answerer.refresh_every,
                config.strategy.tokens_per_rollout, torch.Generator().manual_seed(config.seed))


def _strategy(config: Config) -> Strategy:
    """The one that is asked for; who does not think, or thinks in what has no log-probability, has
    nothing to learn it by.
    """
    strategy = config.strategy
    if config.thinker.tokens == 0:
        return SFT()
    if config.thinker.flows:
        return Pathwise()
    if getattr(strategy, "unsolved", True) is None:
        strategy = replace(strategy, unsolved=config.model.kind != "hf")
    return STRATEGIES[strategy.name].target.of(strategy)


def use_threads(config: Config, policy: torch.nn.Module) -> None:
    """CPU threads: as asked for; else one for a small policy, which gains little from more and
    loses much where another job runs beside it, and whose results then depend on no core count.
    A large one keeps its memory, unless it is in shares.
    """
    small = sum(p.numel() for p in policy.parameters()) < SMALL
    if config.trainer.threads or small:
        torch.set_num_threads(config.trainer.threads or 1)
    if is_sharded(policy):
        return_freed_memory()
    elif not small:
        keep_freed_memory()


def build_device(config: Config) -> torch.device:
    """The device of `trainer.device`. Raises `UserError` for CUDA where there is none."""
    wanted = config.trainer.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: this machine has no CUDA GPU; legal: cpu, auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
