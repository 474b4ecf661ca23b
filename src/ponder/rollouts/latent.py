"""Thoughts that are made when they are scored, as their gradient is wanted: vectors, or tokens by
Gumbel-softmax.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.config.players import SamplerConfig, ThinkerConfig
from ponder.core.math import GREEDY
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.models.policies.question import ContinuousPolicy, DifferentiablePolicy
from ponder.rollouts import SampledSource

SHOWN = 3  # numbers of a vector that are shown


def latent_rollouts(policy: DifferentiablePolicy, problems: Problems, samples: int = 1,
                    generator: torch.Generator | None = None) -> Rollouts:
    """Rollouts of thoughts that are made when they are scored: padding until then, and the uniform
    numbers that decide them.
    """
    rows, tokens, device = len(problems) * samples, policy.rules.tokens, problems.question.device
    thought = problems.question.new_full((rows, tokens + 1), problems.pad)
    thought[:, -1] = policy.vocabulary.end
    noise = torch.rand(rows, tokens, policy.noise_width, generator=generator).to(device)
    chosen = torch.full((rows, tokens), policy.noise_width > 0, device=device)
    return Rollouts(problems, samples, thought, chosen, torch.zeros(rows, tokens, device=device),
                    learn=chosen, noise=noise)


def vectors(policy: ContinuousPolicy, problems: Problems) -> tuple[Tensor, Tensor]:
    """(thoughts (P, K, D), tokens that stand for them when they are shown (P, K + 1)): for each
    vector the token that the thinker would most likely have written in its place, then
    end-of-thought.
    """
    states, own = policy.unroll(latent_rollouts(policy, problems), GREEDY)
    likeliest = policy.thinker.logits(states, policy.allowed).argmax(-1) + policy.allowed.start
    return own, F.pad(likeliest, (0, 1), value=policy.vocabulary.end)


def numbers(thought: Tensor) -> list[str]:
    """The first numbers of each vector of a thought (K, D)."""
    return [" ".join(f"{x:.2f}" for x in vector) for vector in thought[:, :SHOWN].tolist()]


class LatentSource(SampledSource):
    """Thoughts that are made when they are scored, as their gradient is wanted.

    In a curriculum (`thinker.stage_steps`) the thinker makes only the first `stage` tokens of a
    thought itself: none at first, one more every `stage_steps` steps, all in the end. The others
    are gold and learnt by likelihood.
    """

    def __init__(self, config: SamplerConfig, thinker: ThinkerConfig) -> None:
        super().__init__(config)
        self.thinker = thinker
        self.stage = 0

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        policy = cast(DifferentiablePolicy, policy)
        samples = self.config.samples if policy.noise_width else 1  # others would be the same
        rollouts = latent_rollouts(policy, problems, samples, generator)
        every, tokens = self.thinker.stage_steps, self.thinker.tokens
        self.stage = min(step // every, tokens) if every else tokens
        if self.stage == tokens:
            return rollouts
        gold = problems.thought
        assert gold is not None, "the configuration check lets no such run begin"
        left = slice(self.stage, tokens)
        thought, chosen = rollouts.thought.clone(), rollouts.chosen.clone()
        thought[:, left] = gold[:, left].repeat_interleave(samples, 0)
        chosen[:, left] = False
        return replace(rollouts, thought=thought, chosen=chosen,
                       learn=chosen | (thought[:, :-1] != problems.pad))

    def metrics(self) -> dict[str, float]:
        return {"thought/said": self.stage}

    def state(self) -> dict[str, Any]:
        return {"stage": self.stage}

    def load(self, state: dict[str, Any]) -> None:
        self.stage = state["stage"]
