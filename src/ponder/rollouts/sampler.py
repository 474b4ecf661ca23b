"""Sampling thoughts from the thinker: after a question or at positions of a passage. A question is
computed once, and no prefix twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ponder.config.players import SamplerConfig
from ponder.core.distributed import is_distributed, local_range, merge_parts
from ponder.core.math import GREEDY, Sampling, columns, draw_tokens, precise
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import Decoder, Segment
from ponder.models.gpt2.layers import SIDE_BY_SIDE, side_by_side
from ponder.models.policies.base import Policy
from ponder.models.policies.next_token import PositionPolicy
from ponder.rollouts import PreparedSource, SampledSource, given, sampled

AT_ONCE = 256  # rows of thoughts at positions that fit the caches of a CPU
# What decides draws: a generator, or the uniform numbers (B, K) themselves.
Randomness = torch.Generator | Tensor | None
# Writes tokens into thought (B, K + 1) and their log-probabilities into logprobs (B, K), both full
# of padding: (policy, problems, samples, sampling, noise (B, K), thought, logprobs).
Fill = Callable[[Policy, Problems, int, Sampling, Tensor, Tensor, Tensor], None]


@torch.no_grad()
def sample(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
           generator: Randomness = None) -> Rollouts:
    """`samples` thoughts for each problem, drawn from the thinker (or its greedy choice)."""
    rules = policy.rules
    if rules.pace and rules.tokens:
        return _sample_paced(policy, problems, samples, sampling, generator)
    if not rules.tokens:
        fill = _sample_nothing
    elif rules.filler:
        fill = _write_fillers
    elif not rules.stops:
        fill = _sample_fixed
    else:
        short = samples * rules.tokens <= SIDE_BY_SIDE // 4  # leaving would save nothing
        fill = _sample_together if short else _sample_leaving
    return _filled(fill, policy, problems, samples, sampling, generator)


def _filled(fill: Fill, policy: Policy, problems: Problems, samples: int, sampling: Sampling,
            generator: Randomness) -> Rollouts:
    """Rollouts of thoughts that `fill` writes. The work is split across ranks, and every rank gets
    all rollouts.
    """
    rows, tokens, part = len(problems) * samples, policy.rules.tokens, local_range(len(problems))
    thought = torch.full((rows, tokens + 1), problems.pad, device=problems.question.device)
    logprobs = torch.zeros(rows, tokens, device=thought.device,
                           dtype=precise(policy.thinker.dtype))
    noise = generator if isinstance(generator, Tensor) else _noise(
        rows, tokens, thought.device, sampling, generator)
    own = slice(part.start * samples, part.stop * samples)
    if part:
        fill(policy, problems[slice(part.start, part.stop)], samples, sampling, noise[own],
             thought[own], logprobs[own])
    if is_distributed():
        thought[:own.start] = thought[own.stop:] = 0
        thought, logprobs = merge_parts(thought), merge_parts(logprobs)
    return sampled(problems, samples, thought, logprobs)


def _sample_paced(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                  generator: Randomness) -> Rollouts:
    """So many tokens for each move of a question, and an end that nobody chooses."""
    assert problems.moves is not None, "the configuration check lets no such run begin"
    rules = policy.rules
    lengths = problems.moves.repeat_interleave(samples)[:, None] * rules.pace
    with policy.ruled(tokens=int(lengths.max()), pace=0):
        found = sample(policy, problems, samples, sampling, generator)
    room = rules.tokens + 1 - found.thought.shape[1]
    thought = F.pad(found.thought, (0, room), value=problems.pad)
    column = torch.arange(rules.tokens + 1, device=thought.device)
    thought = thought.where(column < lengths, problems.pad).masked_fill(column == lengths,
                                                                        policy.end)
    chosen = column[:-1] < lengths
    return replace(found, thought=thought, chosen=chosen, learn=chosen,
                   logprobs=F.pad(found.logprobs, (0, room)) * chosen)


def greedy(policy: Policy, problems: Problems) -> Rollouts:
    """The thinker's greedy thought for each problem."""
    return sample(policy, problems, 1, GREEDY)


def _noise(rows: int, tokens: int, device: torch.device, sampling: Sampling,
           generator: torch.Generator | None) -> Tensor:
    """Uniform numbers (B, K) that decide every draw. They are drawn on the generator's device, so
    they are the same whatever the thinker's is.
    """
    if sampling.temperature == 0:
        return torch.zeros(rows, tokens, device=device)
    drawn_on = device if generator is None else generator.device
    return torch.rand(rows, tokens, generator=generator, device=drawn_on).to(device)


def choose(policy: Policy, hidden: Tensor, sampling: Sampling,
           noise: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens (B,) as vocabulary ids and their log-probabilities (B,); noise (B,) decides."""
    logits = policy.thinker.logits(hidden, policy.allowed)
    token, logprob = draw_tokens(logits, sampling, noise)
    return token + policy.allowed.start, logprob


def _prefill(policy: Policy, problems: Problems, samples: int, together: bool,
             ) -> tuple[Tensor, Decoder]:
    """Hidden state (B, D) at the end of each question, and a decoder with room for the thoughts.

    The samples of a question share it, or have a copy each, so that they may leave.
    """
    hidden, segment = policy.thinker.read(problems.question, problems.mask, last=1)
    decoder = policy.thinker.decoder(segment, samples, policy.rules.tokens - 1, not together)
    return hidden[:, 0].repeat_interleave(samples, 0), decoder


def _sample_nothing(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                    noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Empty thoughts."""
    thought[:, 0] = policy.end


def _write_fillers(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                   noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """K times the only token there is."""
    thought[:, :-1], thought[:, -1] = policy.allowed.start, policy.end


def _sample_fixed(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                  noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Exactly K tokens a row: static shapes and no decision that depends on the data."""
    together = side_by_side(samples, policy.rules.tokens)
    hidden, decoder = _prefill(policy, problems, samples, together)
    last = policy.rules.tokens - 1
    for step in range(last + 1):
        thought[:, step], logprobs[:, step] = choose(policy, hidden, sampling, noise[:, step])
        if step < last:
            hidden = decoder.step(thought[:, step])
    thought[:, -1] = policy.end


def _sample_together(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                     noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Rows end when they choose end-of-thought."""
    hidden, decoder = _prefill(policy, problems, samples, together=True)
    _decode_together(policy, hidden, decoder.step, sampling, noise, thought, logprobs)


def _decode_together(policy: Policy, hidden: Tensor, advance: Callable[[Tensor], Tensor],
                     sampling: Sampling, noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Decode all rows until all have finished; tokens of finished rows are ignored. advance returns
    the next hidden states (B, D) after tokens (B,).
    """
    pad, last, stops = policy.vocabulary.pad, policy.rules.tokens - 1, policy.rules.stops
    going = torch.ones(len(thought), dtype=torch.bool, device=thought.device)
    for step in range(last + 1):
        token, logprob = choose(policy, hidden, sampling, noise[:, step])
        thought[:, step], logprobs[:, step] = token.where(going, pad), logprob * going
        going = going & ~policy.is_end(token)
        if step == last or (stops and not going.any()):
            break
        hidden = advance(token)
    thought[:, -1].masked_fill_(going, policy.end)


def _sample_leaving(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
                   noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Rows end when they choose end-of-thought, and leave the batch."""
    end, count = policy.end, policy.rules.tokens
    hidden, decoder = _prefill(policy, problems, samples, together=False)
    rows = torch.arange(len(thought), device=thought.device)
    for step in range(count):
        token, logprob = choose(policy, hidden, sampling, noise[rows, step])
        thought[rows, step], logprobs[rows, step] = token, logprob
        going = (~policy.is_end(token)).nonzero()[:, 0]
        if len(going) < len(rows):
            rows, token, decoder = rows[going], token[going], decoder.select(going)
        if len(rows) == 0:
            return
        if step < count - 1:
            hidden = decoder.step(token)
    thought[rows, count] = end


class Sampler(SampledSource):
    """Thoughts are sampled from the thinker."""

    def prepare(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Tensor:
        rules, tokens = policy.rules, policy.rules.tokens
        if rules.pace and tokens:
            assert problems.moves is not None, "the configuration check lets no such run begin"
            tokens = int(problems.moves.max()) * rules.pace
        return _noise(len(problems) * self._samples(policy), tokens, problems.question.device,
                      self.sampling(step), generator)

    def make(self, policy: Policy, problems: Problems, step: int, drawn: Tensor | None) -> Rollouts:
        return sample(policy, problems, self._samples(policy), self.sampling(step), drawn)

    def constants(self, policy: Policy, step: int) -> Hashable | None:
        """Lengths that the thinker or the question decides are read on the host."""
        return None if policy.rules.stops or policy.rules.pace else self.sampling(step)

    def _samples(self, policy: Policy) -> int:
        return self.config.samples if policy.rules.tokens else 1


class Gold(PreparedSource):
    """The task's hand-made thoughts."""

    def constants(self, policy: Policy, step: int) -> Hashable | None:
        return ()

    def make(self, policy: Policy, problems: Problems, step: int, drawn: Tensor | None) -> Rollouts:
        if policy.rules.tokens == 0:
            return sample(policy, problems, 1, Sampling())
        thought = problems.thought
        assert thought is not None, "the configuration check lets no such run begin"
        room = policy.rules.tokens + 1 - thought.shape[1]
        return given(problems, F.pad(thought, (0, room), value=problems.pad))


class Filler(PreparedSource):
    """The same meaningless tokens for each question; the thinker learns nothing from them."""

    def constants(self, policy: Policy, step: int) -> Hashable | None:
        return None if policy.rules.pace else ()

    def make(self, policy: Policy, problems: Problems, step: int, drawn: Tensor | None) -> Rollouts:
        thought = greedy(policy, problems).thought
        return given(problems, thought, learn=torch.zeros_like(thought[:, :-1], dtype=torch.bool))


# --- thoughts at positions of a passage -----------------------------------------------------------

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
        found = self.positions(policy, problems, generator)
        return think_at_positions(policy, replace(problems, positions=found), self.config.samples,
                                  self.sampling(step), generator)

    @torch.no_grad()
    def positions(self, policy: PositionPolicy, problems: Problems,
                  generator: torch.Generator | None) -> Tensor:
        """(P, N): positions in ascending order."""
        every = all_positions(policy, problems)
        count = every.shape[1]
        if self.where == "all" or self.count >= count:
            return every
        if self.where == "random":
            worth = torch.rand(every.shape, generator=generator).to(every.device)
        else:
            nll, _ = (policy.norm or policy).predict(problems)
            worth = nll.unfold(1, policy.ahead, 1).sum(-1)
        return worth.topk(self.count, 1).indices.sort(1).values


def all_positions(policy: PositionPolicy, problems: Problems) -> Tensor:
    """(P, T - m + 1): all positions of passages (P, T) that have m next tokens."""
    count = problems.answer.shape[1] - policy.ahead + 1
    return torch.arange(count, device=problems.answer.device).expand(len(problems), -1)


@torch.no_grad()
def think_at_positions(policy: PositionPolicy, problems: Problems, samples: int,
                       sampling: Sampling, generator: torch.Generator | None = None) -> Rollouts:
    """`samples` thoughts at each of `problems.positions`."""
    assert problems.positions is not None
    branches = problems.positions.shape[1] * samples
    return _filled(_sample_at_positions, policy, problems, branches, sampling, generator)


def _sample_at_positions(policy: Policy, problems: Problems, branches: int, sampling: Sampling,
                         noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Thoughts at all positions of each problem, `branches` in all, a block of rows at a time."""
    policy = cast(PositionPolicy, policy)
    assert problems.positions is not None
    hidden, past = policy.thinker.read(problems.question)
    at = problems.positions.repeat_interleave(branches // problems.positions.shape[1], 1)
    rows = torch.arange(len(thought), device=at.device).view_as(at)
    for some, part in _blocks(len(at), at.shape[1], thought.device):
        ends = int(at[some, part].max()) + 1 if thought.device.type == "cpu" else hidden.shape[1]
        block = rows[some, part].flatten()
        written, spoken = thought[block], logprobs[block]
        _sample_block(policy, hidden[some], past.first(some, ends), at[some, part], sampling,
                      noise[block], written, spoken)
        thought[block], logprobs[block] = written, spoken


def _blocks(passages: int, branches: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Passages and rows that are decoded together: on a CPU as many as its caches hold."""
    most = AT_ONCE if device.type == "cpu" else passages * branches
    rows, width = max(1, most // branches), min(branches, most)
    for start in range(0, passages, rows):
        for first in range(0, branches, width):
            yield slice(start, start + rows), slice(first, first + width)


def _sample_block(policy: PositionPolicy, hidden: Tensor, past: Segment, at: Tensor,
                  sampling: Sampling, noise: Tensor, thought: Tensor, logprobs: Tensor) -> None:
    """Thoughts at positions at (P, M) of passages whose states are hidden (P, T, D)."""
    own = None

    def advance(token: Tensor) -> Tensor:
        nonlocal own
        state, own = policy.thinker.branch(token.view(*at.shape, 1), past, at, own)
        return state.flatten(0, 2)

    state = columns(hidden, at)  # (P, M, D)
    _decode_together(policy, state.flatten(0, 1), advance, sampling, noise, thought, logprobs)
