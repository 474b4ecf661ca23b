"""Strategies that must find the best policy of bench/optimum.py, and a run of one."""

from __future__ import annotations

from collections.abc import Callable

from optimum import BETA, Census
from ponder.strategies.base import Strategy
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.training.trainer import Hooks, Trainer

KL_PENALTY = {"kl": BETA, "kl_place": "reward", "kl_estimator": "k1", "entropy": 0.0}
# Advantages vanish at the optimum: whitened, they would be noise.
UNWHITENED = {**KL_PENALTY, "whiten": "none"}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ppo, shared": lambda: PPO(value="shared", **UNWHITENED),
    "ppo, separate": lambda: PPO(value="separate", **UNWHITENED),
    "grpo": lambda: GRPO(scale="none", **KL_PENALTY),
    "rloo": lambda: GRPO(baseline="leave_one_out", scale="none", ratio="sequence",
                              normalise="sequences", **KL_PENALTY),
    "reinforce": lambda: REINFORCE(kl=BETA),
}


def fit(trainer: Trainer) -> Census:
    trainer.fit(Hooks(lambda *_: None, lambda _: 0.0, lambda _: None))
    return Census.of(trainer)
