"""A text of three characters out of five, and the exact optimum of what it may earn.

For a reference q and a reward r the policy that makes :math:`J(p) = E_p[r] - \\beta KL(p, q)`
largest is :math:`p^*(y) = q(y) e^{r(y) / \\beta} / Z`, and it earns :math:`J^* = \\beta \\log Z`
(Korbak et al. 2022; equation 4 of Rafailov et al. 2023). All texts are enumerated.
"""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import paths  # noqa: F401  (first: it makes ponder importable)
from ponder.config.players import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.core.math import Sampling
from ponder.core.types import Rollouts
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.models.policies.value_head import ValueHead
from ponder.rewards.answers import Reward
from ponder.rollouts import Source, given
from ponder.rollouts.sampler import Sampler
from ponder.strategies.base import Strategy
from ponder.tasks.text.passages import Corpus, CorpusKeys
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer

LETTERS, TOKENS, BETA = 5, 3, 0.25
GROUPS, SAMPLES = 64, 8


class Table(Reward):
    """A text is worth what a table (6, 6, 6) of random numbers between 0 and 1 says; the sixth
    letter stands for no letter.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.table = torch.rand((LETTERS + 1,) * TOKENS, generator=torch.Generator().manual_seed(5))

    def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
        words = rollouts.thought[:, :TOKENS] - policy.end - 1
        words = words.clamp(-1, LETTERS)  # an end, or nothing: the last
        return replace(rollouts, reward=self.table[tuple(words.T)])


def corpus(directory: Path) -> Corpus:
    """Texts of a, b, c, d and the character that stands for others, without a prompt."""
    pieces = {"kind": "chars", "characters": "abcd\ufffd"}
    (directory / "tokens.json").write_text(json.dumps(pieces))
    return Corpus(CorpusKeys(prompt="", seed=0, test_passages=1), 0, str(directory))


def make_policy(task: Corpus, value: str = "none", stops: bool = False, seed: int = 0,
                ) -> ContinuationPolicy:
    """A small model whose texts are anything but equally likely, and a reference that is it."""
    torch.manual_seed(11 + seed)
    net = Transformer(Shape(len(task.vocabulary), TOKENS + 2, 32, 1, 2), Init(*[0.3] * 5))
    critic = None
    if value != "none":
        critic = ValueHead(32, "token", copy.deepcopy(net) if value == "separate" else None)
    return ContinuationPolicy(net, None, task.vocabulary, Rules(TOKENS, stops, writes="text"),
                              critic=critic, reference=copy.deepcopy(net))


def value_of(strategy: Strategy) -> str:
    """The value head that a strategy asks for."""
    return getattr(strategy, "value", "none")


def trainer_of(strategy: Strategy, task: Corpus, steps: int = 400, epochs: int = 2,
               stops: bool = False, seed: int = 0, policy: Policy | None = None,
               source: Source | None = None) -> Trainer:
    """A loop on texts without a prompt, of a fixed length or up to it; a policy is our own, and
    samples, where no other is given.
    """
    policy = policy or make_policy(task, value_of(strategy), stops, seed)
    source = source or Sampler(SamplerConfig(samples=SAMPLES))
    config = TrainerConfig(max_steps=steps, train_batch_size=GROUPS, warmup=10, lr=3e-3,
                           lr_decay="linear", weight_decay=0.0, internal_epochs=epochs,
                           beta2=0.99, val_every_n_steps=10**6, log_every_n_steps=10**6)
    learner = Learner(config, policy, strategy, lambda step: 0.0, False, torch.device("cpu"))
    return Trainer(config, task, source, Table(), learner, 100, 0,
                   torch.Generator().manual_seed(seed))


@dataclass
class Census:
    """Of all N texts: log-probabilities (N, K) of their tokens by policy and reference, rewards
    (N,), and what the value head expects before each token (N, K).
    """

    own: Tensor
    other: Tensor
    reward: Tensor
    value: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, trainer: Trainer) -> Census:
        policy, problems = trainer.policy, trainer.task.test()
        rows = every_text(policy)
        rollouts = trainer.reward(policy, given(problems, rows, len(rows)))
        own, other = (policy.think(rollouts, Sampling(), net)[0].double()
                      for net in (policy.thinker, policy.reference))
        value = policy.values(rollouts)
        assert rollouts.reward is not None
        return cls(own, other, rollouts.reward.double(), None if value is None else value.double())

    @property
    def objective(self) -> float:
        """J(p)"""
        logp = self.own.sum(1)
        return float((logp.exp() * (self.reward - BETA * (logp - self.other.sum(1)))).sum())

    @property
    def beginning(self) -> float:
        """J(q)"""
        return float((self.other.sum(1).exp() * self.reward).sum())

    @property
    def optimum(self) -> float:
        """J*"""
        return float(BETA * (self.other.sum(1) + self.reward / BETA).logsumexp(0))

    @property
    def reached(self) -> float:
        """Share of the way from J(q) to J* that the policy has come."""
        return (self.objective - self.beginning) / (self.optimum - self.beginning)

    def expected(self) -> Tensor:
        """(N, K): what is still to come before each token of texts of a fixed length, exactly."""
        cube = (LETTERS,) * TOKENS
        own = self.own.view(*cube, TOKENS)
        paid = BETA * (own - self.other.view(*cube, TOKENS))
        found, ahead = [], self.reward.view(cube)
        for token in reversed(range(TOKENS)):  # the mean over the token that is chosen next
            ahead = ((ahead - paid[..., token]) * own[..., token].exp()).sum(
                token, keepdim=True).expand(cube)
            found.append(ahead.flatten())
        return torch.stack(found[::-1], 1)

    @property
    def explained(self) -> float:
        """Share of the variance of what is still to come that the value head explains, over the
        texts that the policy writes.
        """
        assert self.value is not None
        weight, truth = self.own.sum(1, keepdim=True).exp() / TOKENS, self.expected()
        mean = (weight * truth).sum()
        variance = (weight * (truth - mean).square()).sum()
        return float(1 - (weight * (truth - self.value).square()).sum() / variance)


def every_text(policy: Policy) -> Tensor:
    """(N, K + 1): every text that the policy could write."""
    pad, end = policy.vocabulary.pad, policy.end
    lengths = range(0 if policy.rules.stops else TOKENS, TOKENS + 1)
    return torch.tensor([[*(end + 1 + letter for letter in code), end, *[pad] * (TOKENS - length)]
                         for length in lengths
                         for code in itertools.product(range(LETTERS), repeat=length)])
