"""The actions behind the door: train, evaluate, problems."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ponder import build, checkpoint
from ponder.config import Config, config_hash
from ponder.console import Plain, build_console
from ponder.errors import UserError
from ponder.evaluate import Evaluation, evaluate
from ponder.log import Log, build_mirror
from ponder.models.policy import Policy
from ponder.report import write_report
from ponder.tasks import Task
from ponder.tasks.table import write_table
from ponder.trainer import Hooks, Metrics, Progress, Trainer

SHOWN_ROLLOUTS = 5


def run(config: Config, directory: Path) -> float | None:
    """Do what `config.action` says; the accuracy, where there is one."""
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    return {"train": train, "evaluate": evaluate_checkpoint, "problems": problems}[config.action](
        config, directory)


def train(config: Config, directory: Path) -> float:
    """Train, evaluate, save, report. `summary.json` is written last and means done."""
    session = Session(config, directory)
    try:
        session.trainer.fit(Hooks(session.log_metrics, session.validate, session.save))
    except KeyboardInterrupt:
        session.interrupted()
        raise
    finally:
        session.close()
    return session.finish()


def evaluate_checkpoint(config: Config, directory: Path) -> float:
    """Evaluate the checkpoint `model.name` on the task's held-out questions."""
    device = build.build_device(config)
    task = build.build_task(config)
    policy = build.build_policy(config, task).to(device)
    found = evaluate(policy, task.test().to(device), config.seed)
    log = Log(directory, build_mirror(config.logger, directory, asdict(config)))
    log.write(0, found.metrics)
    log.table("val_0", found.rows)
    log.close()
    summary = {**_summary(config, directory, policy, found), "steps": 0, "seconds": 0.0,
               "rollouts_per_second": 0.0}
    write_report(directory, summary, asdict(config))
    checkpoint.write_json(directory / "summary.json", summary)
    print(_necessity_line(found))
    print(f"accuracy {found.metrics['accuracy']:.4f} of {config.model.name}; results: "
          f"{directory}/report.html")
    return found.metrics["accuracy"]


def problems(config: Config, directory: Path) -> None:
    """Write the task's problems to `out`."""
    rows = build.build_task(config).problems()
    path = Path(config.out or "")
    try:
        write_table(path, rows)
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror}); legal: a file "
                        "in a directory that can be") from None
    print(f"{len(rows)} problems written to {path}")


class Session:
    """One training run and its directory: what happens when the loop says something is due."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config, self.directory = config, directory
        device = build.build_device(config)
        self.task: Task = build.build_task(config)
        self.test = self.task.test().to(device)
        self.policy: Policy = build.build_policy(config, self.task).to(device)
        self.trainer: Trainer = build.build_trainer(config, self.task, self.policy, device)
        self.log = Log(directory, build_mirror(config.logger, directory, asdict(config)))
        self.console: Plain = build_console(config.trainer.max_steps)
        self.found: Evaluation | None = None
        parameters = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        self.console.note(f"{directory}: {parameters:,} parameters, {len(self.test)} held-out "
                          f"questions, on {device}")

    def log_metrics(self, progress: Progress, metrics: Metrics) -> None:
        self.log.write(progress.step, metrics)
        self.console.update(progress.step, self.trainer.end, metrics)

    def validate(self, progress: Progress) -> float:
        self.found = evaluate(self.policy, self.test, self.config.seed)
        self.log_metrics(progress, self.found.metrics)
        self.log.table(f"val_{progress.step}", self.found.rows)
        shown = self.found.rows[:SHOWN_ROLLOUTS]
        self.console.samples([f"{row['question']}{row['thought']}{row['answer']}"
                              for row in shown])
        return self.found.metrics["accuracy"]

    def save(self, progress: Progress) -> None:
        checkpoint.save(self.policy, self.directory / f"checkpoint_{progress.epoch}",
                        asdict(self.config))

    def interrupted(self) -> None:
        self.save(self.trainer.progress)
        self.console.note(f"stopped at step {self.trainer.progress.step}; the checkpoint is in "
                          f"{self.directory}")

    def close(self) -> None:
        self.console.close()
        self.log.close()

    def finish(self) -> float:
        progress, found = self.trainer.progress, self.found
        assert found is not None, "fit evaluates before it returns"
        summary = {**_summary(self.config, self.directory, self.policy, found),
                   "steps": progress.step, "seconds": progress.seconds,
                   "rollouts_per_second": progress.rollouts / max(progress.seconds, 1e-9)}
        write_report(self.directory, summary, asdict(self.config))
        checkpoint.write_json(self.directory / "summary.json", summary)
        print(_necessity_line(found))
        print(f"accuracy {summary['accuracy']:.4f} after {progress.step} steps, "
              f"{progress.seconds:.0f} s of training; results: {self.directory}/report.html")
        return summary["accuracy"]


def _summary(config: Config, directory: Path, policy: Policy, found: Evaluation) -> dict[str, Any]:
    return {"accuracy": found.metrics["accuracy"], "necessity": found.necessity,
            "metrics": found.metrics, "seed": config.seed,
            "run_name": "/".join(directory.parts[-2:]), "git_revision": git_revision(),
            "config_hash": config_hash(config),
            "weights_sha256": checkpoint.weights_sha256(policy), "status": "done"}


def _necessity_line(found: Evaluation) -> str:
    return "accuracy with thoughts " + "  ".join(
        f"{name} {value:.3f}" for name, value in found.necessity.items())


def git_revision() -> str | None:
    """Commit of the code, with + where files have changed; None outside a repository."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
