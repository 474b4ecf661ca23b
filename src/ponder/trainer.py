"""The loop: sample, reward, credit, learn, repeat. It knows no strategy's name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ponder.config.running import TrainerConfig
from ponder.credit import flat_groups, some_tokens
from ponder.models.policy import Policy
from ponder.rewards import Reward
from ponder.rollout import Source
from ponder.schedule import Schedule, learning_rate_share
from ponder.strategies import Strategy
from ponder.tasks import Task
from ponder.types import Problems, Rollouts, Scores

Metrics = dict[str, float]


@dataclass
class Progress:
    """Where a run stands. seconds counts training alone: no evaluation, logging or saving."""

    step: int = 0
    epoch: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    accuracy: float | None = None


@dataclass
class Denominators:
    """What the losses of an optimizer step are divided by, each 0-dim: the strategy's own count,
    the tokens that learn, and the rows the answerer learns from."""

    credit: Tensor
    tokens: Tensor
    rows: Tensor


@dataclass
class Hooks:
    """What the loop calls when something is due; `validate` returns the accuracy."""

    log: Callable[[Progress, Metrics], None]
    validate: Callable[[Progress], float]
    save: Callable[[Progress], None]


@dataclass
class Trainer:
    """One loop for every strategy.

    An epoch is one round: collect rollouts, give credit, learn from them `internal_epochs` times.
    Denominators are those of the whole optimizer step, so micro-batches and accumulation never
    change the gradient.
    """

    config: TrainerConfig
    task: Task
    policy: Policy
    source: Source
    reward: Reward
    strategy: Strategy
    entropy: Schedule
    learns_from_gold: bool
    refresh_every: int
    tokens_per_rollout: int
    device: torch.device
    generator: torch.Generator
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        config = self.config
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, betas=(0.9, config.beta2),
            weight_decay=config.weight_decay, fused=True)
        policy = self.policy
        nets = [policy.thinker, policy.answerer, *([policy.critic] if policy.critic else [])]
        self.players = [list(net.parameters()) for net in dict.fromkeys(nets)]
        self.end = config.max_steps
        self.single: Problems | None = None
        self.recent: dict[str, Tensor] = {}
        self.round: dict[str, Tensor] = {}

    # --- the loop -------------------------------------------------------------------------------

    def fit(self, hooks: Hooks) -> Progress:
        """Train until a limit is reached; evaluate and save at the end in any case."""
        progress, config = self.progress, self.config
        while not self.finished():
            started = time.perf_counter()
            rollouts = self.collect()
            for batch in self.minibatches(rollouts):
                losses = self.step(batch)
                progress.seconds += time.perf_counter() - started
                self._due(hooks)
                started = time.perf_counter()
                if self.finished() or self.strategy.enough(losses):
                    break
            progress.epoch += 1
            progress.seconds += time.perf_counter() - started
        if progress.step == 0 or progress.step % config.val_every_n_steps:
            progress.accuracy = hooks.validate(progress)
        hooks.save(progress)
        return progress

    def finished(self) -> bool:
        config, progress = self.config, self.progress
        reached = (config.target_accuracy is not None and progress.accuracy is not None
                   and progress.accuracy >= config.target_accuracy)
        rounds = config.max_epochs is not None and progress.epoch >= config.max_epochs
        return progress.step >= self.end or rounds or reached

    def _due(self, hooks: Hooks) -> None:
        config, progress = self.config, self.progress
        if progress.step % config.log_every_n_steps == 0 or progress.step == 1:
            hooks.log(progress, self.metrics())
        if progress.step % config.val_every_n_steps == 0:
            progress.accuracy = hooks.validate(progress)
        if config.save_every_n_steps and progress.step % config.save_every_n_steps == 0:
            hooks.save(progress)

    # --- one round ------------------------------------------------------------------------------

    def collect(self) -> Rollouts:
        """Sample thoughts for a round of questions, reward them, give credit."""
        config, policy = self.config, self.policy
        per_step = config.train_batch_size * config.train_gradient_accumulation_steps
        problems = self._questions(config.gen_batch_size or per_step)
        with torch.autocast(self.device.type, torch.bfloat16, config.dtype == "bfloat16"):
            rollouts = self.source.collect(policy, problems, self.progress.step, self.generator)
            if self.strategy.needs_reward(rollouts.samples):
                rollouts = self.reward(policy, rollouts)
                self.round = {"reward": rollouts.total_reward.mean(), "flat_groups": flat_groups(
                    rollouts.total_reward, rollouts.samples).float().mean()}
            rollouts = policy.annotate(rollouts, self.source.sampling(self.progress.step))
        self.progress.rollouts += len(rollouts)
        rollouts = self.strategy.credit(rollouts, self.progress.step)
        rollouts.learn = some_tokens(rollouts.learn, self.tokens_per_rollout, self.generator)
        return rollouts

    def _questions(self, count: int) -> Problems:
        if self.single is not None:
            return self.single
        problems = self.task.sample(count, self.generator).to(self.device)
        if self.config.single_batch:
            self.single = problems
        return problems

    def minibatches(self, rollouts: Rollouts) -> Iterator[list[Rollouts]]:
        """Optimizer steps, each a list of micro-batches of whole groups."""
        config, count = self.config, len(rollouts.problems)
        per_step = config.train_batch_size * config.train_gradient_accumulation_steps
        for _ in range(config.internal_epochs):
            if count <= config.train_batch_size:
                yield [rollouts]
                continue
            order = torch.randperm(count, generator=self.generator).to(self.device)
            for start in range(0, count, per_step):
                rows = order[start:start + per_step]
                yield [rollouts[part] for part in rows.split(config.train_batch_size)]

    # --- one optimizer step ---------------------------------------------------------------------

    def step(self, batch: list[Rollouts]) -> dict[str, Tensor]:
        """Accumulate the micro-batches' gradients under common denominators; then one step."""
        self._set_lr()
        self.optimizer.zero_grad(set_to_none=True)
        whole = self.denominators(batch)
        losses: dict[str, Tensor] = {}
        for micro in batch:
            with torch.autocast(self.device.type, torch.bfloat16, self.config.dtype == "bfloat16"):
                scores = self.score(micro)
                parts = self.losses(scores, micro, whole)
            parts["loss"].backward()
            self.source.observe(self.policy, micro, scores)
            for name, value in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value.detach()
        losses["grad_norm"] = self._clip()
        self.optimizer.step()
        self.progress.step += 1
        if self.progress.step % self.refresh_every == 0:
            self.policy.refresh()
        self.recent = {**losses, **self.round}
        return losses

    def score(self, micro: Rollouts) -> Scores:
        gold = micro.problems.thought if self.learns_from_gold else None
        return self.policy.score(micro, self.source.sampling(self.progress.step), gold)

    def denominators(self, batch: list[Rollouts]) -> Denominators:
        """Those of the whole optimizer step."""
        def total(values: list[Tensor]) -> Tensor:
            return torch.stack(values).sum().clamp_min(1)

        if self.learns_from_gold:
            rows = [torch.tensor(len(micro.problems), device=self.device) for micro in batch]
        else:
            rows = [micro.weight.sum() for micro in batch if micro.weight is not None]
        return Denominators(total([self.strategy.count(micro) for micro in batch]),
                            total([micro.learn.sum() for micro in batch]), total(rows))

    def losses(self, scores: Scores, micro: Rollouts, whole: Denominators) -> dict[str, Tensor]:
        """Thinker's loss by the strategy, minus its entropy bonus, plus the answerer's likelihood.

        The sum is the score-function gradient for what was sampled and the ordinary one for what
        is differentiable.
        """
        assert micro.weight is not None
        weight = torch.ones_like(scores.answer) if self.learns_from_gold else micro.weight
        losses = self.strategy.loss(scores, micro, whole.credit, self.progress.step)
        answer = -(weight * scores.answer).sum() / whole.rows
        spread = (scores.entropy * micro.learn).sum() / whole.tokens
        bonus = self.entropy(self.progress.step)
        loss = losses["thinker_loss"] + answer
        loss = loss - bonus * spread if bonus else loss
        return {"loss": loss, **losses, "answer_loss": answer, "thought_entropy": spread}

    def _clip(self) -> Tensor:
        """Clip each player's gradient by itself; the norm over both (0-dim)."""
        limit = self.config.grad_clip or math.inf
        norms = [nn.utils.clip_grad_norm_(player, limit) for player in self.players]
        return torch.stack(norms).square().sum().sqrt()

    def _set_lr(self) -> None:
        config, step = self.config, self.progress.step
        if config.lr_decay == "wsd" and self.source.settled():
            self.end = min(self.end, step + config.cooldown)
        rate = config.lr * learning_rate_share(config, step, self.end)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def metrics(self) -> Metrics:
        """Numbers of the last step and of the whole run so far."""
        progress = self.progress
        seconds = max(progress.seconds, 1e-9)
        return {**{name: float(value) for name, value in self.recent.items()},
                "lr": self.optimizer.param_groups[0]["lr"], "epoch": progress.epoch,
                "seconds": progress.seconds, "steps_per_second": progress.step / seconds,
                "rollouts_per_second": progress.rollouts / seconds, **self.source.metrics()}
