"""The loop: sample, reward, credit, learn, repeat. It knows no strategy's name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ponder.config.running import TrainerConfig
from ponder.core.distributed import full_parameters
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.question import Policy
from ponder.rewards.answers import Reward
from ponder.rollouts.sampler import Source
from ponder.strategies.base import Losses
from ponder.tasks.base import Task
from ponder.training.collector import Collector, minibatches
from ponder.training.learner import Learner
from ponder.training.optimizers import learning_rate_share
from ponder.training.progress import Hooks, Metrics, Progress, Round, Stopped


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
        self.collector = Collector(self.config, self.task, self.source, self.reward, self.policy,
                                   self.learner.strategy, self.tokens_per_rollout, self.generator)
        self.round: Round | None = None
        self.recent: dict[str, Tensor] = {}

    # --- the loop -------------------------------------------------------------------------------

    def fit(self, hooks: Hooks) -> Progress:
        """Train until a limit is reached or somebody stops it; save in any case."""
        config, progress = self.config, self.progress
        first = not (config.skip_first_validation_loop or progress.step or self.round
                     or progress.validated == 0)
        try:
            if first or progress.owed:
                self._validate(hooks)
            while not (self.finished() or hooks.stopped()):
                if self.round is None:
                    self.round = self._begin_round()
                self._learn(self.round, hooks)
                if self.finished() or not hooks.stopped():
                    self._end_round(hooks)
            if self.finished() and progress.validated != progress.step:
                self._validate(hooks)
        except Stopped:
            pass
        self._save(hooks)
        return progress

    def _begin_round(self) -> Round:
        started = time.perf_counter()
        rollouts = self.collect()
        if self.config.reset_model_every_epoch:
            self.learner.reset()
        self.progress.seconds += time.perf_counter() - started
        return Round(rollouts, self.generator.get_state(), self.progress.step)

    def _learn(self, flight: Round, hooks: Hooks) -> None:
        """The steps of a round that are still to be done, or as many as there is time for."""
        progress, started = self.progress, time.perf_counter()
        for batch in self.remaining(flight):
            losses = self.step(batch)
            flight.done += 1
            flight.over = self.learner.strategy.enough(losses)
            progress.seconds += time.perf_counter() - started
            self._due(hooks, batch, losses)
            started = time.perf_counter()
            if self.finished() or hooks.stopped():
                break
        progress.seconds += time.perf_counter() - started

    def _save(self, hooks: Hooks) -> None:
        hooks.save(self.progress)

    def _end_round(self, hooks: Hooks) -> None:
        """A round that is a whole data set is looked at and saved."""
        config, progress = self.config, self.progress
        self.round = None
        progress.epoch += 1
        if self.task.epoch_size is not None:
            due = progress.epoch % config.val_every_n_epochs == 0
            if due and progress.validated != progress.step:
                self._validate(hooks)
            if not self.finished():
                hooks.save(progress)

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
        if not self.config.do_eval:
            return
        self.progress.owed = True
        self.progress.accuracy = hooks.validate(self.progress)
        self.progress.validated, self.progress.owed = self.progress.step, False

    # --- one round ------------------------------------------------------------------------------

    def collect(self) -> Rollouts:
        """The rollouts of a round, with their credit."""
        progress = self.progress
        rollouts, count = self.collector.collect(progress.step)
        progress.rollouts += count
        return rollouts

    def remaining(self, flight: Round) -> Iterator[list[Rollouts]]:
        """The optimizer steps of a round that are still to be done."""
        self.generator.set_state(flight.shuffle)
        batches = minibatches(flight.rollouts, self.config, self.generator)
        for number, batch in enumerate(batches):
            if number >= flight.done:
                if flight.over:
                    return
                yield batch

    def step(self, batch: list[Rollouts]) -> Losses:
        """One optimizer step at the learning rate of the moment."""
        config, progress = self.config, self.progress
        if config.lr_decay == "wsd" and self.source.settled():
            self.end = min(self.end, progress.step + config.cooldown)
        rate = config.lr * learning_rate_share(config, *self._course())
        losses = self.learner.step(batch, progress.step, rate, self.source.sampling(progress.step),
                                   self.source.observe)
        progress.step += 1
        if progress.step % self.refresh_every == 0:
            self.policy.refresh()
        self.recent = {**losses, **self.collector.noted}
        return losses

    def _course(self) -> tuple[int, int]:
        """How far the learning rate's course has come, and where it ends: a round where every
        round begins with the first weights, else the run.
        """
        flight, config = self.round, self.config
        if not config.reset_model_every_epoch or flight is None:
            return self.progress.step, self.end
        return self.progress.step - flight.begun, self._steps(flight)

    def _steps(self, flight: Round) -> int:
        """How many steps a round has."""
        count = -(-len(flight.rollouts.problems) // self.config.per_step)
        return count * self.config.internal_epochs

    @property
    def expected(self) -> int | None:
        """The last step, were all rounds as long as this or those before; None before the first."""
        rounds, flight, progress = self.config.max_epochs, self.round, self.progress
        if rounds is None:
            return self.end
        if flight is not None:
            return min(self.end, flight.begun + self._steps(flight) * (rounds - progress.epoch))
        return min(self.end, progress.step * rounds // progress.epoch) if progress.epoch else None

    def appraise(self, rollouts: Rollouts) -> Metrics:
        """The losses of rollouts from which nothing is learnt."""
        noted, step = self.collector.noted, self.progress.step
        with full_parameters(self.policy):
            rollouts = self.collector.credited(self.collector.rewarded(rollouts), step)
            self.collector.noted = noted
            numbers = torch.arange(len(rollouts.problems), device=self.device)
            batch = [rollouts[part] for part in numbers.split(self.config.train_batch_size)]
            losses = self.learner.look(batch, step, self.source.sampling(step))
        return {f"val/{name}": float(value) for name, value in losses.items()}

    def metrics(self) -> Metrics:
        """Numbers of the last step and of the whole run so far."""
        progress = self.progress
        seconds = max(progress.seconds, 1e-9)
        return {**{name: float(value) for name, value in self.recent.items()},
                "lr": self.learner.optimizer.param_groups[0]["lr"], "epoch": progress.epoch,
                "last_step": self.expected or self.end, "seconds": progress.seconds,
                "steps_per_second": progress.step / seconds,
                "rollouts_per_second": progress.rollouts / seconds, **self.source.metrics()}

    # --- going on later -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides how training goes on, but the networks a checkpoint holds."""
        return {"progress": asdict(self.progress), "learner": self.learner.state(),
                "source": self.source.state(), "generator": self.generator.get_state(),
                "end": self.end if self.end < self.config.max_steps else None,
                "noted": self.collector.noted,
                "single": None if self.collector.single is None else asdict(self.collector.single),
                "round": None if self.round is None else asdict(self.round)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.progress = Progress(**state["progress"])
        self.learner.load(state["learner"])
        self.source.load(state["source"])
        self.generator.set_state(state["generator"].cpu())
        self.end = min(state["end"] or self.config.max_steps, self.config.max_steps)
        self.collector.noted = state["noted"]
        single = state["single"]
        self.collector.single = None if single is None else Problems.from_dict(single)
        flight = state["round"]
        if flight is not None:
            flight["rollouts"] = Rollouts.from_dict(flight["rollouts"])
            flight["shuffle"] = flight["shuffle"].cpu()
            self.round = Round(**flight)
