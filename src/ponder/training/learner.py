"""One optimizer step, whatever the strategy: losses, gradients, guards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ponder.config.running import TrainerConfig
from ponder.config.schedule import Schedule
from ponder.core.distributed import (
    all_reduce_sum,
    full_norm,
    full_root_parameters,
    full_state_dict,
    full_tensors,
    is_sharded,
    shard_state_dict,
    sum_gradients,
)
from ponder.core.math import Sampling, matmul_dtype
from ponder.core.types import Rollouts, Scores
from ponder.models.policies.question import Policy
from ponder.strategies.base import Losses, Strategy
from ponder.training.optimizers import build_optimizer, restore


@dataclass
class Denominators:
    """What the losses of an optimizer step are divided by, each 0-dim: the strategy's own count,
    the tokens that learn, and the rows the answerer learns from (where thoughts are text, the
    tokens of these thoughts)."""

    credit: Tensor
    tokens: Tensor
    answers: Tensor


@dataclass
class Learner:
    """Turns micro-batches into a step of the optimizer.

    Denominators are those of the whole optimizer step, over all processes, so micro-batches,
    accumulation and processes never change the gradient. A step whose loss or gradient is not
    finite changes nothing.
    """

    config: TrainerConfig
    policy: Policy
    strategy: Strategy
    entropy: Schedule
    learns_from_gold: bool
    device: torch.device

    def __post_init__(self) -> None:
        config, policy = self.config, self.policy
        parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(config, policy)
        nets = [policy.thinker, policy.answerer, *([policy.critic] if policy.critic else []),
                *policy.attached.values()]
        self.players = [list(net.parameters()) for net in dict.fromkeys(nets)]
        self._learning(False)
        first = parameters if config.reset_model_every_epoch else []
        self.first = [p.detach().clone() for p in first]

    def reset(self) -> None:
        """Back to the first weights, as if nothing had been learnt."""
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter, value in zip(parameters, self.first, strict=True):
                parameter.copy_(value)
        self.optimizer.state.clear()

    def step(self, batch: list[Rollouts], step: int, rate: float, sampling: Sampling,
             observe: Callable[[Policy, Rollouts, Scores], None]) -> Losses:
        """Accumulate the micro-batches' gradients under common denominators; then one step.

        `observe` hears of every micro-batch and its scores. The result has `skipped`, 1 where the
        loss or the gradient was not finite and nothing was learnt.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        whole = self.denominators(batch)
        losses: Losses = {}
        seen: list[tuple[Rollouts, Scores]] = []
        self._learning(True)
        for micro in batch:
            with full_root_parameters(self.policy):
                scores, parts = self.learn(micro, sampling, whole, step)
            seen.append((micro, scores))
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value.detach()
        self._learning(False)
        if not is_sharded(self.policy):  # else they were summed as they came
            sum_gradients(self.policy.parameters())
        losses = {name: all_reduce_sum(value) for name, value in losses.items()}
        losses["grad_norm"] = self.clip()
        sound = torch.isfinite(losses["loss"] + losses["grad_norm"])
        losses["skipped"] = (~sound).float()
        if sound:
            for micro, scores in seen:
                observe(self.policy, micro, scores)
            self.optimizer.step()
        return losses

    def _learning(self, learning: bool) -> None:
        if self.policy.has_modes:
            self.policy.train(learning)

    def learn(self, micro: Rollouts, sampling: Sampling, whole: Denominators, step: int,
              ) -> tuple[Scores, Losses]:
        """Add a micro-batch's gradients to those there are."""
        with matmul_dtype(self.config.dtype, self.device):
            scores = self.score(micro, sampling)
            parts = self.losses(scores, micro, whole, step)
        parts["loss"].backward()
        return scores, parts

    @torch.no_grad()
    def look(self, batch: list[Rollouts], step: int, sampling: Sampling) -> Losses:
        """The losses of a batch, without a step."""
        whole = self.denominators(batch)
        losses: Losses = {}
        for micro in batch:
            with matmul_dtype(self.config.dtype, self.device):
                parts = self.losses(self.score(micro, sampling), micro, whole, step)
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value
        return {name: all_reduce_sum(value) for name, value in losses.items()}

    def score(self, micro: Rollouts, sampling: Sampling) -> Scores:
        gold = micro.problems.thought if self.learns_from_gold else None
        return self.policy.score(micro, sampling, gold)

    def denominators(self, batch: list[Rollouts]) -> Denominators:
        """Those of the whole optimizer step."""
        def total(values: list[Tensor]) -> Tensor:
            live = [value if not micro.placeholder else 0 * value
                    for micro, value in zip(batch, values, strict=True)]
            return all_reduce_sum(torch.stack(live).sum()).clamp_min(1)

        if self.learns_from_gold:
            rows = [torch.tensor(len(micro.problems), device=self.device) for micro in batch]
        elif self.policy.answers_in_text:
            rows = [(micro.mask[:, :-1].sum(1) * _weight(micro)).sum() for micro in batch]
        else:
            rows = [_weight(micro).sum() for micro in batch]
        return Denominators(total([self.strategy.count(micro) for micro in batch]),
                            total([micro.learn.sum() for micro in batch]), total(rows))

    def losses(self, scores: Scores, micro: Rollouts, whole: Denominators, step: int) -> Losses:
        """Thinker's loss by the strategy, minus its entropy bonus, plus the answerer's likelihood:
        the mean over rows; where thoughts are text, a token of the answer counts as one of these.

        The sum is the score-function gradient for what was sampled and the ordinary one for what
        is differentiable.
        """
        weight = torch.ones_like(scores.answer) if self.learns_from_gold else _weight(micro)
        losses = self.strategy.loss(scores, micro, whole.credit, step)
        answer = -(weight * scores.answer).sum() / whole.answers
        spread = (scores.entropy * micro.learn).sum() / whole.tokens
        bonus = self.entropy(step)
        loss = losses["thinker_loss"] + answer
        loss = loss - bonus * spread if bonus else loss
        found = {"loss": loss, **losses, "answer_loss": answer, "thought_entropy": spread}
        return {name: 0 * value for name, value in found.items()} if micro.placeholder else found

    def clip(self) -> Tensor:
        """Clip each player's gradient by itself; the norm over all (0-dim)."""
        limit = self.config.grad_clip or math.inf
        norms = [full_norm(nn.utils.clip_grad_norm_(player, limit)) for player in self.players]
        return torch.stack(norms).square().sum().sqrt()

    def state(self) -> dict[str, Any]:
        """Optimizer, strategy, and those networks that a checkpoint does not hold as models; of
        several processes with shards the leading one's holds it all, and all must ask.
        """
        extras = full_state_dict(
            self.policy, lambda name: not name.startswith(("thinker.", "answerer.")))
        return {"optimizer": full_tensors(self.optimizer.state_dict()),
                "strategy": self.strategy.state(), "extras": extras}

    def load(self, state: dict[str, Any]) -> None:
        restore(self.optimizer, state["optimizer"])
        self.strategy.load(state["strategy"])
        self.policy.load_state_dict(shard_state_dict(self.policy, state["extras"]), strict=False)


def _weight(rollouts: Rollouts) -> Tensor:
    assert rollouts.weight is not None
    return rollouts.weight
