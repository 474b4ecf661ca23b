"""One composed job: its configuration checked, its action done, its failure told."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from ponder.cli.errors import explain
from ponder.config import resolve
from ponder.config.errors import ERROR, JobFailed, UserError
from ponder.config.spine import BEGUN, OF_A_PROMPT
from ponder.training.code_snapshot import DIFF, note
from ponder.training.run_lock import LOCK, of_another
from ponder.training.signals import GivenUp, guard


def process() -> str:
    """The name of this process among those of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def job(node: Any, codes: list[int], home: str) -> float | None:
    """One composed job. Its line about a mistake is written here, so that Hydra adds no words, and
    the sweep goes on.

    In another process (a launcher's) nobody would read `codes`, so there it is raised as well, as
    an error that can be sent back.
    """
    elsewhere = home != process()
    if elsewhere:
        guard()
    codes.append(0)
    try:
        config = resolve.read(node)
        (_directory() / ERROR).unlink(missing_ok=True)
        accuracy = _do(config, _directory())
        return None if accuracy is None else float(accuracy)
    except (Exception, GivenUp) as error:
        failure = _failure(error, _directory())
    print(f"error: {failure}", file=sys.stderr)
    if elsewhere:
        raise failure
    codes.append(2 if isinstance(failure, UserError) else 1)
    return None


def _do(config: Any, directory: Path) -> float | None:
    """What `config.action` says; torch is loaded where it is needed."""
    if config.action == "sweep":
        from ponder.sweeps.follow import show_sweep

        return show_sweep(config)
    if config.action == "compare":
        from ponder.reports.compare import run as compare

        return compare(config, directory)
    if config.action in OF_A_PROMPT:
        from ponder.generation.speak import speak

        return speak(config)
    from ponder.cli.actions import run

    note(directory)
    return run(config, directory)


def _failure(error: BaseException, directory: Path) -> UserError | JobFailed:
    """What became of a job: a mistake in the input leaves nothing behind, but the line about it in
    a sweep; anything else its traceback.
    """
    if isinstance(error, JobFailed):
        return error
    line = str(error) if isinstance(error, UserError) else explain(error)
    if line is not None:
        for file in (directory / BEGUN).glob("*.yaml"):
            shutil.copy(file, directory / ".hydra")
        if _in_a_sweep():
            (directory / ERROR).write_text(f"{line}\n")
        else:
            _forget(directory)
        return UserError(line)
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        (directory / ERROR).write_text("".join(traceback.format_exception(error)))
    except OSError:
        traceback.print_exception(error)
        return JobFailed(said)
    return JobFailed(f"{said}; the traceback is in {directory / ERROR}")


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _directory() -> Path:
    """Where this job's outputs go."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def _forget(directory: Path) -> None:
    """Remove the directory of a refused job, where nothing but Hydra's own files is in it."""
    from ponder.config.spine import WORDS

    files = ("run.log", WORDS, DIFF, LOCK)
    there = {path.name for path in directory.glob("*")}
    if of_another(directory) or not there <= {".hydra", *files}:
        return
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    for name in files:
        (directory / name).unlink(missing_ok=True)
    for folder in (directory, *directory.parents):
        if folder.parts[:1] != ("star_runs",) or any(folder.glob("*")):
            return
        folder.rmdir()
