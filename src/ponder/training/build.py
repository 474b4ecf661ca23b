"""Source, reward, evaluation and training loop, from a checked configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ponder.config.errors import UserError
from ponder.config.inputs import PROMPTS, inputs, source_hash
from ponder.config.option import parse_schedule
from ponder.config.players import SamplerConfig
from ponder.config.registry import ENGINES, SEARCHES, STRATEGIES
from ponder.config.spine import Config
from ponder.core.distributed import (
    is_distributed,
    is_sharded,
    keep_freed_memory,
    return_freed_memory,
)
from ponder.core.math import matmul_dtype
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.choice import evaluate_text
from ponder.evaluation.continuation import evaluate_corpus
from ponder.evaluation.next_token import evaluate_reading
from ponder.evaluation.question import Evaluation, evaluate, evaluate_latent
from ponder.models.policies.base import Policy
from ponder.rewards.answers import Reward
from ponder.rollouts import Source
from ponder.rollouts.demonstrations import Demonstrations
from ponder.rollouts.engines import Engine
from ponder.rollouts.engines.batching import ContinuousBatching
from ponder.rollouts.engines.handshake import Handshake
from ponder.rollouts.engines.vllm import VllmEngine
from ponder.rollouts.latent import LatentSource
from ponder.rollouts.recorded import Preloaded, read_generated
from ponder.rollouts.sampler import Filler, Gold, PositionSampler, Sampler
from ponder.rollouts.search import choose
from ponder.rollouts.search.balanced import Balanced
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.rollouts.written import Listener, Store, Written, key_of
from ponder.strategies.base import RatioStrategy, Strategy
from ponder.strategies.demonstrated import Demonstrated
from ponder.strategies.exact import Pathwise
from ponder.strategies.star import SFT
from ponder.tasks.base import Task
from ponder.training.build_policies import build_judge, build_policy, build_task
from ponder.training.graph import build_graphs
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer

__all__ = ["build_policy", "build_task"]

ONE = SamplerConfig(samples=1)  # by the model's own distribution, whatever it is trained at
SMALL = 1_000_000  # parameters
Evaluate = Callable[[], Evaluation]


# --- rewards --------------------------------------------------------------------------------------

def build_reward(config: Config, task: Task, device: torch.device) -> Reward:
    """The weighted sum of rewards, with the model that judges where one is named."""
    judge, weights = None, dict(config.reward)
    if {"reference", "plausibility"} & {*weights}:
        judge = build_judge(config, task).to(device).requires_grad_(False)
    if task.policy_kind == "continuation":
        return Reward(weights, judge, config.task)
    if STRATEGIES[config.strategy.name].target.of(config.strategy).needs_correctness:
        weights.setdefault("exact_match", 0.0)
    return Reward(weights, judge)


# --- sources of thoughts --------------------------------------------------------------------------

def build_source(config: Config, task: Task, policy: Policy, device: torch.device,
                 listener: Listener | None = None, engine: Engine | None = None) -> Source:
    """Where thoughts come from: samples, gold ones, or a search. listener: of written texts;
    engine: who writes them, if not our own decoding.
    """
    kind, tokens = task.policy_kind, config.thinker.tokens
    if config.rollout.kind == "search":
        return _search(config, task, device)
    if tokens == 0 and kind == "next_token":
        return Gold()
    if kind in ("choice", "continuation") and policy.thinker.chunked:
        rows = None if kind == "choice" else config.model.rows_at_once
        return _preloaded(config, policy, task, text_writer(
            config, config.rollout, listener, rows, engine=engine), listener or Listener())
    if policy.rules.filler:
        return Filler()
    if policy.draws_vectors:
        return LatentSource(config.rollout, config.thinker)
    wanted = STRATEGIES[config.strategy.name].target.thoughts
    if wanted == "gold" or tokens == 0:
        return Gold()
    if kind == "next_token":
        return PositionSampler(config.rollout, config.task.places, config.task.place_count)
    source, rollout = (EveryThought if wanted == "all" else Sampler)(config.rollout), config.rollout
    if rollout.gold_share and config.action == "train":
        return Demonstrations(source, rollout.samples, rollout.gold_share, rollout.gold_steps,
                              getattr(config.task, "seed", config.seed))
    return source


def _search(config: Config, task: Task, device: torch.device) -> Source:
    method = choose(config, task.labels)
    if method != "balanced":
        source = SEARCHES[method].target(config.rollout)
        source.must_fit(task, config.thinker.tokens)
        return source
    if is_distributed():
        raise UserError("rollout.method=balanced: found several processes; legal: one, or another "
                        "method")
    return Balanced(config.rollout, task, config.thinker.tokens, device)


def text_writer(config: Config, sampler: SamplerConfig, listener: Listener | None,
                rows: int | None = None, greedy: bool = False, engine: Engine | None = None,
                ) -> Written:
    """What writes texts with a model of a wide vocabulary: `trainer.gen_batch_size` questions at a
    time, or `rows` rows.
    """
    if not config.thinker.tokens:  # then all samples are equal
        sampler = replace(sampler, samples=1)
    batch = (config.trainer.gen_batch_size or 32) if rows is None else max(
        rows // sampler.samples, 1)
    store = Store(Path(config.scratch) / "generated")
    asked = Handshake(config.rollout.engine, config.engine.gap, config.engine.rescored)
    return Written(sampler, batch, config.model.rows_at_once, store, _writing(config), greedy,
                   listener, _judging(config), engine, asked)


def build_engine(config: Config) -> Engine:
    """Who writes texts. What it starts begins when it is first needed, and ends with `close`."""
    name = config.rollout.engine
    if name == "transformers" and config.thinker.tokens:
        return ContinuousBatching()
    if name == "vllm" and config.thinker.tokens:
        if is_distributed():
            raise UserError("rollout.engine=vllm: found several processes; legal: one, or another "
                            "engine")
        return VllmEngine(config.engine, config.model, Path(config.scratch))
    return Engine()


def _writing(config: Config) -> dict[str, Any]:
    """What decides how texts are written, beside weights that learn and the tokens of a prompt."""
    keys = {name: value for name, value in asdict(config.model).items()
            if name not in ("name", "ref_name", "chat_name", "rows_at_once", "checkpointing")}
    files = {name: value for name, value in inputs(config).items() if name.startswith("model.")}
    return {"keys": keys, "files": files, "versions": versions(),
            "code": source_hash("core", "tokenizers", "models", "rollouts")}


def _judging(config: Config) -> dict[str, Any]:
    """What decides how texts are judged, beside the questions and what the answerer sees."""
    keys = {name: value for name, value in asdict(config.task).items()
            if not name.endswith(("data", "questions"))}
    return {"keys": keys, "code": source_hash("core", "tokenizers", "tasks", "models"),
            "versions": versions("math_verify", "sympy", "reasoning_gym")}


def inputs_of(config: Config, test: Problems) -> dict[str, str]:
    """The `inputs` of a configuration, and a hash of its encoded held-out questions: they differ
    where a chat template, a library or a data set of the hub does.
    """
    return {**inputs(config), PROMPTS: key_of(question=test.question)[:16]}


def versions(*names: str) -> dict[str, str]:
    """The versions of libraries that change numbers; by default of those that write texts."""
    names = names or ("torch", "transformers", "tokenizers", "peft")
    return {name: version(name) for name in names if importlib.util.find_spec(name)}


def _preloaded(config: Config, policy: Any, task: Any, source: Source,
               listener: Listener) -> Source:
    """The source of thoughts, whose first round is `preload_data_for_training` where that is set.
    """
    path = config.trainer.preload_data_for_training
    if path is None or config.trainer.max_epochs == 0 or task.policy_kind != "choice":
        return source
    first = read_generated(Path(path), "trainer.preload_data_for_training", task, policy,
                           config.rollout.samples, listener.told, slice(0, task.epoch_size))
    by_ratio = issubclass(STRATEGIES[config.strategy.name].target, RatioStrategy)
    return Preloaded(first, source, by_ratio)


def build_val_rollouts(config: Config, policy: Any, task: Any, listener: Listener,
                       ) -> Rollouts | None:
    """The rollouts of `preload_data_for_val`, whose losses are shown beside the accuracy: those of
    held-out questions, if there are any.
    """
    path, key = config.trainer.preload_data_for_val, "trainer.preload_data_for_val"
    if path is None or not config.trainer.do_eval or task.policy_kind != "choice":
        return None
    found = read_generated(Path(path), key, task, policy, config.rollout.samples, listener.told)
    assert found.problems.index is not None and task.epoch_size is not None
    held_out = (found.problems.index >= task.epoch_size).nonzero()[:, 0]
    return found[held_out] if len(held_out) else None


# --- evaluations ----------------------------------------------------------------------------------

def build_evaluation(config: Config, policy: Any, task: Any, test: Problems,
                     listener: Listener | None = None, reward: Reward | None = None,
                     engine: Engine | None = None) -> Evaluate:
    """What evaluates the policy on held-out questions. listener: of texts that are written for it,
    by engine; reward: that of the training, where there is one already.
    """
    # A language model is evaluated in the precision that it learns in.
    dtype = config.trainer.dtype if policy.thinker.chunked else "float32"
    found = EVALUATIONS[task.policy_kind](config, policy, task, test, listener, reward, engine)

    def evaluation() -> Evaluation:
        with matmul_dtype(dtype, test.question.device):
            return found()

    return evaluation


def _question(config: Config, policy: Any, task: Any, test: Problems,
              listener: Listener | None, reward: Reward | None, engine: Engine | None,
              ) -> Evaluate:
    look = evaluate_latent if policy.thinks_in_vectors else evaluate
    probes = {name: found.to(test.question.device) for name, found in task.probes().items()}
    return lambda: look(policy, test, config.seed, probes)


def _next_token(config: Config, policy: Any, task: Any, test: Problems,
                listener: Listener | None, reward: Reward | None, engine: Engine | None,
                ) -> Evaluate:
    return lambda: evaluate_reading(policy, test, task.text.bytes_per_token, config.seed)


def _choice(config: Config, policy: Any, task: Any, test: Problems,
            listener: Listener | None, reward: Reward | None, engine: Engine | None,
            ) -> Evaluate:
    """With one greedy thought a question, or `trainer.val_samples` sampled ones; a batch has as
    many rows as one of training.
    """
    count = config.trainer.val_samples
    sampler = replace(config.rollout, samples=count,
                      temperature=config.rollout.temperature if count > 1 else 1.0)
    rows = (config.trainer.gen_batch_size or 32) * config.rollout.samples
    writer = text_writer(config, sampler, listener, rows, greedy=count == 1, engine=engine)
    return lambda: evaluate_text(policy, task, test, writer, config.seed)


def _continuation(config: Config, policy: Any, task: Any, test: Problems,
                  listener: Listener | None, reward: Reward | None, engine: Engine | None,
                  ) -> Evaluate:
    source: Source = Sampler(ONE)
    if policy.thinker.chunked:
        source = text_writer(config, ONE, listener, config.model.rows_at_once, engine=engine)
    judge = reward or build_reward(config, task, test.question.device)
    return lambda: evaluate_corpus(policy, test, source, judge, config.task.enough, config.seed)


EVALUATIONS: dict[str, Callable[..., Evaluate]] = {
    "question": _question, "choice": _choice, "next_token": _next_token,
    "continuation": _continuation}


# --- the loop -------------------------------------------------------------------------------------

def build_trainer(config: Config, task: Task, policy: Policy, device: torch.device,
                  listener: Listener | None = None, engine: Engine | None = None,
                  note: Callable[[str], None] = lambda line: None) -> Trainer:
    """The loop with everything it needs. engine: who writes texts. note: gets a line where graphs
    are wanted and there are none.
    """
    gold = config.answerer.learns_from == "gold" and config.thinker.tokens > 0
    if config.trainer.compile:
        for block in {block for net in (policy.thinker, policy.answerer) for block in net.blocks}:
            block.compile()  # all blocks share one graph, which the whole network would unroll
    source = build_source(config, task, policy, device, listener, engine)
    strategy = _strategy(config)
    learner = Learner(config.trainer, policy, strategy, parse_schedule(config.strategy.entropy),
                      gold, device, build_graphs(config, task, source, strategy, device, note))
    loop = ENGINES[config.trainer.engine].target()
    return loop(config.trainer, task, source,
                build_reward(config, task, device), learner, config.answerer.refresh_every,
                config.strategy.tokens_per_rollout, torch.Generator().manual_seed(config.seed))


def _strategy(config: Config) -> Strategy:
    """The one that is asked for; without thoughts, or where the answer alone teaches them, there
    is nothing to learn by one.
    """
    strategy = config.strategy
    if config.thinker.tokens == 0:
        return SFT()
    if config.thinker.flows:
        return Pathwise()
    if getattr(strategy, "unsolved", True) is None:
        strategy = replace(strategy, unsolved=config.model.kind != "hf")
    found: Strategy = STRATEGIES[strategy.name].target.of(strategy)
    return Demonstrated(inner=found) if config.rollout.gold_share else found


def use_threads(config: Config, policy: torch.nn.Module) -> None:
    """Set CPU threads: as asked for; else one for a small policy, which gains little from more,
    loses much where another job runs beside it, and whose results then depend on no core count. A
    large one keeps its memory, unless it is sharded.
    """
    small = sum(p.numel() for p in policy.parameters()) < SMALL
    if config.trainer.threads or small:
        torch.set_num_threads(config.trainer.threads or 1)
    if is_sharded(policy):
        return_freed_memory()
    elif not small:
        keep_freed_memory()


def build_device(config: Config) -> torch.device:
    """The device of `trainer.device`. Raises `UserError` for CUDA where there is none, and for
    `trainer.graph=on` elsewhere.
    """
    wanted = config.trainer.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: this machine has no CUDA GPU; legal: cpu, auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if config.trainer.graph == "on" and wanted != "cuda":
        raise UserError(f"trainer.graph=on: found trainer.device={wanted}, which has no CUDA "
                        "graphs; legal: auto, off")
    return torch.device(wanted)
