"""Sampling thoughts from the thinker: a question is computed once, and no prefix twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ponder.config.players import SamplerConfig, ThinkerConfig
from ponder.core.distributed import is_distributed, local_range, merge_parts
from ponder.core.math import GREEDY, Sampling, at_least_float32, distribution, draw
from ponder.core.types import Problems, Rollouts
from ponder.models.backbone import Decoder
from ponder.models.gpt2.layers import SIDE_BY_SIDE, side_by_side
from ponder.models.policies.base import Policy
from ponder.models.policies.latent import ContinuousPolicy, DifferentiablePolicy
from ponder.rollouts.source import SampledSource, Source, given


@torch.no_grad()
def sample(policy: Policy, problems: Problems, samples: int, sampling: Sampling,
           generator: torch.Generator | None = None) -> Rollouts:
    """`samples` thoughts for each problem, drawn from the thinker (or its greedy choice). The work
    is split across ranks, and every rank gets all rollouts.
    """
    rules = policy.rules
    rows = len(problems) * samples
    thought = torch.full((rows, rules.tokens + 1), problems.pad, device=problems.question.device)
    logprobs = torch.zeros(rows, rules.tokens, device=thought.device,
                           dtype=torch.promote_types(
                               torch.float32, next(policy.thinker.parameters()).dtype))
    if rules.tokens:
        noise = uniform(thought[:, :-1], sampling, generator)
        fill = _sample_fixed
        if rules.stops:
            short = samples * rules.tokens <= SIDE_BY_SIDE // 4  # leaving would save nothing
            fill = _sample_together if short else _sample_leaving
        thought, logprobs = in_shares(len(problems), thought, logprobs, lambda some, own: fill(
            policy, problems[some], samples, sampling, noise[own], thought[own], logprobs[own]))
    else:
        thought[:, 0] = policy.end
    chosen = thought[:, :-1] != problems.pad
    return Rollouts(problems, samples, thought, chosen, logprobs, learn=chosen)


def in_shares(problems: int, thought: Tensor, logprobs: Tensor,
              fill: Callable[[slice, slice], None]) -> tuple[Tensor, Tensor]:
    """Thoughts (B, K + 1) and log-probabilities (B, K), which `fill` writes for some problems and
    their rows. The work is split across ranks, and every rank gets all of them.
    """
    each, part = len(thought) // max(problems, 1), local_range(problems)
    own = slice(part.start * each, part.stop * each)
    if part:
        fill(slice(part.start, part.stop), own)
    if is_distributed():
        thought[:own.start] = thought[own.stop:] = 0
        thought, logprobs = merge_parts(thought), merge_parts(logprobs)
    return thought, logprobs


def greedy(policy: Policy, problems: Problems) -> Rollouts:
    """The thinker's greedy thought for each problem."""
    return sample(policy, problems, 1, GREEDY)


def uniform(thought: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers (B, K) that decide every draw, drawn at once where the generator is: the same
    ones on any device.
    """
    if sampling.temperature == 0:
        return torch.zeros(thought.shape, device=thought.device)
    drawn_on = thought.device if generator is None else generator.device
    return torch.rand(thought.shape, generator=generator, device=drawn_on).to(thought.device)


def choose(policy: Policy, hidden: Tensor, sampling: Sampling,
            noise: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens (B,) as vocabulary ids and their log-probabilities (B,); noise (B,) decides."""
    logits = at_least_float32(policy.thinker.logits(hidden, policy.allowed))
    if sampling.temperature == 0:
        full = logits.log_softmax(-1)
        token = full.argmax(-1)
    else:
        full = distribution(logits, sampling)
        token = draw(full, noise)
    return token + policy.allowed.start, full.gather(-1, token[:, None])[:, 0]


def _prefill(policy: Policy, problems: Problems, samples: int, together: bool,
             ) -> tuple[Tensor, Decoder]:
    """Hidden state (B, D) at the end of each question, and a decoder with room for the thoughts.

    The samples of a question share it, or have a copy each, so that they may leave.
    """
    hidden, segment = policy.thinker.read(problems.question, problems.mask, last=1)
    decoder = policy.thinker.decoder(segment, samples, policy.rules.tokens - 1, not together)
    return hidden[:, 0].repeat_interleave(samples, 0), decoder


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
    """Rows end when they choose end-of-thought. Finished rows are still decoded, and their tokens
    ignored, until all have finished.
    """
    end, count = policy.end, policy.rules.tokens
    hidden, decoder = _prefill(policy, problems, samples, together=True)
    going = torch.ones(len(thought), dtype=torch.bool, device=thought.device)
    for step in range(count):
        token, logprob = choose(policy, hidden, sampling, noise[:, step])
        thought[:, step], logprobs[:, step] = token.where(going, problems.pad), logprob * going
        going = going & ~policy.is_end(token)
        if step == count - 1 or not going.any():
            break
        hidden = decoder.step(token)
    thought[:, count].masked_fill_(going, end)


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

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        samples = self.config.samples if policy.rules.tokens else 1
        return sample(policy, problems, samples, self.sampling(step), generator)


class Gold(Source):
    """The task's hand-made thoughts."""

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        if policy.rules.tokens == 0:
            return sample(policy, problems, 1, Sampling())
        thought = problems.thought
        assert thought is not None, "the configuration check lets no such run begin"
        room = policy.rules.tokens + 1 - thought.shape[1]
        return given(problems, torch.nn.functional.pad(thought, (0, room), value=problems.pad))


SHOWN = 3  # numbers of a vector that are shown


def latent_rollouts(policy: DifferentiablePolicy, problems: Problems, samples: int = 1,
           generator: torch.Generator | None = None) -> Rollouts:
    """Rollouts without a given token: padding, where the thinker will say something when they are
    scored, and the uniform numbers that decide it.
    """
    rows, tokens, device = len(problems) * samples, policy.rules.tokens, problems.question.device
    thought = problems.question.new_full((rows, tokens + 1), problems.pad)
    thought[:, -1] = policy.vocabulary.end
    noise = torch.rand(rows, tokens, policy.noise_width, generator=generator).to(device)
    chosen = torch.full((rows, tokens), policy.noise_width > 0, device=device)
    return Rollouts(problems, samples, thought, chosen, torch.zeros(rows, tokens, device=device),
                    learn=chosen, noise=noise)


def vectors(policy: ContinuousPolicy, problems: Problems) -> tuple[Tensor, Tensor]:
    """(thoughts (P, K, D), how they are shown (P, K + 1)): for each vector the token that the
    thinker would likeliest have written in its place, as its head makes of the state; then
    end-of-thought.
    """
    states, own = policy.unroll(latent_rollouts(policy, problems), GREEDY)
    likeliest = policy.thinker.logits(states, policy.allowed).argmax(-1) + policy.allowed.start
    return own, torch.nn.functional.pad(likeliest, (0, 1), value=policy.vocabulary.end)


def numbers(thought: Tensor) -> list[str]:
    """The first numbers of each vector of a thought (K, D)."""
    return [" ".join(f"{x:.2f}" for x in vector) for vector in thought[:, :SHOWN].tolist()]


class LatentSource(Sampler):
    """Thoughts that are made when they are scored, as their gradient is wanted.

    In a curriculum (`thinker.stage_steps`) the last tokens of a thought are gold at first, and
    learnt by likelihood: the stage is how many the thinker makes itself, none at first, one more
    every `stage_steps` steps, and all in the end.
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
