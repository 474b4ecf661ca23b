"""One optimizer step, whatever the strategy: losses, gradients, guards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ponder.config.running import TrainerConfig
from ponder.maths import Sampling
from ponder.models.policy import Policy
from ponder.processes import everywhere, sum_gradients
from ponder.schedule import Schedule
from ponder.strategies import Losses, Strategy
from ponder.types import Rollouts, Scores


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
    """Turns micro-batches into a step of AdamW.

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
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, betas=(0.9, config.beta2),
            weight_decay=config.weight_decay, fused=True)
        nets = [policy.thinker, policy.answerer, *([policy.critic] if policy.critic else [])]
        self.players = [list(net.parameters()) for net in dict.fromkeys(nets)]
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
        for micro in batch:
            with torch.autocast(self.device.type, torch.bfloat16, self.config.dtype == "bfloat16"):
                scores = self.score(micro, sampling)
                parts = self.losses(scores, micro, whole, step)
            parts["loss"].backward()
            seen.append((micro, scores))
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value.detach()
        sum_gradients(self.policy.parameters())
        losses = {name: everywhere(value) for name, value in losses.items()}
        losses["grad_norm"] = self.clip()
        sound = torch.isfinite(losses["loss"] + losses["grad_norm"])
        losses["skipped"] = (~sound).float()
        if sound:
            for micro, scores in seen:
                observe(self.policy, micro, scores)
            self.optimizer.step()
        return losses

    @torch.no_grad()
    def look(self, batch: list[Rollouts], step: int, sampling: Sampling) -> Losses:
        """The losses of a batch, without a step."""
        whole = self.denominators(batch)
        losses: Losses = {}
        for micro in batch:
            parts = self.losses(self.score(micro, sampling), micro, whole, step)
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value
        return {name: everywhere(value) for name, value in losses.items()}

    def score(self, micro: Rollouts, sampling: Sampling) -> Scores:
        gold = micro.problems.thought if self.learns_from_gold else None
        return self.policy.score(micro, sampling, gold)

    def denominators(self, batch: list[Rollouts]) -> Denominators:
        """Those of the whole optimizer step."""
        def total(values: list[Tensor]) -> Tensor:
            return everywhere(torch.stack(values).sum()).clamp_min(1)

        if self.learns_from_gold:
            rows = [torch.tensor(len(micro.problems), device=self.device) for micro in batch]
        elif self.policy.answers_in_text:
            rows = [(micro.mask[:, :-1].sum(1) * micro.weight).sum() for micro in batch
                    if micro.weight is not None]
        else:
            rows = [micro.weight.sum() for micro in batch if micro.weight is not None]
        return Denominators(total([self.strategy.count(micro) for micro in batch]),
                            total([micro.learn.sum() for micro in batch]), total(rows))

    def losses(self, scores: Scores, micro: Rollouts, whole: Denominators, step: int) -> Losses:
        """Thinker's loss by the strategy, minus its entropy bonus, plus the answerer's likelihood:
        the mean over rows; where thoughts are text, a token of the answer counts as one of these.

        The sum is the score-function gradient for what was sampled and the ordinary one for what
        is differentiable.
        """
        assert micro.weight is not None
        weight = torch.ones_like(scores.answer) if self.learns_from_gold else micro.weight
        losses = self.strategy.loss(scores, micro, whole.credit, step)
        answer = -(weight * scores.answer).sum() / whole.answers
        spread = (scores.entropy * micro.learn).sum() / whole.tokens
        bonus = self.entropy(step)
        loss = losses["thinker_loss"] + answer
        loss = loss - bonus * spread if bonus else loss
        return {"loss": loss, **losses, "answer_loss": answer, "thought_entropy": spread}

    def clip(self) -> Tensor:
        """Clip each player's gradient by itself; the norm over all (0-dim)."""
        limit = self.config.grad_clip or math.inf
        norms = [nn.utils.clip_grad_norm_(player, limit) for player in self.players]
        return torch.stack(norms).square().sum().sqrt()

    def state(self) -> dict[str, Any]:
        """Optimizer, strategy, and those networks that a checkpoint does not hold as models."""
        extras = {name: value for name, value in self.policy.state_dict().items()
                  if not name.startswith(("thinker.", "answerer."))}
        return {"optimizer": self.optimizer.state_dict(), "strategy": self.strategy.state(),
                "extras": extras}

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load(state["strategy"])
        self.policy.load_state_dict(state["extras"], strict=False)
