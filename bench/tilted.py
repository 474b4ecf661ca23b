"""How good the best policy near a language model is: what PPO should reach, without PPO.

The policy that makes E[r] - beta KL(p, q) largest is q(y) exp(r(y) / beta) / Z. Its particles are
grown a token at a time (sequential Monte Carlo with the proposal that is best for one token): of a
text of t tokens out of K its potential is r times t / K, a candidate is drawn by q times what it
adds to exp(potential / beta), and particles of a prompt are drawn anew by weight where few weigh
much. No policy that is as near to q earns more than this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import paths  # noqa: F401  (first: it makes ponder importable)
from ponder.models.policies.continuation import ContinuationPolicy


@torch.no_grad()
def tilted(policy: ContinuationPolicy, prompts: Tensor, worth: Callable[[str], float], beta: float,
           particles: int = 32, seed: int = 0) -> tuple[float, float]:
    """(E[r], KL to the reference in nats) of the best continuations of prompts (P, Q), whose texts
    have as many tokens as the policy writes; worth of a text is its reward.
    """
    generator = torch.Generator().manual_seed(seed)
    net, words, length = policy.thinker, policy.allowed, policy.rules.tokens
    rows = prompts.repeat_interleave(particles, 0)
    texts, potential = [""] * len(rows), torch.zeros(len(rows))
    weight, total = torch.zeros(len(prompts), particles), torch.zeros(len(prompts))
    letters = [policy.vocabulary.decode([token]) for token in range(words.start, words.stop)]
    for step in range(1, length + 1):
        logq = net.logits(net(rows, last=1)[0][:, 0], words).log_softmax(-1)
        known: dict[str, list[float]] = {}
        for text in texts:
            if text not in known:
                known[text] = [worth(text + letter) * step / length for letter in letters]
        grown = torch.tensor([known[text] for text in texts])
        joint = logq + (grown - potential[:, None]) / beta
        weight = weight + joint.logsumexp(1).view_as(weight)
        token = torch.multinomial(joint.softmax(1), 1, generator=generator)
        rows = torch.cat([rows, token + words.start], 1)
        potential = grown.gather(1, token)[:, 0]
        texts = [text + letters[which] for text, which in zip(texts, token[:, 0].tolist(),
                                                              strict=True)]
        few = weight.softmax(1).square().sum(1) > 2 / particles  # by their effective number
        chosen = _chosen(weight, few, generator)
        total = total + torch.where(few, _mean(weight), 0.0)
        weight = weight.masked_fill(few[:, None], 0.0)
        rows, potential = rows[chosen], potential[chosen]
        texts = [texts[row] for row in chosen.tolist()]
    reward = float((weight.softmax(1) * potential.view_as(weight)).sum(1).mean())
    objective = beta * float((total + _mean(weight)).mean())
    return reward, (reward - objective) / beta


def _mean(weight: Tensor) -> Tensor:
    """(P,): log of the mean weight of log weights (P, M)."""
    return weight.logsumexp(1) - math.log(weight.shape[1])


def _chosen(weight: Tensor, few: Tensor, generator: torch.Generator) -> Tensor:
    """(P * M,): the rows that go on: where `few`, drawn by weight, else each."""
    prompts, particles = weight.shape
    drawn = torch.multinomial(weight.softmax(1), particles, True, generator=generator)
    same = torch.arange(particles).expand(prompts, -1)
    start = torch.arange(prompts)[:, None] * particles
    return (torch.where(few[:, None], drawn, same) + start).flatten()
