"""The command line: words in, one action done, exit code out.

`main` turns words into Hydra's, `job` does one composed job (of a sweep, each), and what
`config.action` names is in `actions`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import ponder
from ponder.cli.errors import explain, sweeps
from ponder.cli.shorthand import config_folders, load_plugins, understood
from ponder.config import resolve
from ponder.config.errors import (
    ERROR,
    FULL,
    MISPLACED,
    NOT_ALLOWED,
    JobFailed,
    UserError,
    remove_empty,
    unwritable,
)
from ponder.config.inputs import SCRATCH
from ponder.config.registry import TASKS
from ponder.config.spine import CONF, OF_A_MODEL, OF_A_PROMPT, OF_THE_HUB, WORDS, register
from ponder.training.run_directory import (
    DIFF,
    JOB_LOG,
    LOCK,
    describe,
    locked_here,
    opened,
    writes_files,
)
from ponder.training.signals import GivenUp, guard

# Actions that write no files of their own.
WITHOUT_DIRECTORY = ("sweep", "browse", *OF_A_MODEL, *OF_THE_HUB)


def as_utf8(word: str) -> str:
    """A word of the command line as the UTF-8 that it was typed in, whatever the locale is."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a bug or a failed job, 2 a mistake in the input, 130 interrupted."""
    arguments = [as_utf8(word) for word in sys.argv[1:]] if arguments is None else arguments
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        if "--help" in arguments or "-h" in arguments:
            return _help(arguments)
        if "--version" in arguments:
            print(f"ponder {ponder.__version__}")
            return 0
        arguments, notes = understood(arguments)
        for line in notes:
            print(line, file=sys.stderr)
        if _has_no_directory(arguments) or not writes_files():
            arguments = [*arguments, "hydra.run.dir=."]
        return _compose_and_run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        line = str(error) if isinstance(error, UserError) else explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def _help(arguments: list[str]) -> int:
    from ponder.cli.help import help_text

    load_plugins(arguments)
    try:
        print(help_text(CONF, *config_folders(arguments)), flush=True)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _has_no_directory(arguments: list[str]) -> bool:
    """Whether this call has no run directory. Raises `UserError` for a sweep of such calls."""
    several = {"lm_eval": ", for several tasks lm_eval.tasks=[<name>,<name>]",
               **dict.fromkeys(OF_A_PROMPT, ", for several texts generate.samples=<number>")}
    for action in (*OF_A_MODEL, *OF_THE_HUB):
        if f"action={action}" in arguments and sweeps(arguments):
            raise UserError(f"action={action}: found -m; legal: one call at a time"
                            f"{several.get(action, '')}")
    return bool({f"action={name}" for name in WITHOUT_DIRECTORY} & set(arguments))


def _compose_and_run(arguments: list[str]) -> int:
    """Hand the words to Hydra, which composes the configuration and calls `job` with it."""
    import hydra

    register()
    sys.argv = [sys.argv[0], *arguments]
    codes: list[int] = []
    new = [folder for word in arguments for key, _, name in [word.partition("=")]
           if key in ("hydra.run.dir", "hydra.sweep.dir") for folder in (Path(name), *Path(
               name).parents) if not folder.exists()]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
            functools.partial(job, codes=codes, home=process()))()
    except OSError as error:
        if codes or explain(error) is not None:
            raise
        raise UserError(f"{error.filename or 'hydra.run.dir'}: cannot be made ({error.strerror}); "
                        "legal: hydra.run.dir=<directory that can be written>") from None
    finally:
        remove_empty(new)  # of a job that was refused, or found no room
    return max(codes, default=0)


# --- one composed job -----------------------------------------------------------------------------


def process() -> str:
    """The name of this process among those of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def job(node: Any, codes: list[int], home: str) -> float | None:
    """Do one composed job; its exit code goes to `codes`, and the accuracy is returned.

    The line about a failure is printed here, so that Hydra adds none and a sweep goes on. In
    another process than `home` (a launcher's) nobody reads `codes`: there the failure is raised as
    well, as an error that can be pickled.
    """
    elsewhere = home != process()
    if elsewhere:
        guard()
    codes.append(0)
    try:
        return perform(node)
    except (UserError, JobFailed) as error:
        failure = error
    print(f"error: {failure}", file=sys.stderr)
    if elsewhere:
        raise failure
    codes.append(2 if isinstance(failure, UserError) else 1)
    return None


def perform(node: Any, directories: list[Path] | None = None) -> float | None:
    """Check a composed node and do its action: the accuracy, where there is one.

    directories: gets the run directory. Raises `UserError` for a mistake in the input, `JobFailed`
    for any other failure, caused by the original error.
    """
    wanted = directory = None if node.action in WITHOUT_DIRECTORY else _directory()
    with contextlib.ExitStack() as held:
        try:
            config = _checked(node)
            if wanted is None:
                return _act(config, Path())
            directory = None  # nothing in it is ours before it is locked
            directory = held.enter_context(opened(wanted, _is_new()))
            if directories is not None:
                directories.append(directory)
            return _run(config, directory)
        except (Exception, GivenUp) as error:
            if wanted is not None and directory is None:
                _give_back(wanted)
            places = [Path(getattr(node, "scratch", SCRATCH)), *filter(None, [wanted])]
            raise _failure(error, directory if writes_files() else None, places) from error


def _run(config: Any, directory: Path) -> float | None:
    """Do an action in its directory. What a directory says of an earlier run stays until this one
    has begun, which `Session` knows, or has ended.
    """
    empty = not (directory / ".hydra" / "config.yaml").is_file()
    if writes_files():
        (directory / ERROR).unlink(missing_ok=True)
        if empty:
            describe(directory)
    accuracy = _act(config, directory)
    if writes_files() and not empty and config.action != "train":
        describe(directory)
    return None if accuracy is None else float(accuracy)


def _is_new() -> bool:
    """Whether the name of this job's directory has the time in it: it is meant for this job alone,
    and no run can be gone on with there.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    named: Any = OmegaConf.to_container(HydraConfig.get().run, resolve=False)
    return not _in_a_sweep() and "${now:" in str(named["dir"])


def _checked(node: Any) -> Any:
    """The configuration of a composed node. Raises `UserError`, which names an experiment that has
    all keys of a task where only the task was typed: the default run is made for other tasks.
    """
    try:
        return resolve.read(node)
    except UserError as error:
        typed = {word.partition("=")[0] for word in resolve.typed_words()}
        begins = TASKS[node.task.name].target.experiment if "task" in typed else None
        if begins is None or "experiment" in typed or str(error).startswith("task."):
            raise
        raise UserError(f"{error}; experiment={begins} has all that goes with it") from None


def _act(config: Any, directory: Path) -> float | None:
    """Do what `config.action` says. torch is loaded only by actions that need it."""
    if config.action == "sweep":
        from ponder.sweeps.follow import show_sweep

        return show_sweep(config)
    if config.action == "compare":
        from ponder.reports.compare import run as compare

        return compare(config, directory)
    if config.action in OF_THE_HUB:
        from ponder.cli.hub import run as ask_hub

        return ask_hub(config)
    if config.action == "browse":
        from ponder.reports.browse import run as browse

        return browse(config)
    from ponder.rollouts.recorded import check_files

    check_files(config)
    if config.action in OF_A_PROMPT:
        from ponder.generation.terminal import run as run_terminal

        return run_terminal(config)
    if config.action == "lm_eval":
        from ponder.generation.harness import run as run_harness

        return run_harness(config)
    from ponder.cli.actions import run

    return run(config, directory)


def _failure(error: BaseException, directory: Path | None,
             places: list[Path]) -> UserError | JobFailed:
    """The error that a job ends with. After a mistake in the input its directory is removed (of a
    sweep, it keeps the line about it); after any other failure the traceback is in error.txt. None:
    the job has no directory. places: directories in which this program writes.
    """
    if isinstance(error, JobFailed):
        return error
    line = str(error) if isinstance(error, UserError) else explain(error) or _unwritten(
        error, places)
    if line is not None:
        if directory is not None and not _in_a_sweep():
            _remove(directory)
        elif directory is not None:
            with contextlib.suppress(OSError):  # a full disk
                (directory / ERROR).write_text(f"{line}\n")
        return UserError(line)
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        if directory is None:
            raise OSError
        (directory / ERROR).write_text("".join(traceback.format_exception(error)))
    except OSError:
        traceback.print_exception(error)
        return JobFailed(said)
    return JobFailed(f"{said}; the traceback is in {directory / ERROR}")


def _unwritten(error: BaseException, places: list[Path]) -> str | None:
    """The line about a file that could not be written: on a full or forbidden disk wherever it is,
    and in `places` where it is a directory, or its directory a file. None for other errors.
    """
    if not isinstance(error, OSError):
        return None
    named = Path(error.filename2 or error.filename or "disk")
    ours = any(named.resolve().is_relative_to(place.resolve()) for place in places)
    if error.errno in (*FULL, *NOT_ALLOWED) or (ours and error.errno in MISPLACED):
        return str(unwritable(named, error, "what this program writes there, or nothing"))
    return None


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _directory() -> Path:
    """Where this job's outputs go."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def _remove(directory: Path) -> None:
    """Remove the directory of a refused job, where it is empty, or has been locked by this process
    and holds nothing but what every job writes.
    """
    files = {JOB_LOG, WORDS, DIFF, LOCK}
    there = {path.name for path in directory.glob("*")}
    if not there <= ({".hydra", *files} if locked_here(directory) else set()):
        return
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    for name in sorted(files & there):
        (directory / name).unlink(missing_ok=True)
    _give_back(directory)


def _give_back(directory: Path) -> None:
    """Remove a directory that Hydra has made, and those above it, where nothing is in them."""
    remove_empty(folder for folder in (directory, *directory.parents)
                 if folder.parts[:1] == ("star_runs",))
