"""The training loop: sample, reward, give credit, learn, repeat. It knows no strategy's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ponder.config.errors import EngineFailed
from ponder.config.running import TrainerConfig
from ponder.core.distributed import full_parameters, is_distributed
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, renamed
from ponder.models.policies.base import Policy
from ponder.rewards.answers import Reward
from ponder.rollouts import Source
from ponder.strategies.base import Losses
from ponder.tasks.base import Task
from ponder.training.collector import Collector, StopRequested, minibatches, teaches
from ponder.training.learner import Learner, learning_rate_share

Metrics = dict[str, float]
# Rounds in a row without a step, after which a run without a last round ends. Weights stay the same
# in them, so they are draws from one distribution: where a round has something to learn from with a
# probability of 0.26 or more, 10 in vain have one of less than 0.05.
IN_VAIN = 10
# Fields that had another name in checkpoints of earlier versions.
RENAMED = {"owed": "validation_pending", "bad": "skipped_in_a_row", "begun": "first_step",
           "done": "steps_done", "over": "finished", "shuffle": "generator_state"}


@dataclass
class Progress:
    """Where a run stands.

    seconds counts training alone: no evaluation, logging or saving. validated: the step of the last
    evaluation. validation_pending: one was interrupted and has to be repeated. skipped_in_a_row:
    steps in a row whose loss or gradient was not finite. in_vain: rounds in a row without a step.
    """

    step: int = 0
    epoch: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    accuracy: float | None = None
    validated: int = -1
    validation_pending: bool = False
    skipped_in_a_row: int = 0
    in_vain: int = 0


@dataclass
class Round:
    """The rollouts that are being learnt from, and how many optimizer steps they have given.

    generator_state: of the generator before their first minibatch was drawn, so that a resumed run
    draws the same ones. first_step: the step at which the round began. finished: the strategy wants
    no more steps.
    """

    rollouts: Rollouts
    generator_state: Tensor
    first_step: int = 0
    steps_done: int = 0
    finished: bool = False


@dataclass
class Hooks:
    """What the loop calls when something is due.

    `validate` returns the accuracy, or None where none is measured. `skipped` gets the batch of a
    step that was not finite. `stop_requested` says whether the run should end. `empty` gets the
    number of rollouts of a round from which nothing can be learnt.
    """

    log: Callable[[Progress, Metrics], None]
    validate: Callable[[Progress], float | None]
    save: Callable[[Progress], None]
    skipped: Callable[[Progress, list[Rollouts]], None] = lambda progress, batch: None
    stop_requested: Callable[[], bool] = lambda: False
    empty: Callable[[int], None] = lambda rollouts: None


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
                                   self.learner.strategy, self.tokens_per_rollout, self.generator,
                                   self.scored_under, graphs=self.learner.graphs)
        self.round: Round | None = None
        self.recent: dict[str, Tensor] = {}

    def scored_under(self, step: int) -> Sampling:
        """The distribution that log-probabilities of a round are of, which begins at a step."""
        return self.source.sampling(step)

    # --- the loop -------------------------------------------------------------------------------

    def fit(self, hooks: Hooks) -> Progress:
        """Train until a limit is reached or a stop is requested; save in either case, and where
        the engine that writes texts has failed.
        """
        try:
            self._validate_first(hooks)
            while not (self.finished() or hooks.stop_requested()):
                self.round = self.round or self._begin_round(hooks)
                self._learn(self.round, hooks)
                if self._whole(self.round) if self.finished() else not hooks.stop_requested():
                    self._end_round(hooks)
            if self.finished() and self.progress.validated != self.progress.step:
                self._validate(hooks)
        except StopRequested:
            pass
        except EngineFailed:
            if not is_distributed():  # saving is the work of all processes
                self._save(hooks)
            raise
        self._save(hooks)
        return self.progress

    def _validate_first(self, hooks: Hooks) -> None:
        """Validate before the first step, or repeat a validation that was interrupted."""
        progress = self.progress
        first = not (self.config.skip_first_validation_loop or progress.step or self.round
                     or progress.validated == 0)
        if first or progress.validation_pending:
            self._validate(hooks)

    def _whole(self, current: Round) -> bool:
        """Whether all steps of a round are taken. The rest of one that is cut by a limit is taken
        by a run that goes on with a higher one.
        """
        return current.finished or current.steps_done >= self._steps_of(current)

    def _begin_round(self, hooks: Hooks) -> Round:
        started, before = time.perf_counter(), self.progress.rollouts
        rollouts = self.collect()
        if self.config.learns and self.task.epoch_size is not None and not teaches(
                rollouts, self.policy):
            hooks.empty(self.progress.rollouts - before)
        if self.config.reset_model_every_epoch:
            self.learner.reset()
        self.progress.seconds += time.perf_counter() - started
        return Round(rollouts, self.generator.get_state(), self.progress.step)

    def _learn(self, current: Round, hooks: Hooks) -> None:
        """Take the remaining steps of a round, or as many as the limits allow."""
        progress, started = self.progress, time.perf_counter()
        for batch in self.remaining(current):
            losses = self.step(batch)
            current.steps_done += 1
            current.finished = self.learner.strategy.enough(losses)
            progress.seconds += time.perf_counter() - started
            self._after_step(hooks, batch, losses)
            started = time.perf_counter()
            if self.finished() or hooks.stop_requested():
                break
        progress.seconds += time.perf_counter() - started

    def _save(self, hooks: Hooks) -> None:
        hooks.save(self.progress)

    def _end_round(self, hooks: Hooks) -> None:
        """Count the round; validate and save where a round is a whole data set."""
        config, progress, current = self.config, self.progress, self.round
        begun = progress.step if current is None else current.first_step
        progress.in_vain = 0 if progress.step > begun else progress.in_vain + 1
        self.round = None
        progress.epoch += 1
        if self.task.epoch_size is not None:
            due = progress.epoch % config.val_every_n_epochs == 0
            if due and progress.validated != progress.step:
                self._validate(hooks)
            if not self.finished():
                hooks.save(progress)

    def finished(self) -> bool:
        """Whether the limit of steps, rounds or accuracy is reached, or none ever will be."""
        config, progress = self.config, self.progress
        accurate = (config.target_accuracy is not None and progress.accuracy is not None
                    and progress.accuracy >= config.target_accuracy)
        rounds = config.max_epochs is not None and progress.epoch >= config.max_epochs
        return progress.step >= self.end or rounds or accurate or self.hopeless

    @property
    def hopeless(self) -> bool:
        """Whether so many rounds taught nothing that a run without a last one would not end."""
        config = self.config  # one that only collects is meant to go on
        return config.learns and config.max_epochs is None and self.progress.in_vain >= IN_VAIN

    def _after_step(self, hooks: Hooks, batch: list[Rollouts], losses: Losses) -> None:
        """Log, validate and save where they are due."""
        config, progress = self.config, self.progress
        due = progress.step % config.log_every_n_steps == 0 or progress.step == 1
        skipped = False
        if due or not self.learner.graphs.on:  # a look waits until the device has come so far
            skipped = bool(losses["skipped"])
            progress.skipped_in_a_row = int(self.learner.skipped) if skipped else 0
        if skipped or due:
            hooks.log(progress, self.metrics())
        if skipped:
            hooks.skipped(progress, batch)
        if progress.step % config.val_every_n_steps == 0:
            self._validate(hooks)
        due = config.save_every_n_steps and progress.step % config.save_every_n_steps == 0
        if due and not self.finished():
            hooks.save(progress)

    def _validate(self, hooks: Hooks) -> None:
        progress = self.progress
        if not self.config.do_eval:
            return
        progress.validation_pending = True
        progress.accuracy = hooks.validate(progress)
        progress.validated, progress.validation_pending = progress.step, False

    # --- one round ------------------------------------------------------------------------------

    def collect(self) -> Rollouts:
        """The rollouts of a round, with their credit."""
        rollouts, count = self.collector.collect(self.progress.step)
        self.progress.rollouts += count
        return rollouts

    def remaining(self, current: Round) -> Iterator[list[Rollouts]]:
        """The micro-batches of each optimizer step of a round that is still to be taken."""
        self.generator.set_state(current.generator_state)
        batches = minibatches(current.rollouts, self.config, self.generator)
        for number, batch in enumerate(batches):
            if number >= current.steps_done:
                if current.finished:
                    return
                yield batch

    def step(self, batch: list[Rollouts]) -> Losses:
        """One optimizer step at the scheduled learning rate."""
        config, progress = self.config, self.progress
        if config.lr_decay == "wsd":
            known, levels = self.collector.curriculum.known, config.curriculum != "none"
            if self.source.settled() or known:
                self.end = min(self.end, progress.step + config.cooldown)
            elif levels:  # training may have gone back to an easier level
                self.end = config.max_steps
        rate = config.lr * learning_rate_share(config, *self._schedule_position())
        losses = self.learner.step(batch, progress.step, rate, self.source)
        progress.step += 1
        if progress.step % self.refresh_every == 0:
            self.policy.refresh()
        self.recent = {**losses, **self.collector.metrics}
        return losses

    def _schedule_position(self) -> tuple[int, int]:
        """(step, last step) of the learning rate's schedule: those of the run, or those of a round
        where every round begins with the initial weights.
        """
        current = self.round
        if not self.config.reset_model_every_epoch or current is None:
            return self.progress.step, self.end
        return self.progress.step - current.first_step, self._steps_of(current)

    def _steps_of(self, current: Round) -> int:
        """Optimizer steps of a whole round."""
        count = -(-len(current.rollouts.problems) // self.config.per_step)
        return count * self.config.internal_epochs

    @property
    def expected_end(self) -> int | None:
        """The last step, if later rounds are as long as the present or earlier ones. None before
        the first round, where only the number of rounds is known.
        """
        rounds, current, progress = self.config.max_epochs, self.round, self.progress
        if rounds is None:
            return self.end
        if current is not None:
            ahead = self._steps_of(current) * (rounds - progress.epoch)
            return min(self.end, current.first_step + ahead)
        return min(self.end, progress.step * rounds // progress.epoch) if progress.epoch else None

    def losses_of(self, rollouts: Rollouts) -> Metrics:
        """The losses of rollouts from which nothing is learnt, as `val/<name>`."""
        kept, step = self.collector.metrics, self.progress.step
        with full_parameters(self.policy):
            try:
                rollouts = self.collector.credited(self.collector.rewarded(rollouts), step)
            finally:
                self.collector.metrics = kept
            numbers = torch.arange(len(rollouts.problems), device=self.device)
            batch = [rollouts[part] for part in numbers.split(self.config.train_batch_size)]
            losses = self.learner.evaluate(batch, step, self.source.sampling(step))
        return {f"val/{name}": float(value) for name, value in losses.items()}

    def metrics(self) -> Metrics:
        """Numbers of the last step and of the whole run so far."""
        progress = self.progress
        seconds = max(progress.seconds, 1e-9)
        return {**{name: float(value) for name, value in self.recent.items()},
                "lr": self.learner.rate, "epoch": progress.epoch,
                "last_step": self.expected_end or self.end, "seconds": progress.seconds,
                "steps_per_second": progress.step / seconds,
                "rollouts_per_second": progress.rollouts / seconds, **self.source.metrics(),
                **(self.collector.curriculum.metrics() if self.config.curriculum != "none" else {})}

    # --- resuming -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides how training continues, except the networks of a checkpoint."""
        single = self.collector.single
        return {"progress": asdict(self.progress), "learner": self.learner.state(),
                "source": self.source.state(), "generator": self.generator.get_state(),
                "end": self.end if self.end < self.config.max_steps else None,
                "noted": self.collector.metrics, "curriculum": self.collector.curriculum.state(),
                "single": None if single is None else asdict(single),
                "round": None if self.round is None else asdict(self.round)}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state`, also of an earlier version."""
        self.progress = Progress(**renamed(state["progress"], RENAMED))
        self.learner.load(state["learner"])
        self.learner.skipped.fill_(self.progress.skipped_in_a_row)
        self.source.load(state["source"])
        self.generator.set_state(state["generator"].cpu())
        self.end = min(state["end"] or self.config.max_steps, self.config.max_steps)
        self.collector.metrics = state["noted"]
        self.collector.curriculum.load(state.get("curriculum", {}))
        single = state["single"]
        self.collector.single = None if single is None else Problems.from_dict(single)
        if state["round"] is not None:
            saved = renamed(state["round"], RENAMED)
            saved["rollouts"] = Rollouts.from_dict(saved["rollouts"])
            saved["generator_state"] = saved["generator_state"].cpu()
            self.round = Round(**saved)
