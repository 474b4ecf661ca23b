"""One optimizer step, whatever the strategy: losses, gradients, clipping, and the optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ponder.config.option import Schedule
from ponder.config.running import TrainerConfig
from ponder.core.distributed import (
    all_reduce_sum,
    full_norm,
    full_root_parameters,
    full_state_dict,
    full_tensors,
    is_sharded,
    shard_like,
    shard_state_dict,
    sum_gradients,
)
from ponder.core.math import Sampling, matmul_dtype
from ponder.core.types import Rollouts, Scores
from ponder.models.policies.base import Policy
from ponder.rollouts import PreparedSource, Source
from ponder.strategies.base import Losses, Strategy
from ponder.training.graph import Graphs

NOT_HIDDEN = ("wte", "wpe", "embed", "lm_head", "critic", "mixer")  # Muon leaves them to AdamW


@dataclass
class Denominators:
    """What the losses of an optimizer step are divided by, each 0-dim.

    credit: the strategy's own count. tokens: those that learn. answers: the rows the answerer
    learns from; where the answer is part of a text, the tokens of these rows' thoughts.
    """

    credit: Tensor
    tokens: Tensor
    answers: Tensor


@dataclass
class Learner:
    """Turns micro-batches into one step of the optimizer.

    Denominators are those of the whole optimizer step, over all processes, so that neither
    micro-batch size nor accumulation nor the number of processes changes the gradient. A step whose
    loss or gradient is not finite changes no weight. learns_from_gold: the answerer learns from the
    task's gold thoughts. graphs: replays what can be. skipped (0-dim): steps in a row that were
    not finite.
    """

    config: TrainerConfig
    policy: Policy
    strategy: Strategy
    entropy: Schedule
    learns_from_gold: bool
    device: torch.device
    graphs: Graphs = field(default_factory=Graphs)

    def __post_init__(self) -> None:
        config, policy = self.config, self.policy
        self.optimizer = build_optimizer(config, policy)
        self.rate, self.skipped = config.lr, torch.zeros((), device=self.device)
        if self.graphs.on:
            self._make_replayable()
        nets = [policy.thinker, policy.answerer, *([policy.critic] if policy.critic else []),
                *policy.attached.values()]
        self.networks = [list(net.parameters()) for net in dict.fromkeys(nets)]
        self._train_mode(False)
        kept = config.reset_model_every_epoch
        self.initial = [weight.detach().clone() for weight in self._trained()] if kept else []

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self.policy.parameters() if weight.requires_grad]

    def reset(self) -> None:
        """Go back to the initial weights and a new optimizer."""
        with torch.no_grad():
            for weight, value in zip(self._trained(), self.initial, strict=True):
                weight.copy_(value)
        self.optimizer = build_optimizer(self.config, self.policy)

    def step(self, batch: list[Rollouts], step: int, rate: float, source: Source) -> Losses:
        """Accumulate the gradients of all micro-batches, then take a step at learning rate `rate`.

        Returns the losses by name, each 0-dim; `skipped` is 1 where the loss or the gradient was
        not finite and no step was taken. The source observes every micro-batch and its scores,
        unless the step was skipped.
        """
        self._set_rate(rate)
        if self.graphs.on:
            return self._replayed(batch, step, cast(PreparedSource, source))
        losses, seen = self._gradients(batch, step, source.sampling(step))
        finite = losses["skipped"] == 0
        self.skipped = (self.skipped + 1) * losses["skipped"]
        if finite:
            for micro, scores in seen:
                source.observe(self.policy, micro, scores)
            self.optimizer.step()
        return losses

    def _replayed(self, batch: list[Rollouts], step: int, source: PreparedSource) -> Losses:
        """The same from one recorded pass: a step that is not finite is skipped on the device."""
        def learn(batch: list[Rollouts]) -> Losses:
            losses, seen = self._gradients(batch, step, source.sampling(step))
            skipped, observed = losses["skipped"], source.tensors()
            before = [value.clone() for value in observed]
            for micro, scores in seen:
                source.observe(self.policy, micro, scores)
            for value, kept in zip(observed, before, strict=True):
                value.copy_(torch.where(skipped > 0, kept, value))
            self.skipped.add_(1).mul_(skipped)
            optimizer = cast(Any, self.optimizer)
            optimizer.found_inf = skipped  # then fused AdamW changes nothing
            optimizer.step()
            del optimizer.found_inf
            return losses

        known = (source.constants(self.policy, step), self.strategy.constants(step),
                 self.entropy(step))
        return self.graphs(learn, batch, constants=None if None in known else known)

    def _gradients(self, batch: list[Rollouts], step: int, sampling: Sampling,
                   ) -> tuple[Losses, list[tuple[Rollouts, Scores]]]:
        """(losses, each micro-batch and its scores); gradients are accumulated and clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        denominators = self.denominators(batch)
        losses: Losses = {}
        seen: list[tuple[Rollouts, Scores]] = []
        self._train_mode(True)
        for micro in batch:
            with full_root_parameters(self.policy):
                scores, parts = self.backward(micro, sampling, denominators, step)
            seen.append((micro, scores))
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value.detach()
        self._train_mode(False)
        if not is_sharded(self.policy):  # else they were summed as they came
            sum_gradients(self.policy.parameters())
        losses = {name: all_reduce_sum(value) for name, value in losses.items()}
        losses["grad_norm"] = self.clip()
        finite = torch.isfinite(losses["loss"] + losses["grad_norm"])
        losses["skipped"] = (~finite).float()
        return losses, seen

    def _set_rate(self, rate: float) -> None:
        self.rate = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _make_replayable(self) -> None:
        """Let a recorded step of the optimizer read its learning rate on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
            group["capturable"] = self.device.type == "cuda"

    def _train_mode(self, training: bool) -> None:
        if self.policy.has_modes:
            self.policy.train(training)

    def backward(self, micro: Rollouts, sampling: Sampling, denominators: Denominators, step: int,
                 ) -> tuple[Scores, Losses]:
        """Add a micro-batch's gradients to the accumulated ones."""
        with matmul_dtype(self.config.dtype, self.device):
            scores = self.score(micro, sampling)
            parts = self.losses(scores, micro, denominators, step)
        parts["loss"].backward()
        return scores, parts

    @torch.no_grad()
    def evaluate(self, batch: list[Rollouts], step: int, sampling: Sampling) -> Losses:
        """The losses of a batch, without gradients."""
        denominators = self.denominators(batch)
        losses: Losses = {}
        for micro in batch:
            with matmul_dtype(self.config.dtype, self.device):
                parts = self.losses(self.score(micro, sampling), micro, denominators, step)
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value
        return {name: all_reduce_sum(value) for name, value in losses.items()}

    def score(self, micro: Rollouts, sampling: Sampling) -> Scores:
        """The scores of a micro-batch under the distribution of its round; `sampling`, where an
        earlier version has saved a round that does not say which.
        """
        gold = micro.problems.thought if self.learns_from_gold else None
        return self.policy.score(micro, micro.under or sampling, gold)

    def denominators(self, batch: list[Rollouts]) -> Denominators:
        """The denominators of a whole optimizer step, over all micro-batches and processes."""
        def total(values: list[Tensor]) -> Tensor:
            live = [value if not micro.placeholder else 0 * value
                    for micro, value in zip(batch, values, strict=True)]
            return all_reduce_sum(torch.stack(live).sum()).clamp_min(1)

        if self.learns_from_gold:
            rows = [torch.full((), len(micro.problems), device=self.device) for micro in batch]
        elif self.policy.answers_in_text:
            rows = [(micro.mask[:, :-1].sum(1) * _weight(micro)).sum() for micro in batch]
        else:
            rows = [_weight(micro).sum() for micro in batch]
        return Denominators(total([self.strategy.count(micro) for micro in batch]),
                            total([micro.learn.sum() for micro in batch]), total(rows))

    def losses(self, scores: Scores, micro: Rollouts, denominators: Denominators, step: int,
               ) -> Losses:
        r"""The strategy's loss of the thinker, minus its entropy bonus, plus the answerer's loss:

        .. math:: L = L_\mathrm{strategy} - \beta H - \frac{1}{N} \sum_i w_i \log p(a_i)

        Its gradient is the score-function estimate for what was sampled and the ordinary gradient
        for what is differentiable. Placeholder micro-batches have losses of 0.
        """
        weight = torch.ones_like(scores.answer) if self.learns_from_gold else _weight(micro)
        losses = self.strategy.loss(scores, micro, denominators.credit, step)
        answer = -(weight * scores.answer).sum() / denominators.answers
        entropy = (scores.entropy * micro.learn).sum() / denominators.tokens
        bonus = self.entropy(step)
        loss = losses["thinker_loss"] + answer
        loss = loss - bonus * entropy if bonus else loss
        found = {"loss": loss, **losses, "answer_loss": answer, "thought_entropy": entropy}
        return {name: 0 * value for name, value in found.items()} if micro.placeholder else found

    def clip(self) -> Tensor:
        """Clip the gradient of each network by itself. Returns the norm over all (0-dim)."""
        limit = self.config.grad_clip or math.inf
        norms = [full_norm(nn.utils.clip_grad_norm_(net, limit)) for net in self.networks]
        return torch.stack(norms).square().sum().sqrt()

    def state(self) -> dict[str, Any]:
        """The optimizer, the strategy, and the modules that a checkpoint does not hold as models.

        With sharded weights every process must call this; the main one gets full tensors.
        """
        extras = full_state_dict(
            self.policy, lambda name: not name.startswith(("thinker.", "answerer.")))
        optimizer = self.optimizer.state_dict()
        for group in optimizer.get("param_groups", []):
            if isinstance(group["lr"], Tensor):  # of `_make_replayable`
                group.update(lr=self.rate, capturable=False)
        return {"optimizer": full_tensors(optimizer), "strategy": self.strategy.state(),
                "extras": extras}

    def load(self, state: dict[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"])
        if self.graphs.on:
            self._make_replayable()
        self.strategy.load(state["strategy"])
        self.policy.load_state_dict(shard_state_dict(self.policy, state["extras"]), strict=False)


def _weight(rollouts: Rollouts) -> Tensor:
    assert rollouts.weight is not None
    return rollouts.weight


# --- optimizers ----------------------------------------------------------------------------------

def build_optimizer(config: TrainerConfig, policy: nn.Module,
                    ) -> torch.optim.Optimizer | CombinedOptimizer:
    """AdamW for all weights that learn; with `trainer.optimizer=muon`, Muon for the matrices of
    hidden blocks and AdamW for the rest. The same learning rate serves either.
    """
    named = [(name, weight) for name, weight in policy.named_parameters() if weight.requires_grad]
    if config.optimizer == "adamw":
        return _adamw(config, [weight for _, weight in named], config.weight_decay)
    hidden = [weight for name, weight in named
              if weight.dim() == 2 and not any(word in name for word in NOT_HIDDEN)]
    known = {id(weight) for weight in hidden}
    rest = [weight for _, weight in named if id(weight) not in known]
    muon = [torch.optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay,
                             adjust_lr_fn="match_rms_adamw")] if hidden else []
    return CombinedOptimizer([*muon, *([_adamw(config, rest, 0.0)] if rest else [])])


def _adamw(config: TrainerConfig, weights: list[nn.Parameter], decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(weights, lr=config.lr, betas=(0.9, config.beta2), weight_decay=decay,
                             fused=True)


class CombinedOptimizer:
    """Several optimizers as one, each with weights of its own.

    Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, so
    that all directions are learnt equally fast, scaled to steps as large as AdamW's (Liu et al.
    2025).
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}


def load_optimizer(optimizer: torch.optim.Optimizer | CombinedOptimizer,
                   saved: dict[str, Any]) -> None:
    """Restore an optimizer's state from its `state_dict`, sharded where its weights are."""
    if isinstance(optimizer, CombinedOptimizer):
        for number, part in enumerate(optimizer.parts):
            load_optimizer(part, saved[str(number)])
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {number: dict(_moments_of(weights[number], known))
               for number, known in saved["state"].items()}
    optimizer.load_state_dict({**saved, "state": moments})


def _moments_of(weight: Tensor, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in known.items():
        yield name, value.clone() if name == "step" else shard_like(weight, value)


def learning_rate_share(config: TrainerConfig, step: int, end: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then the decay until `end`.

    wsd: warm-up, stable, decay (Hu et al. 2024); `end` moves forward once a search has settled.
    """
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    done = min(1.0, step / max(end, 1))
    if config.lr_decay == "linear":
        return warm * max(config.lr_end, 1 - done)
    if config.lr_decay == "cosine":
        return warm * (config.lr_end + (1 - config.lr_end) * (1 + math.cos(math.pi * done)) / 2)
    if config.lr_decay == "wsd":
        return warm * min(1.0, max(config.lr_end, (end - step) / config.cooldown))
    return warm
