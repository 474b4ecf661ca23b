"""Where thoughts begin that gradients flow through: questions, gold tokens, noise. And how vectors
are shown, which are no words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ponder.config.players import SamplerConfig, ThinkerConfig
from ponder.core.math import GREEDY
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.latent import Continuous, Flowing
from ponder.models.policies.question import Policy
from ponder.rollouts.sampler import Sampler

SHOWN = 3  # numbers of a vector that are shown


def unsaid(policy: Flowing, problems: Problems, samples: int = 1,
           generator: torch.Generator | None = None) -> Rollouts:
    """Thoughts of which nothing is given: padding, for what is said when they are scored, and the
    noise that draws it.
    """
    rows, tokens, device = len(problems) * samples, policy.rules.tokens, problems.question.device
    thought = problems.question.new_full((rows, tokens + 1), problems.pad)
    thought[:, -1] = policy.vocabulary.end
    noise = torch.rand(rows, tokens, policy.noise_width, generator=generator).to(device)
    chosen = torch.full((rows, tokens), policy.noise_width > 0, device=device)
    return Rollouts(problems, samples, thought, chosen, torch.zeros(rows, tokens, device=device),
                    learn=chosen, noise=noise)


def vectors(policy: Continuous, problems: Problems) -> tuple[Tensor, Tensor]:
    """(thoughts (P, K, D), how they are shown (P, K + 1)): for each vector the token that the
    thinker would likeliest have written in its place, as its head makes of the state; then
    end-of-thought.
    """
    states, own = policy.unroll(unsaid(policy, problems), GREEDY)
    likeliest = policy.thinker.logits(states, policy.allowed).argmax(-1) + policy.allowed.start
    return own, torch.nn.functional.pad(likeliest, (0, 1), value=policy.vocabulary.end)


def numbers(thought: Tensor) -> list[str]:
    """The first numbers of each vector of a thought (K, D)."""
    return [" ".join(f"{x:.2f}" for x in vector) for vector in thought[:, :SHOWN].tolist()]


class Unsaid(Sampler):
    """Thoughts are said when they are scored, as their gradient is wanted.

    In a curriculum the last tokens of a thought are gold at first, and learnt by likelihood: the
    stage is how many are said, none at first, one more every `stage_steps`, and all in the end.
    """

    def __init__(self, config: SamplerConfig, thinker: ThinkerConfig) -> None:
        super().__init__(config)
        self.thinker = thinker
        self.stage = 0

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        assert isinstance(policy, Flowing)
        samples = self.config.samples if policy.noise_width else 1  # others would be the same
        rollouts = unsaid(policy, problems, samples, generator)
        every, tokens = self.thinker.stage_steps, self.thinker.tokens
        self.stage = min(step // every, tokens) if every else tokens
        if self.stage < tokens:
            gold = problems.thought
            assert gold is not None, "the configuration check lets no such run begin"
            left = slice(self.stage, tokens)
            rollouts.thought[:, left] = gold[:, left].repeat_interleave(samples, 0)
            rollouts.chosen[:, left] = False
            rollouts.learn = rollouts.chosen | (rollouts.thought[:, :-1] != problems.pad)
        return rollouts

    def metrics(self) -> dict[str, float]:
        return {"thought/said": self.stage}

    def state(self) -> dict[str, Any]:
        return {"stage": self.stage}

    def load(self, state: dict[str, Any]) -> None:
        self.stage = state["stage"]
