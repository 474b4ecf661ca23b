"""Where a round's thoughts come from: the interface of a source, and rollouts of given thoughts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from ponder.config.option import parse_schedule
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores

if TYPE_CHECKING:
    from ponder.config.players import SamplerConfig
    from ponder.models.policies.base import Policy
    from ponder.tasks.base import Task


class Source:
    """Where a round's thoughts come from: `collect` makes them, `observe` is told their scores.

    The thinker learns from them as the strategy says.
    """

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        raise NotImplementedError

    def must_fit(self, task: Task, tokens: int) -> None:
        """Raise `UserError` where it makes no thoughts of at most so many tokens for the task."""

    def withdraw(self) -> None:
        """Undo the last `collect`: the round was interrupted before anything was learnt from it,
        and is collected again.
        """

    def observe(self, policy: Policy, rollouts: Rollouts, scores: Scores) -> None:
        """Called after each micro-batch with its scores."""

    def sampling(self, step: int) -> Sampling:
        """The distribution that thoughts are scored under at this step."""
        return Sampling()

    def settled(self) -> bool:
        """Whether a search has found its result, so that the learning rate may decay."""
        return False

    def metrics(self) -> dict[str, float]:
        """Numbers of its own for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it must remember across an interruption: tensors and plain values."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""


class PreparedSource(Source):
    """A source in two parts: `prepare` decides on the host, `make` only computes on the device, so
    that it can be replayed (`ponder.training.graph`).
    """

    def prepare(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Tensor | None:
        """What `make` needs that is decided beforehand: the uniform numbers of its draws."""

    def make(self, policy: Policy, problems: Problems, step: int, drawn: Tensor | None) -> Rollouts:
        raise NotImplementedError

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        return self.make(policy, problems, step, self.prepare(policy, problems, step, generator))

    def constants(self, policy: Policy, step: int) -> Hashable | None:
        """The Python values that `make` and `observe` depend on at a step; None where they look at
        values on the device.
        """
        return None

    def tensors(self) -> list[Tensor]:
        """What `observe` changes."""
        return []


class SampledSource(PreparedSource):
    """A source whose thoughts are scored under the distribution that its keys describe."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self.temperature = parse_schedule(config.temperature)
        self.epsilon = parse_schedule(config.epsilon)

    def sampling(self, step: int) -> Sampling:
        return Sampling(self.temperature(step), self.config.top_k, self.config.top_p,
                        self.epsilon(step))


def sampled(problems: Problems, samples: int, thought: Tensor, logprobs: Tensor,
            answered: Tensor | None = None) -> Rollouts:
    """Rollouts of thoughts (B, K + 1) that the policy chose, with log-probabilities (B, K)."""
    chosen = thought[:, :-1] != problems.pad
    return Rollouts(problems, samples, thought, chosen, logprobs, learn=chosen, answered=answered)


def given(problems: Problems, thought: Tensor, samples: int = 1,
          learn: Tensor | None = None) -> Rollouts:
    """Rollouts of thoughts (B, K + 1) that the policy did not choose: gold ones, or found ones."""
    real = thought[:, :-1] != problems.pad
    zeros = torch.zeros(real.shape, device=thought.device)
    return Rollouts(problems, samples, thought, torch.zeros_like(real), zeros,
                    learn=real if learn is None else learn)
