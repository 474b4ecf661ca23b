"""The loop: sample, reward, credit, learn, repeat. It knows no strategy's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ponder.config.running import TrainerConfig
from ponder.credit import flat_groups, some_tokens
from ponder.learner import Learner
from ponder.models.policy import Policy
from ponder.rewards import Reward
from ponder.rollout import Source
from ponder.schedule import learning_rate_share
from ponder.strategies import Losses
from ponder.tasks import Task
from ponder.types import Problems, Rollouts

Metrics = dict[str, float]


@dataclass
class Progress:
    """Where a run stands. seconds counts training alone: no evaluation, logging or saving.

    validated is the step of the last evaluation, bad how many steps in a row were not finite.
    """

    step: int = 0
    epoch: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    accuracy: float | None = None
    validated: int = -1
    bad: int = 0


@dataclass
class Hooks:
    """What the loop calls when something is due; `validate` returns the accuracy.

    spoilt hears of a step that was not finite, with its batch; stopped says whether somebody has
    asked for an end.
    """

    log: Callable[[Progress, Metrics], None]
    validate: Callable[[Progress], float]
    save: Callable[[Progress], None]
    spoilt: Callable[[Progress, list[Rollouts]], None] = lambda progress, batch: None
    stopped: Callable[[], bool] = lambda: False


@dataclass
class Round:
    """Rollouts in flight: how many optimizer steps they have given, and whether that is enough.

    shuffle is the state of the generator before their first minibatch was drawn.
    """

    rollouts: Rollouts
    shuffle: Tensor
    done: int = 0
    over: bool = False


@dataclass
class Trainer:
    """One loop for every strategy.

    An epoch is one round: collect rollouts, give credit, learn from them `internal_epochs` times.
    """

    config: TrainerConfig
    task: Task
    source: Source
    reward: Reward
    learner: Learner
    refresh_every: int
    tokens_per_rollout: int
    generator: torch.Generator
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.policy: Policy = self.learner.policy
        self.device = self.learner.device
        self.end = self.config.max_steps
        self.single: Problems | None = None
        self.round: Round | None = None
        self.collected: dict[str, Tensor] = {}
        self.recent: dict[str, Tensor] = {}

    # --- the loop -------------------------------------------------------------------------------

    def fit(self, hooks: Hooks) -> Progress:
        """Train until a limit is reached or somebody stops it; save in any case."""
        progress = self.progress
        while not (self.finished() or hooks.stopped()):
            started = time.perf_counter()
            if self.round is None:
                rollouts = self.collect()
                self.round = Round(rollouts, self.generator.get_state())
            for batch in self.remaining(self.round):
                losses = self.step(batch)
                self.round.done += 1
                self.round.over = self.learner.strategy.enough(losses)
                progress.seconds += time.perf_counter() - started
                self._due(hooks, batch, losses)
                started = time.perf_counter()
                if self.finished() or hooks.stopped():
                    break
            if self.finished() or not hooks.stopped():
                self.round = None
                progress.epoch += 1
            progress.seconds += time.perf_counter() - started
        if self.finished() and progress.validated != progress.step:
            self._validate(hooks)
        hooks.save(progress)
        return progress

    def finished(self) -> bool:
        config, progress = self.config, self.progress
        reached = (config.target_accuracy is not None and progress.accuracy is not None
                   and progress.accuracy >= config.target_accuracy)
        rounds = config.max_epochs is not None and progress.epoch >= config.max_epochs
        return progress.step >= self.end or rounds or reached

    def _due(self, hooks: Hooks, batch: list[Rollouts], losses: Losses) -> None:
        config, progress = self.config, self.progress
        bad = bool(losses["skipped"])
        progress.bad = progress.bad + 1 if bad else 0
        if bad or progress.step % config.log_every_n_steps == 0 or progress.step == 1:
            hooks.log(progress, self.metrics())
        if bad:
            hooks.spoilt(progress, batch)
        if progress.step % config.val_every_n_steps == 0:
            self._validate(hooks)
        due = config.save_every_n_steps and progress.step % config.save_every_n_steps == 0
        if due and not self.finished():
            hooks.save(progress)

    def _validate(self, hooks: Hooks) -> None:
        self.progress.validated = self.progress.step
        self.progress.accuracy = hooks.validate(self.progress)

    # --- one round ------------------------------------------------------------------------------

    def collect(self) -> Rollouts:
        """Sample thoughts for a round of questions, reward them, give credit."""
        config, policy, strategy = self.config, self.policy, self.learner.strategy
        per_step = config.train_batch_size * config.train_gradient_accumulation_steps
        problems = self._questions(config.gen_batch_size or per_step)
        with torch.autocast(self.device.type, torch.bfloat16, config.dtype == "bfloat16"):
            rollouts = self.source.collect(policy, problems, self.progress.step, self.generator)
            if strategy.needs_reward(rollouts.samples):
                rollouts = self.reward(policy, rollouts)
                self.collected = {
                    "reward": rollouts.total_reward.mean(), "flat_groups": flat_groups(
                        rollouts.total_reward, rollouts.samples).float().mean()}
            rollouts = policy.annotate(rollouts, self.source.sampling(self.progress.step))
        self.progress.rollouts += len(rollouts)
        rollouts = strategy.credit(rollouts, self.progress.step)
        rollouts.learn = some_tokens(rollouts.learn, self.tokens_per_rollout, self.generator)
        return rollouts

    def _questions(self, count: int) -> Problems:
        if self.single is not None:
            return self.single
        problems = self.task.sample(count, self.generator).to(self.device)
        if self.config.single_batch:
            self.single = problems
        return problems

    def remaining(self, flight: Round) -> Iterator[list[Rollouts]]:
        """The optimizer steps of a round that are still to be done."""
        self.generator.set_state(flight.shuffle)
        for number, batch in enumerate(self.minibatches(flight.rollouts)):
            if number >= flight.done:
                if flight.over:
                    return
                yield batch

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

    def step(self, batch: list[Rollouts]) -> Losses:
        """One optimizer step at the learning rate of the moment."""
        config, progress = self.config, self.progress
        if config.lr_decay == "wsd" and self.source.settled():
            self.end = min(self.end, progress.step + config.cooldown)
        rate = config.lr * learning_rate_share(config, progress.step, self.end)
        losses = self.learner.step(batch, progress.step, rate, self.source.sampling(progress.step),
                                   self.source.observe)
        progress.step += 1
        if progress.step % self.refresh_every == 0:
            self.policy.refresh()
        self.recent = {**losses, **self.collected}
        return losses

    def metrics(self) -> Metrics:
        """Numbers of the last step and of the whole run so far."""
        progress = self.progress
        seconds = max(progress.seconds, 1e-9)
        return {**{name: float(value) for name, value in self.recent.items()},
                "lr": self.learner.optimizer.param_groups[0]["lr"], "epoch": progress.epoch,
                "seconds": progress.seconds, "steps_per_second": progress.step / seconds,
                "rollouts_per_second": progress.rollouts / seconds, **self.source.metrics()}

    # --- going on later -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides how training goes on, but the networks a checkpoint holds."""
        return {"progress": asdict(self.progress), "learner": self.learner.state(),
                "source": self.source.state(), "generator": self.generator.get_state(),
                "end": self.end if self.end < self.config.max_steps else None,
                "collected": self.collected,
                "single": None if self.single is None else asdict(self.single),
                "round": None if self.round is None else asdict(self.round)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.progress = Progress(**state["progress"])
        self.learner.load(state["learner"])
        self.source.load(state["source"])
        self.generator.set_state(state["generator"].cpu())
        self.end = min(state["end"] or self.config.max_steps, self.config.max_steps)
        self.collected = state["collected"]
        self.single = None if state["single"] is None else Problems(**state["single"])
        flight = state["round"]
        if flight is not None:
            problems = Problems(**flight["rollouts"].pop("problems"))
            flight["rollouts"] = Rollouts(problems, **flight["rollouts"])
            flight["shuffle"] = flight["shuffle"].cpu()
            self.round = Round(**flight)
