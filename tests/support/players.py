"""Trainers of every strategy, small and in double precision, for the tests of the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.models.policies.value_head import ValueHead
from ponder.rewards.answers import Reward
from ponder.rollouts.sampler import Sampler
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.strategies.base import Strategy
from ponder.strategies.dpo import DPO
from ponder.strategies.exact import Exact
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.strategies.star import STaR
from ponder.training.graph import Graphs
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer
from support.small import generator, make_policy, make_task

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "reinforce": lambda: REINFORCE(),
    "reinforce, sequences": lambda: REINFORCE(normalise="sequences", discount=0.9),
    "grpo": lambda: GRPO(),
    "grpo, kl": lambda: GRPO(kl=0.1, clip_high=0.3, normalise="constant"),
    "grpo, kl in the reward": lambda: GRPO(kl=0.1, kl_place="reward", kl_estimator="k1",
                                                skip_flat=True),
    "rloo": lambda: GRPO(baseline="leave_one_out", scale="none", ratio="sequence",
                              normalise="sequences"),
    "ppo": lambda: PPO(value="separate"),
    "ppo, shared": lambda: PPO(value="shared", whiten="group"),
    "ppo, mean": lambda: PPO(value="separate", value_reads="mean", kl=0.1),
    "dpo": lambda: DPO(likelihood=0.2, smoothing=0.1),
    "star": lambda: STaR(),
    "exact": lambda: Exact(),
}


class Parity(Reward):
    """A thought is right if its first token is even; tokens are worth what their numbers say."""

    def __init__(self) -> None:
        super().__init__({})

    def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
        first = rollouts.thought[:, 0]
        return replace(
            rollouts, parts={"exact_match": (first % 2 == 0).double()},
            reward=(first % 2 == 0).double() + rollouts.thought.double().sin().sum(1) / 4,
            token_reward=rollouts.thought[:, :-1].double().cos() / 4)


def outfit(policy: Policy, strategy: object) -> Policy:
    """Give a policy the critic and the reference that a strategy asks for."""
    torch.manual_seed(7)
    net = policy.thinker
    kind = getattr(strategy, "value", "none")
    if kind != "none":
        policy.critic = ValueHead(net.shape.d_model, strategy.value_reads,  # type: ignore[attr-defined]
                               copy.deepcopy(net) if kind == "separate" else None).double()
        torch.nn.init.normal_(policy.critic.head.weight)
    policy.reference = copy.deepcopy(net).requires_grad_(False)
    for weight in policy.reference.parameters():
        weight.mul_(0.8)
    return policy


def trainer_of(name: str, gold: bool = False, stops: bool = True, samples: int = 4,
               graphs: Graphs | None = None, **changes) -> Trainer:
    """A loop of one strategy with 2 thought tokens of 3 on sums below 10."""
    torch.manual_seed(0)
    strategy = STRATEGIES[name]()
    task = make_task(thoughts=3 if name == "exact" else 10, max=10, answer="digits", gold="digits")
    policy = make_policy(task, tokens=2, stops=stops, dtype=torch.float64)
    policy = outfit(policy, strategy)
    config = replace(TrainerConfig(max_steps=3, train_batch_size=16, warmup=1), **changes)
    source = (EveryThought if name == "exact" else Sampler)(SamplerConfig(samples=samples))
    learner = Learner(config, policy, strategy, lambda step: 0.1, gold, torch.device("cpu"),
                      graphs or Graphs())
    return Trainer(config, task, source, Parity(), learner, 100, 0, generator())


def gradients(trainer: Trainer, batch: list[Rollouts]) -> dict[str, Tensor]:
    """The gradient of one optimizer step from some micro-batches, taken at a learning rate of 0."""
    trainer.learner.step(batch, 0, 0.0, trainer.source)
    return {name: p.grad.clone() for name, p in trainer.policy.named_parameters()
            if p.grad is not None}


def padded_left(problems: Problems, columns: int) -> Problems:
    """The same questions with more padding before them."""
    question = torch.nn.functional.pad(problems.question, (columns, 0), value=problems.pad)
    return replace(problems, question=question, padded=True)
