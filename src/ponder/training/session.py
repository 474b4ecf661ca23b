"""One training run and its directory: begun or gone on with, looked at, saved, stopped, ended."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ponder.config.errors import UserError
from ponder.config.spine import Config, program
from ponder.core.distributed import (
    all_gather,
    any_process,
    barrier,
    full_parameters,
    full_state_dict,
    is_distributed,
    is_main_process,
    local_item,
)
from ponder.core.math import has_bfloat16, uses_bfloat16
from ponder.core.types import Rollouts
from ponder.evaluation.choice import rows_of
from ponder.evaluation.question import Evaluation
from ponder.models.policies.choice import TextPolicy
from ponder.models.policies.question import Policy
from ponder.rollouts.sampler import Source
from ponder.tasks.base import Task
from ponder.tasks.choice.qa import Qa
from ponder.training import checkpoint, resume
from ponder.training.build import run as builders
from ponder.training.build.networks import place
from ponder.training.console import Plain, build_console
from ponder.training.progress import Hooks, Metrics, Progress, Stopped
from ponder.training.rollout_log import Scribe
from ponder.training.run_lock import hold
from ponder.training.signals import ORDER, Signals
from ponder.training.summary import summarise, verdict
from ponder.training.trackers import Log, Nowhere, build_mirror
from ponder.training.trainer import Trainer
from ponder.training.watch import Watch

SHOWN_ROLLOUTS = 5


def loudest(signals: Signals) -> int | None:
    """The signal that counts, of those that the processes have caught: the same in each."""
    return next((number for number in ORDER if any_process(signals.caught == number)), None)


class Session:
    """Builds everything, and goes on where a checkpoint of the same run was left."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config, self.directory = config, directory
        self.held = hold(directory) if is_main_process() else None
        self.stopped: Callable[[], bool] = lambda: False
        self.device = builders.build_device(config)
        self.task: Task = builders.build_task(config)
        self.test = self.task.test().to(self.device)
        self.policy: Policy = place(config, builders.build_policy(config, self.task),
                                          self.device)
        builders.use_threads(config, self.policy)
        self.trainer: Trainer = builders.build_trainer(config, self.task, self.policy, self.device)
        notes: list[str] = []
        length = self._begin(notes.append)
        self.log = self._open_log(length)
        self.console: Plain = build_console(config.trainer.max_steps)
        self.found: Evaluation | None = None
        self.evaluate = builders.build_evaluation(config, self.policy, self.task, self.test,
                                               self._follow)
        self.val = builders.build_val_rollouts(config, self.policy, self.task)
        self._follow(self.trainer.source)
        sampled = (config.rollout.kind == "sample" and not config.thinker.flows
                   and config.strategy.name not in ("sft", "exact"))
        thoughts = config.thinker.vocabulary if config.thinker.tokens else 0
        self.watch = Watch(thoughts, sampled and thoughts > 0, self.console.note)
        if config.task.name == "text":
            self.watch.advice = ""
        parameters = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        kind = {"text": "passages", "corpus": "prompts"}.get(config.task.name, "questions")
        half = ", in bfloat16" if uses_bfloat16(config.trainer.dtype, self.device) else ""
        self.console.note(f"{directory}: {parameters:,} parameters, {len(self.test)} held-out "
                          f"{kind}, on {self.device}{half}")
        if half and not has_bfloat16(self.device):
            self.console.note("trainer.dtype=bfloat16: this processor has no units for it and is "
                              "faster in float32, which trainer.dtype=auto would take")
        for line in notes:
            self.console.note(line)

    def _open_log(self, length: int) -> Log:
        """The run's log; of processes that follow one that nobody reads."""
        if not is_main_process():
            return Log(Path(tempfile.mkdtemp()), Nowhere())
        config, directory = self.config, self.directory
        mirror = build_mirror(config.logger, directory, asdict(config), self.trainer.progress.step)
        return Log(directory, mirror, length)

    def _follow(self, source: Source) -> None:
        """Put on disk and show what a source of texts writes."""
        rows = None
        if isinstance(self.policy, TextPolicy) and isinstance(self.task, Qa):
            rows = functools.partial(rows_of, self.policy, self.task)
        Scribe(self.log, self.console, self.trainer.progress, self._pause, rows).follow(
            source, self.policy)

    def _pause(self) -> None:
        """Writing and reading end where an end was asked for: what is whole is in the cache."""
        if not is_distributed() and self.stopped():  # several only stop where all are
            raise Stopped

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary of a run that has ended already, else None."""
        path = self.directory / "summary.json"
        begun = self.trainer.progress.step or self.trainer.progress.epoch
        if not (path.is_file() and begun and self.trainer.finished()):
            return None
        return json.loads(path.read_text())

    def _begin(self, note: Callable[[str], None]) -> int:
        """Clear the directory or go on with its run, as `resume` says; the length of its log."""
        if self.config.resume == "never" and is_main_process():
            resume.clear(self.directory)
        barrier()
        saved = resume.newest(self.directory, note)
        length = 0 if saved is None else self._go_on(saved, note)
        barrier()
        if is_main_process():
            resume.remember_words(self.directory)
        if is_main_process() and self.done is None:  # a longer run goes on: what is there is no end
            (self.directory / "summary.json").unlink(missing_ok=True)
        return length

    def _go_on(self, saved: resume.Saved, note: Callable[[str], None]) -> int:
        """Restore a checkpoint of this run; the length of its log by then, in bytes."""
        resume.same_run(saved.path, asdict(self.config))
        checkpoint.restore(self.policy, saved.path)
        state = saved.state(self.device)
        self.trainer.load(state["trainer"])
        random = state["random"]  # of older versions one for all
        torch.set_rng_state(local_item(random).cpu() if isinstance(random, list) else random.cpu())
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(local_item(state["random_cuda"]).cpu())
        note(f"going on from step {saved.step} ({saved.path})")
        return state["log_length"]

    # --- what the loop asks for -----------------------------------------------------------------

    def train(self, signals: Signals) -> bool:
        """Train to the end, or to the first signal; whether it was the end."""
        self.heed(signals)
        self.trainer.fit(Hooks(self.log_metrics, self.validate, self.save, self.spoilt,
                               self.stopped))
        stopped = self.stopped()
        if stopped:
            signals.caught = loudest(signals)
            self.console.note(f"stopped at step {self.trainer.progress.step}; to go on: "
                              f"{program()} resume={self.directory}")
        return not stopped

    def heed(self, signals: Signals) -> None:
        """Stop at these."""
        self.stopped = lambda: any_process(signals.caught is not None)

    def log_metrics(self, progress: Progress, metrics: Metrics) -> None:
        self.log.write(progress.step, metrics)
        self.console.update(progress.step, self.trainer.expected, metrics)
        self.watch.hear(metrics)

    def validate(self, progress: Progress) -> float | None:
        """Look at the held-out questions, and at the rollouts of `preload_data_for_val`."""
        trainer, name = self.config.trainer, f"val_{progress.step}"
        losses = {} if self.val is None else self.trainer.appraise(replace(self.val))
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
            self.found = self.evaluate()
        self.log_metrics(progress, {"epoch": progress.epoch, **losses, **self.found.metrics})
        self.log.table(name, self.found.rows)
        shown = self.found.rows[:SHOWN_ROLLOUTS]
        self.console.samples([f"{row['question']}{row.get('thought', row.get('rationale', ''))}"
                              f"{row['answer']}" for row in shown])
        return self.found.metrics["accuracy"]

    def save(self, progress: Progress) -> None:
        weights = checkpoint.saved_weights(self.policy)
        state = {"trainer": self.trainer.state(), "log_length": self.log.sync(),
                 "random": all_gather(torch.get_rng_state()),
                 "random_cuda": all_gather(torch.cuda.get_rng_state()) if torch.cuda.is_available()
                 else []}
        if not is_main_process():
            return
        epoch = progress.epoch + (self.trainer.round is not None)  # the one that has begun
        checkpoint.save(self.policy, self.directory / f"checkpoint_{epoch}", asdict(self.config),
                        state, {"step": progress.step, "epoch": epoch,
                                "accuracy": progress.accuracy}, weights)
        resume.prune(self.directory, self.config.trainer.keep_checkpoints)

    def spoilt(self, progress: Progress, batch: list[Rollouts]) -> None:
        """Keep a batch whose loss or gradient was not finite; enough of them end the run."""
        path = self.directory / f"bad_{progress.step}" / "rollouts.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([asdict(micro) for micro in batch], path)
        self.console.note(f"step {progress.step} was skipped: its loss or gradient is not finite; "
                          f"its batch is in {path}")
        if progress.bad >= self.config.trainer.max_bad_steps:
            raise UserError(f"trainer.max_bad_steps={progress.bad}: found so many steps in a row "
                            f"that are not finite, up to step {progress.step}; the batches are in "
                            f"{self.directory}/bad_*; legal: a lower trainer.lr, a finite reward, "
                            "trainer.dtype=float32")

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        self.console.close()
        self.log.close()
        if self.held:
            self.held.close()

    def finish(self, write_report: Callable[[Path, dict[str, Any], dict[str, Any]], None],
               ) -> float | None:
        """Evaluate, report, and write `summary.json` last: the accuracy."""
        progress, trainer = self.trainer.progress, self.config.trainer
        with full_parameters(self.policy):
            found = self.found or (self.evaluate() if trainer.do_eval and trainer.do_acc_eval
                                   else Evaluation({}, {}, []))
        weights = full_state_dict(self.policy)
        if not is_main_process():
            return found.metrics.get("accuracy")
        summary = {**summarise(self.config, self.directory, self.policy, found, weights),
                   "steps": progress.step, "seconds": progress.seconds,
                   "rollouts_per_second": progress.rollouts / max(progress.seconds, 1e-9)}
        write_report(self.directory, summary, asdict(self.config))
        checkpoint.write_json(self.directory / "summary.json", summary)
        print(f"{verdict(found)} after {progress.step} steps, {progress.seconds:.0f} s of "
              f"training; results: {self.directory}/report.html")
        return summary["accuracy"]
