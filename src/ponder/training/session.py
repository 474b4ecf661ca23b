"""One training run and its directory: start or resume it, validate, save, stop and finish it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from ponder.config.checker import remarks
from ponder.config.errors import UserError, replacing, writing
from ponder.config.registry import STRATEGIES
from ponder.config.spine import Config, program
from ponder.config.spine import described as variants_in_words
from ponder.core.distributed import (
    all_gather,
    any_process,
    barrier,
    broadcast,
    full_parameters,
    full_state_dict,
    is_distributed,
    is_main_process,
    local_item,
)
from ponder.core.math import has_bfloat16, uses_bfloat16
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.choice import rows_of
from ponder.evaluation.question import Evaluation
from ponder.models.policies.base import Policy
from ponder.rollouts.search import described
from ponder.rollouts.written import Batch
from ponder.tasks.base import Task
from ponder.training import build as builders
from ponder.training import checkpoint, run_directory
from ponder.training.build_policies import place
from ponder.training.collector import StopRequested
from ponder.training.console import Plain, ProgressReporter, build_console
from ponder.training.diagnostics import RunWarnings, summarise, verdict
from ponder.training.log import Log, NoLog, RolloutLog
from ponder.training.signals import ORDER, Signals
from ponder.training.trackers import TrackedRun, build_tracker
from ponder.training.trainer import Hooks, Metrics, Progress, Trainer

SHOWN_ROLLOUTS = 5


class Session:
    """Builds everything a run needs, and resumes where the directory has a checkpoint of it."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config, self.directory = config, directory
        with contextlib.ExitStack() as opened:  # closed here where building fails
            self._build(config, directory, opened)
            self._opened = opened.pop_all()

    def _build(self, config: Config, directory: Path, opened: contextlib.ExitStack) -> None:
        """Make the parts in the order in which they need each other; what must be closed goes onto
        `opened`.
        """
        self.stop_requested: Callable[[], bool] = lambda: False
        self.device = builders.build_device(config)
        self.console: Plain = build_console(bar=True)
        opened.callback(self.console.close)
        reporter = ProgressReporter(self.console, self._pause)
        self.task: Task = builders.build_task(config)
        self.test = self.task.test().to(self.device)
        self.inputs: dict[str, str] = broadcast(
            builders.inputs_of(config, self.test) if is_main_process() else {})
        notes: list[str] = []
        saved = self._saved(notes.append)
        self.policy: Policy = place(
            config, builders.build_policy(config, self.task, reporter.scoring), self.device)
        builders.use_threads(config, self.policy)
        self.engine = builders.build_engine(config)
        opened.callback(self.engine.close)
        self.trainer: Trainer = builders.build_trainer(
            config, self.task, self.policy, self.device,
            ProgressReporter(self.console, self._pause, self._log_rollouts), self.engine,
            notes.append)
        length = self._start_or_resume(saved, notes.append)
        self.log = self._open_log(length)
        opened.callback(self.log.close)
        self.rollout_log = self._rollout_log()
        self.evaluation: Evaluation | None = None
        self.evaluate = builders.build_evaluation(config, self.policy, self.task, self.test,
                                                  reporter, self.trainer.collector.reward,
                                                  self.engine)
        self.val_rollouts = builders.build_val_rollouts(config, self.policy, self.task, reporter)
        self.warnings = self._warnings()
        self.end = self.trainer.end
        self._describe(notes)
        of_training = (*self.task.remarks, *remarks(config))
        for line in (*self.task.doubts, *(of_training * (config.action == "train"))):
            self.warnings.say(line, line)

    # --- start ----------------------------------------------------------------------------------

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary of a run that has ended already, else None."""
        path = self.directory / "summary.json"
        begun = self.trainer.progress.step or self.trainer.progress.epoch
        if not (path.is_file() and begun and self.trainer.finished()):
            return None
        return json.loads(path.read_text())

    def _saved(self, note: Callable[[str], None]) -> checkpoint.Saved | None:
        """The checkpoint to resume, if `resume` says so and there is one. Raises `UserError` where
        it belongs to another run.
        """
        found = self.config.resume != "never" and is_main_process()
        saved = broadcast(checkpoint.newest(self.directory, note) if found else None)
        if saved is not None:
            run_directory.same_run(saved.path, asdict(self.config), self.inputs, note)
        return saved

    def _start_or_resume(self, saved: checkpoint.Saved | None,
                         note: Callable[[str], None]) -> int:
        """Resume the run of a checkpoint; without one, clear the directory where `resume` says so
        (now that the model is loaded, which may be from there), and try whether a checkpoint can be
        saved. Returns the length of its log.
        """
        if self.config.resume == "never" and is_main_process():
            run_directory.clear(self.directory)
        barrier()
        length, model = 0 if saved is None else self._resume(saved, note), self.config.model
        if saved is None and model.kind == "hf" and self.config.action == "train":
            checkpoint.attempt(self.policy, self.directory, f"model.name={model.name}")
        barrier()
        if is_main_process():
            with writing(self.directory):
                run_directory.save_command(self.directory)
                if self.done is None:  # a longer run continues: its old summary is no end
                    (self.directory / "summary.json").unlink(missing_ok=True)
        return length

    def _resume(self, saved: checkpoint.Saved, note: Callable[[str], None]) -> int:
        """Restore a checkpoint of this run. Returns the length of its log then, in bytes."""
        checkpoint.restore(self.policy, saved.path)
        state = saved.state(self.device)
        self.trainer.load(state["trainer"])
        random = state["random"]  # earlier versions saved one state for all processes
        torch.set_rng_state(local_item(random).cpu() if isinstance(random, list) else random.cpu())
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(local_item(state["random_cuda"]).cpu())
        note(f"going on from step {saved.step} ({saved.path})")
        return state["log_length"]

    def _open_log(self, length: int) -> Log:
        """The run's log; processes other than the main one write nothing."""
        if not is_main_process():
            return NoLog()
        config = self.config
        run = TrackedRun(self.directory, asdict(config), self.trainer.progress.step, length)
        return Log(self.directory, build_tracker(config.logger, run, self.console.note), length)

    def _log_rollouts(self, batch: Batch) -> None:
        if self.rollout_log is not None:
            self.rollout_log.add(batch)

    def _rollout_log(self) -> RolloutLog | None:
        """The tables of sampled rollouts, where the policy writes texts that answer questions."""
        policy, task = cast(Any, self.policy), cast(Any, self.task)
        if task.policy_kind != "choice":
            return None
        return RolloutLog(self.log, lambda: self.trainer.progress.epoch,
                          functools.partial(rows_of, policy, task))

    def _pause(self) -> None:
        """Interrupt sampling and scoring where a stop was requested; the cache keeps what is
        complete. Several processes stop only between steps, all together.
        """
        if not is_distributed() and self.stop_requested():
            raise StopRequested

    def _warnings(self) -> RunWarnings:
        config = self.config
        thoughts = config.thinker.vocabulary if config.thinker.apart else 0
        explores = bool(config.rollout.kind == "sample" and not config.thinker.flows and thoughts
                        and STRATEGIES[config.strategy.name].target.thoughts == "sampled")
        answers = self.task.unit == "questions"
        return RunWarnings(thoughts, explores, self.console.note,
                           advice="; try variant blind, or reward=gain" if answers else "",
                           chance=guessing_accuracy(self.test) if answers else None)

    def _describe(self, notes: list[str]) -> None:
        """Say what is trained, and what happened while it was opened."""
        config, device = self.config, self.device
        parameters = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        half = uses_bfloat16(config.trainer.dtype, device)
        self.console.note(variants_in_words(config))
        self.console.note(f"{self.directory}: {parameters:,} parameters, {len(self.test)} held-out "
                          f"{self.task.unit}, on {device}{', in bfloat16' if half else ''}")
        if config.rollout.kind == "search" and config.action == "train":
            self.console.note(described(config, self.task.labels))
        if half and not has_bfloat16(device):
            self.console.note("trainer.dtype=bfloat16: this processor has no units for it and is "
                              "faster in float32, which trainer.dtype=auto would take")
        for line in notes:
            self.console.note(line)

    # --- what the loop calls --------------------------------------------------------------------

    def train(self, signals: Signals) -> bool:
        """Train to the end, or until the first signal. Returns whether it was the end."""
        self.rollout_log = self._rollout_log()  # a round that was interrupted is sampled anew
        self.stop_on(signals)
        self.trainer.fit(Hooks(self.log_metrics, self.validate, self.save, self.keep_skipped,
                               self.stop_requested, self._empty))
        if self.trainer.hopeless:
            self.warnings.in_vain(self.trainer.progress.in_vain, self.trainer.progress.step)
        stopped = self.stop_requested()
        if stopped:
            signals.caught = strongest_signal(signals)
            self.console.close()
            self.console.note(f"stopped at step {self.trainer.progress.step}; to go on: "
                              f"{program()} resume={self.directory}")
        return not stopped

    def _empty(self, rollouts: int) -> None:
        self.warnings.empty(self.config.strategy.name, rollouts)

    def stop_on(self, signals: Signals) -> None:
        """Stop training cleanly when one of these signals arrives in any process."""
        self.stop_requested = lambda: any_process(signals.caught is not None)

    def log_metrics(self, progress: Progress, metrics: Metrics) -> None:
        """Write and show the numbers of a step; warn where they are a bad sign."""
        self.log.write(progress.step, metrics)
        if self.trainer.end < self.end:
            settled = self.trainer.source.settled()
            self.console.note(f"{'the search has settled' if settled else 'all levels are known'}: "
                              "the learning rate now decays, and the run ends at step "
                              f"{self.trainer.end} instead of {self.end} (trainer.lr_decay=wsd)")
            self.end = self.trainer.end
        self.console.update(progress.step, self.trainer.expected_end, metrics)
        self.warnings.update(metrics, progress.step)

    def validate(self, progress: Progress) -> float | None:
        """Evaluate held-out questions, and the losses of `trainer.preload_data_for_val`."""
        trainer, name = self.config.trainer, f"val_{progress.step}"
        losses = {} if self.val_rollouts is None else self.trainer.losses_of(self.val_rollouts)
        if trainer.keep_evaluated:
            weights = checkpoint.saved_weights(self.policy)
            if is_main_process():
                checkpoint.save(self.policy, self.directory / name / "eval_model_checkpoint",
                                asdict(self.config), weights=weights)
        if not trainer.do_acc_eval:
            if losses:
                self.log_metrics(progress, losses)
            return None
        with full_parameters(self.policy):
            self.evaluation = self.evaluate()
        found = self.evaluation
        self.log_metrics(progress, {"epoch": progress.epoch, **losses, **found.metrics})
        self.log.table(progress.step, found.rows)
        self.console.samples([f"{row['question']}{row.get('thought', '')}"
                              f"{row['answer']}" for row in found.rows[:SHOWN_ROLLOUTS]])
        return found.metrics["accuracy"]

    def save(self, progress: Progress) -> None:
        """Write a checkpoint of the networks and the training state, and delete old ones."""
        weights = checkpoint.saved_weights(self.policy)
        cuda = torch.cuda.is_available()
        state = {"trainer": self.trainer.state(), "log_length": self.log.sync(),
                 "random": all_gather(torch.get_rng_state()),
                 "random_cuda": all_gather(torch.cuda.get_rng_state()) if cuda else []}
        if not is_main_process():
            return
        epoch = progress.epoch + (self.trainer.round is not None)  # the one that has begun
        checkpoint.save(self.policy, self.directory / f"checkpoint_{epoch}", asdict(self.config),
                        state, {"step": progress.step, "epoch": epoch,
                                "accuracy": progress.accuracy, "inputs": self.inputs}, weights)
        checkpoint.prune(self.directory, self.config.trainer.keep_checkpoints)

    def keep_skipped(self, progress: Progress, batch: list[Rollouts]) -> None:
        """Keep a batch whose loss or gradient was not finite.

        Raises `UserError` after `trainer.max_bad_steps` of them in a row.
        """
        path = self.directory / f"bad_{progress.step}" / "rollouts.pt"
        parts = all_gather([asdict(micro) for micro in batch])
        if is_main_process():
            content = io.BytesIO()  # as torch's own errors do not say that the disk is full
            torch.save([micro for part in parts for micro in part], content)
            with writing(path), replacing(path) as temporary:
                temporary.write_bytes(content.getvalue())
        self.console.note(f"step {progress.step} was skipped: its loss or gradient is not finite; "
                          f"its batch is in {path}")
        if progress.skipped_in_a_row >= self.config.trainer.max_bad_steps:
            raise UserError(f"trainer.max_bad_steps={progress.skipped_in_a_row}: found so many "
                            f"steps in a row that are not finite, up to step {progress.step}; the "
                            f"batches are in {self.directory}/bad_*; legal: a lower trainer.lr, a "
                            "finite reward, trainer.dtype=float32")

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End the display and close the log."""
        self._opened.close()

    def finish(self, write_report: Callable[[Path, dict[str, Any], dict[str, Any]], None],
               ) -> float | None:
        """Evaluate unless that was done at this step, write the report, and `summary.json` last.
        Returns the accuracy.
        """
        progress, trainer = self.trainer.progress, self.config.trainer
        with full_parameters(self.policy):
            found = self.evaluation or (
                self.evaluate() if trainer.do_eval and trainer.do_acc_eval
                else Evaluation({}, []))
        self.engine.close()  # which has begun again where texts were written now
        weights = full_state_dict(self.policy)
        if not is_main_process():
            return found.metrics.get("accuracy")
        summary = {**summarise(self.config, self.directory, self.policy, found, weights),
                   "inputs": self.inputs, "warnings": [*self.warnings.given.values()],
                   "steps": progress.step, "seconds": progress.seconds,
                   "rollouts_per_second": progress.rollouts / max(progress.seconds, 1e-9)}
        with writing(self.directory):
            write_report(self.directory, summary, asdict(self.config))
            checkpoint.write_json(self.directory / "summary.json", summary)
        print(f"{verdict(found)} after {progress.step} steps, {progress.seconds:.0f} s of "
              f"training; results: {self.directory}/report.html")
        return summary["accuracy"]


def strongest_signal(signals: Signals) -> int | None:
    """The most important signal that any process has caught, the same in each."""
    return next((number for number in ORDER if any_process(signals.caught == number)), None)


def guessing_accuracy(problems: Problems) -> float:
    """The accuracy of always giving the most frequent answer."""
    counts = problems.answer.unique(dim=0, return_counts=True)[1]
    return float(counts.max() / counts.sum())
