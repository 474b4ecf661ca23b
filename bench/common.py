"""What the benches share: the work that is timed, built from the framework's own objects.

Imports nothing beyond torch (no Hydra, no rich), so that it also runs on a bare GPU machine.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import paths  # noqa: F401  (first: it makes ponder importable)
from ponder.config.option import parse_schedule
from ponder.config.players import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.core import distributed
from ponder.core.math import Sampling
from ponder.core.types import Rollouts, Scores
from ponder.models.gpt2.model import Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts.sampler import Sampler
from ponder.strategies.grpo import GRPO
from ponder.tasks.toy.add import Add
from ponder.training.graph import Graphs
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer

POSITIONS = 64


@dataclass(frozen=True)
class Work:
    """P questions x G samples x K thought tokens, one update a step, on a GPT-2 of some size."""

    questions: int = 32
    samples: int = 8
    tokens: int = 4
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    stops: bool = False
    answerer: bool = False

    @property
    def rollouts(self) -> int:
        return self.questions * self.samples


class ThinkerOnly(Learner):
    """Learning without an answerer: the thinker's forward, backward, clipping and step only."""

    def score(self, micro: Rollouts, sampling: Sampling) -> Scores:
        logprobs, entropy, full = self.policy.think(micro, sampling)
        return Scores(logprobs, entropy, full, logprobs.new_zeros(len(micro)))


def build_trainer(work: Work, device: str = "cpu", dtype: str = "float32",
                  seed: int = 0, shard: bool = False, graphs: Graphs | None = None) -> Trainer:
    """GRPO on `add` below 100, paid for thought tokens that are the gold digits, by AdamW at 1e-3.

    One network of GPT-2's default initial scales, as the peer has. The vocabulary has 24 tokens:
    padding, ten digits, + and =, end-of-thought, ten thoughts. shard: each of several processes has
    a share of it. graphs: replay rounds and steps.
    """
    torch.manual_seed(seed)
    task = Add(max=100, answer="digits", seed=seed, thought_length=2, thoughts=10)
    shape = Shape(len(task.vocabulary), POSITIONS, work.d_model, work.layers, work.heads)
    policy = QuestionPolicy(Transformer(shape), None, task.vocabulary,
                            Rules(work.tokens, work.stops))
    if shard:
        distributed.shard(policy.thinker, policy.thinker.blocks, distributed.device_mesh(device))
    config = TrainerConfig(train_batch_size=work.questions, lr=1e-3, warmup=0, lr_decay="constant",
                           device=device, dtype=dtype)
    kind = Learner if work.answerer else ThinkerOnly
    learner = kind(config, policy.to(device), GRPO(entropy=0.0), parse_schedule(0.0),
                   learns_from_gold=False, device=torch.device(device), graphs=graphs or Graphs())
    return Trainer(config, task, Sampler(SamplerConfig(samples=work.samples)),
                   Reward({"gold_tokens": 1.0}), learner, refresh_every=100, tokens_per_rollout=0,
                   generator=torch.Generator().manual_seed(seed))


def seconds(function: Callable[[], object], calls: int) -> float:
    """Mean seconds of a call, by the host clock; for work that is done when the call returns."""
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def median(values: list[float]) -> float | None:
    """The median, or None of nothing."""
    return statistics.median(values) if values else None


def table(rows: list[list[str]]) -> str:
    """Rows, the first of them the heading, as aligned plain text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(rows: list[list[str]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def last_json(output: str) -> dict:
    """The JSON object on the last line of a program's output. Raises `ValueError` without one."""
    lines = output.strip().splitlines()
    found = json.loads(lines[-1]) if lines else None
    if not isinstance(found, dict):
        raise ValueError("the last line is no JSON object")
    return found
