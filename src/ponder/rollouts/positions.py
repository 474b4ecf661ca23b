"""Sampling thoughts at positions of a passage, at all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import Segment
from ponder.models.policies.base import Policy
from ponder.models.policies.next_token import PositionPolicy
from ponder.rollouts.sampler import Sampler, choose, in_shares, uniform

AT_ONCE = 256  # rows that fit the caches of a CPU


class PositionSampler(Sampler):
    """Samples thoughts at `count` positions of each passage: at all there are, at random ones, or
    at those whose next tokens are hardest to predict, for the reference where there is one.
    """

    def __init__(self, config: SamplerConfig, where: str, count: int) -> None:
        super().__init__(config)
        self.where, self.count = where, count

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        policy = cast(PositionPolicy, policy)
        found = self.places(policy, problems, generator)
        return think_behind(policy, replace(problems, positions=found), self.config.samples,
                            self.sampling(step), generator)

    @torch.no_grad()
    def places(self, policy: PositionPolicy, problems: Problems,
               generator: torch.Generator | None) -> Tensor:
        """(P, N): positions in ascending order."""
        every = every_place(policy, problems)
        count = every.shape[1]
        if self.where == "all" or self.count >= count:
            return every
        if self.where == "random":
            worth = torch.rand(every.shape, generator=generator).to(every.device)
        else:
            nll = (policy.norm or policy).next_token_nll(problems)
            worth = nll.unfold(1, policy.ahead, 1).sum(-1)
        return worth.topk(self.count, 1).indices.sort(1).values


def every_place(policy: PositionPolicy, problems: Problems) -> Tensor:
    """(P, T - m + 1): all positions of passages (P, T) that have m next tokens."""
    count = problems.answer.shape[1] - policy.ahead + 1
    return torch.arange(count, device=problems.answer.device).expand(len(problems), -1)


@torch.no_grad()
def think_behind(policy: PositionPolicy, problems: Problems, samples: int, sampling: Sampling,
                 generator: torch.Generator | None = None) -> Rollouts:
    """`samples` thoughts at each of `problems.positions`. The work is split across ranks, and every
    rank gets all rollouts.
    """
    assert problems.positions is not None
    branches, count = problems.positions.shape[1] * samples, policy.rules.tokens
    thought = torch.full((len(problems) * branches, count + 1), problems.pad,
                         device=problems.question.device)
    logprobs = torch.zeros(len(thought), count, device=thought.device)
    numbers = uniform(thought[:, :-1], sampling, generator)
    thought, logprobs = in_shares(len(problems), thought, logprobs, lambda some, own: _write(
        policy, problems[some], samples, sampling, numbers[own], thought[own], logprobs[own]))
    chosen = thought[:, :-1] != problems.pad
    return Rollouts(problems, branches, thought, chosen, logprobs, learn=chosen)


def _write(policy: PositionPolicy, problems: Problems, samples: int, sampling: Sampling,
           numbers: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Fill thought (B, K + 1) and logprobs (B, K), a block of rows at a time."""
    assert problems.positions is not None
    hidden, past = policy.read(problems)
    at = problems.positions.repeat_interleave(samples, 1)  # (P, M)
    rows = torch.arange(len(thought), device=at.device).view_as(at)
    for some, part in _blocks(len(at), at.shape[1], thought.device):
        ends = int(at[some, part].max()) + 1 if thought.device.type == "cpu" else hidden.shape[1]
        block = rows[some, part].flatten()
        written, spoken = _write_block(policy, hidden[some], past.first(some, ends),
                                       at[some, part], sampling, numbers[block])
        thought[block], logprobs[block] = written, spoken


def _blocks(passages: int, branches: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Passages and rows that are decoded together: on a CPU as many as its caches hold."""
    most = AT_ONCE if device.type == "cpu" else passages * branches
    rows, columns = max(1, most // branches), min(branches, most)
    for start in range(0, passages, rows):
        for first in range(0, branches, columns):
            yield slice(start, start + rows), slice(first, first + columns)


def _write_block(policy: PositionPolicy, hidden: Tensor, past: Segment, at: Tensor,
                 sampling: Sampling, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Thoughts (B, K + 1) at positions (P, M) and their log-probabilities (B, K). Finished rows are
    still decoded; their tokens are ignored.
    """
    count, own = policy.rules.tokens, None
    thought = torch.full((at.numel(), count + 1), policy.vocabulary.pad, device=at.device)
    logprobs = torch.zeros(at.numel(), count, device=at.device)
    state = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))  # (P, M, D)
    going = torch.ones(len(thought), dtype=torch.bool, device=thought.device)
    end, last = policy.vocabulary.end, count - 1
    for step in range(count):
        token, logprob = choose(policy, state.flatten(0, 1), sampling, numbers[:, step])
        thought[:, step] = token.where(going, policy.vocabulary.pad)
        logprobs[:, step] = logprob * going
        going = going & ~policy.is_end(token)
        if step == last or (policy.rules.stops and not going.any()):
            break
        state, own = policy.thinker.branch(token.view(*at.shape, 1), past, at, own)
        state = state[:, :, 0]
    thought[:, -1].masked_fill_(going, end)
    return thought, logprobs
