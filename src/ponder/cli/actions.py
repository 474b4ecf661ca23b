"""The actions that need torch: train, evaluate, problems, export."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from ponder.config.errors import ERROR, UserError, brief, writing
from ponder.config.inputs import PROMPTS, changed
from ponder.config.spine import Config, described
from ponder.core import distributed
from ponder.reports.run_page import write_report
from ponder.rollouts.recorded import texts_of
from ponder.tasks.base import write_problems, write_table
from ponder.tokenizers.vocabulary import TextVocabulary
from ponder.training import build as builders
from ponder.training import checkpoint
from ponder.training.collector import StopRequested
from ponder.training.console import ProgressReporter, build_console
from ponder.training.diagnostics import summarise, verdict
from ponder.training.log import Log
from ponder.training.run_directory import inputs_of
from ponder.training.session import Session
from ponder.training.signals import Signals
from ponder.training.trackers import TrackedRun, build_tracker

PATIENCE = 5  # seconds in which a process that failed may say so, before srun ends it with the rest


def run(config: Config, directory: Path) -> float | None:
    """Do what `config.action` says: the accuracy, where there is one.

    Several processes end together. One that loses the connection to another ends with a line and
    exit code 1; the other reports its own error.
    """
    torch.manual_seed(config.seed)
    actions = {"train": train, "evaluate": evaluate_checkpoint, "problems": problems,
               "export": export}
    try:
        distributed.init_process_group(config.trainer.device)
        directory = distributed.broadcast(directory)
        accuracy = actions[config.action](config, directory)
        distributed.barrier()
        return accuracy
    except Exception as error:
        if not (distributed.is_distributed_launch() and distributed.is_connection_error(error)):
            if not (distributed.is_main_process() or isinstance(error, UserError)):
                (directory / ERROR).write_text("".join(traceback.format_exception(error)))
            raise
        time.sleep(PATIENCE)
        reason = brief(error, 160)
        raise SystemExit(f"error: another process of this run is not there ({reason})") from None
    finally:
        distributed.destroy_process_group()


def train(config: Config, directory: Path) -> float | None:
    """Train, evaluate, save, report. `summary.json` is written last and means done."""
    session = Session(config, directory)
    if session.done is not None:
        session.close()
        accuracy = session.done["accuracy"]
        shown = "not evaluated" if accuracy is None else f"accuracy {accuracy:.4f}"
        session.console.note(f"{directory} is done: {shown}; resume=never begins it anew")
        return accuracy
    try:
        with Signals() as signals:
            while not session.train(signals):  # all is saved
                signals.redeliver()
    finally:
        session.close()
    return session.finish(write_report)


def evaluate_checkpoint(config: Config, directory: Path) -> float:
    """Evaluate the checkpoint `model.name` on the task's held-out questions."""
    device = builders.build_device(config)
    task = builders.build_task(config)
    console = build_console()
    for line in task.doubts:
        console.note(f"warning: {line}")
    reporter = ProgressReporter(console)
    policy = builders.build_policy(config, task, reporter.scoring).to(device)
    builders.use_threads(config, policy)
    console.note(described(config))
    test = task.test().to(device)
    engine = builders.build_engine(config)
    evaluate = builders.build_evaluation(config, policy, task, test, reporter, engine=engine)
    try:
        found = evaluate()
    finally:
        engine.close()
        console.close()
    if not distributed.is_main_process():
        return found.metrics["accuracy"]
    run = TrackedRun(directory, asdict(config))
    log = Log(directory, build_tracker(config.logger, run, console.note))
    log.write(config.step, found.metrics)
    log.table(config.step, found.rows)
    log.close()
    read = builders.inputs_of(config, test)
    _warn_of_changes(Path(config.model.name or ""), read, console.note)
    summary = {**summarise(config, directory, policy, found), "inputs": read,
               "steps": config.step, "seconds": 0.0, "rollouts_per_second": 0.0}
    write_report(directory, summary, asdict(config))
    checkpoint.write_json(directory / "summary.json", summary)
    print(f"{verdict(found)} of {config.model.name}; results: {directory}/report.html")
    return found.metrics["accuracy"]


def _warn_of_changes(saved: Path, now: dict[str, str], note: Callable[[str], None]) -> None:
    """Say which tables, and files of an adapter's base, have changed since a checkpoint was made:
    what is held out now may have been trained on.
    """
    before = inputs_of(saved)
    base = {name.replace("/base/", "/"): value for name, value in now.items() if "/base/" in name}
    own = {name: value for name, value in now.items() if not name.startswith("model.name/")}
    for name in changed(before, {**own, **base} if base else own):
        if name != PROMPTS:
            note(f"warning: {name} has changed since {saved} was trained")


def problems(config: Config, directory: Path) -> None:
    """Write the task's problems to `out`."""
    rows = builders.build_task(config).problems()
    _write(config, f"{len(rows)} problems", lambda path: write_problems(path, rows))


def export(config: Config, directory: Path) -> None:
    """Write the pairs that a round of strategy=dpo learns from to `out`, in TRL's columns."""
    session = Session(config, directory)
    assert isinstance(session.policy.vocabulary, TextVocabulary)
    try:
        with Signals() as signals:
            session.stop_on(signals)
            try:
                rollouts = session.trainer.collect()
            except StopRequested:  # what was written by now is in the cache
                signals.redeliver()
                raise KeyboardInterrupt from None
    finally:
        session.close()
    rows = texts_of(rollouts, session.policy.vocabulary)
    if not rows:
        raise UserError(f"out={config.out}: found no question with a right and a wrong rollout; "
                        "legal: more rollout.samples or more questions")
    other = sum(not row["same_tokens"] for row in rows)
    note = f" ({other} of other tokens to TRL, which ends texts that were cut)" if other else ""
    _write(config, f"{len(rows)} pairs{note}", lambda path: write_table(path, rows))


def _write(config: Config, what: str, write: Callable[[Path], None]) -> None:
    if not distributed.is_main_process():
        return
    path = Path(config.out or "")
    with writing(f"out={path}"):
        write(path)
    print(f"{what} written to {path}")
