"""Beam search over thoughts, guided by how good the answer would be if a thought ended here."""

from __future__ import annotations

import torch

from ponder.config.rollouts import SearchConfig
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.question import Policy
from ponder.rollouts.sampler import Source, given
from ponder.rollouts.search.leaf import best, leaf_values


class Beam(Source):
    """Keep `width` prefixes a question; every token is tried behind each of them.

    A thinker that stops may end anywhere, so all prefixes ever scored are candidates; with a fixed
    length only the full ones are.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config

    @torch.no_grad()
    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        rules, vocabulary = policy.rules, policy.vocabulary
        device = problems.question.device
        words = torch.arange(vocabulary.first_thought, len(vocabulary), device=device)
        beams = torch.full((len(problems), 1, rules.tokens), problems.pad, device=device)
        seen, scores = [], []
        for depth in range(rules.tokens):
            children = beams[:, :, None].repeat(1, 1, len(words), 1)
            children[..., depth] = words
            children = children.flatten(1, 2)
            values = leaf_values(policy, problems, children)
            if rules.stops or depth == rules.tokens - 1:
                seen.append(children)
                scores.append(values)
            top = values.topk(min(self.config.width, values.shape[1]), 1).indices
            beams = children.gather(1, top[..., None].expand(-1, -1, rules.tokens))
        thought = best(problems, torch.cat(seen, 1), torch.cat(scores, 1), self.config.samples,
                       vocabulary.end)
        return given(problems, thought, self.config.samples)
