"""Exhaustive and beam search: the answerer scores thoughts, the best of each question are kept.

Searching is an E-step, learning what was found the M-step.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from ponder.config.option import parse_schedule
from ponder.config.registry import search
from ponder.core.lazy_imports import Tensor, no_grad, torch
from ponder.core.math import sinkhorn
from ponder.core.types import Problems, Rollouts
from ponder.rollouts import SampledSource, Source, given
from ponder.rollouts.search import best, close, leaf_values

if TYPE_CHECKING:
    from ponder.config.players import SearchConfig
    from ponder.models.policies.base import Policy


@search("exhaustive")
class Exhaustive(Source):
    """Score all thoughts, balance them over the answers, keep the best of each question.

    Balancing (Sinkhorn scaling of the score table, Cuturi 2013) keeps a thought from being claimed
    by many answers: left to themselves codes merge early and never part.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.noise = parse_schedule(config.noise)

    @no_grad
    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        codes = every_thought(policy, problems.question.device)
        values = self._values(policy, problems, codes)
        if (scale := self.noise(step)) > 0:
            uniform = torch.rand(values.shape, generator=generator).to(values.device)
            values = values - scale * (-uniform.clamp_min(1e-9).log()).log()
        prefixes = codes[None].expand(len(problems), -1, -1)
        thought = best(problems, prefixes, values, self.config.samples, policy.vocabulary.end)
        return given(problems, thought, self.config.samples)

    def _values(self, policy: Policy, problems: Problems, codes: Tensor) -> Tensor:
        """(P, N): how good each of N codes is for each problem."""
        several = problems.asked is not None or problems.answer.shape[1] > 1
        if policy.rules.sees_question or several:
            prefixes = codes[None].expand(len(problems), -1, -1)
            return leaf_values(policy, problems, prefixes)
        table = self._table(policy, problems, codes)
        answers, which = problems.answer[:, 0].unique(return_inverse=True)
        scores = table[answers]
        if self.config.balance:
            scores = sinkhorn(scores, rounds=5)
        return scores[which]

    def _table(self, policy: Policy, problems: Problems, codes: Tensor) -> Tensor:
        """(words, N): log p(one-token answer | code) for a blind answerer: the same for all."""
        blank = replace(problems, question=problems.question[:1].expand(len(codes), -1),
                        answer=problems.answer[:1].expand(len(codes), -1), features={})
        ends = torch.full((len(codes), 1), policy.vocabulary.end, device=codes.device)
        ragged = bool((codes == problems.pad).any())
        thought = torch.cat([codes, ends], 1)
        logits = policy.answer_logits(blank, thought, 1, policy.judge, ragged=ragged)
        return logits[:, 0].log_softmax(-1).T


class EveryThought(SampledSource):
    """No search: each group holds every thought once, with its log-probability."""

    @no_grad
    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        codes = every_thought(policy, problems.question.device)
        thought = close(codes, policy.vocabulary.end, problems.pad).repeat(len(problems), 1)
        rollouts = replace(given(problems, thought, len(codes)), same_thoughts=True)
        return replace(rollouts, logprobs=policy.think(rollouts, self.sampling(step))[0])


def every_thought(policy: Policy, device: torch.device) -> Tensor:
    """(N, K): all thoughts the thinker could write, shorter ones padded on the right."""
    rules, vocabulary = policy.rules, policy.vocabulary
    words = range(vocabulary.first_thought, len(vocabulary))
    lengths = range(0 if rules.stops else rules.tokens, rules.tokens + 1)
    rows = [(*code, *[vocabulary.pad] * (rules.tokens - length))
            for length in lengths for code in itertools.product(words, repeat=length)]
    return torch.tensor(rows, device=device)


@search("beam")
class Beam(Source):
    """Keep `width` prefixes a question; every token is tried after each of them.

    A thinker that stops may end anywhere, so all prefixes ever scored are candidates; with a fixed
    length only the full ones are.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config

    @no_grad
    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        rules, vocabulary = policy.rules, policy.vocabulary
        device = problems.question.device
        words = torch.arange(vocabulary.first_thought, len(vocabulary), device=device)
        beams = torch.full((len(problems), 1, rules.tokens), problems.pad, device=device)
        seen, scores = [], []
        for depth in range(rules.tokens):
            policy.on_progress("searching token", depth, rules.tokens)
            children = beams[:, :, None].repeat(1, 1, len(words), 1)
            children[..., depth] = words
            children = children.flatten(1, 2)
            values = leaf_values(policy, problems, children)
            if rules.stops or depth == rules.tokens - 1:
                seen.append(children)
                scores.append(values)
            top = values.topk(min(self.config.width, values.shape[1]), 1).indices
            beams = children.gather(1, top[..., None].expand(-1, -1, rules.tokens))
        policy.on_progress("searching token", rules.tokens, rules.tokens)
        thought = best(problems, torch.cat(seen, 1), torch.cat(scores, 1), self.config.samples,
                       vocabulary.end)
        return given(problems, thought, self.config.samples)
