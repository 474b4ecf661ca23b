"""Behind the door: command line in, one action done, exit code out."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import tempfile
from pathlib import Path

import ponder
from ponder.cli.errors import explain, refuse_words
from ponder.cli.job import job, process
from ponder.cli.launchers import launched
from ponder.cli.legacy import modern
from ponder.cli.shorthand import config_folders, rewrite
from ponder.config.errors import UserError
from ponder.config.registry import discover, plugins_of
from ponder.config.spine import CONF, OF_A_PROMPT

NO_FILES = ("hydra.output_subdir=null", "hydra/job_logging=none")


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a bug or a failed job, 2 a mistake in the input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--help" in arguments or "-h" in arguments:
        from ponder.cli.help import help_text

        discover(plugins_of(arguments))
        with contextlib.suppress(BrokenPipeError):  # of `| head`
            print(help_text(CONF, *config_folders(arguments)), flush=True)
            return 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if "--version" in arguments:
        print(f"ponder {ponder.__version__}")
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        arguments, notes = modern(_as_begun(arguments))
        discover(plugins_of(arguments))
        arguments = rewrite(launched(_again(_with_task(arguments))), CONF)
        refuse_words(arguments, CONF)
        for line in notes:
            print(line, file=sys.stderr)
        if os.environ.get("RANK", "0") != "0":  # of several processes the first one writes
            arguments = [*arguments, *NO_FILES, f"hydra.run.dir={tempfile.mkdtemp()}"]
        elif _leaves_nothing(arguments):
            arguments = [*arguments, *NO_FILES, "hydra.run.dir=."]
        return _compose_and_run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _refuse(error)


def _leaves_nothing(arguments: list[str]) -> bool:
    """Whether this call has no run directory. Raises `UserError` for a sweep of what is shown."""
    for action in OF_A_PROMPT:
        if f"action={action}" in arguments and {"-m", "--multirun"} & set(arguments):
            raise UserError(f"action={action}: found -m; legal: one call at a time, for several "
                            "texts generate.samples=<number>")
    return bool({"action=sweep", *(f"action={name}" for name in OF_A_PROMPT)} & set(arguments))


def _as_begun(arguments: list[str]) -> list[str]:
    """`resume=<run directory>`: the words that run was begun with, then those typed now.

    Raises `UserError` where no run was begun in that directory.
    """
    named = [word for word in arguments if word.partition("=")[0] == "resume"
             and word.partition("=")[2] not in ("auto", "never")]
    if not named:
        return arguments
    from ponder.config.spine import WORDS

    directory = named[-1].partition("=")[2]
    try:
        begun = json.loads((Path(directory) / WORDS).read_text())
    except (OSError, ValueError):
        raise UserError(f"resume={directory}: found no run there; legal: auto, never, or the "
                        "directory of a run") from None
    return [*begun, *(word for word in arguments if word not in named),
            f"hydra.run.dir={directory}"]


def _with_task(arguments: list[str]) -> list[str]:
    """`model.name=<checkpoint> task.key=...`, where it is evaluated or speaks: the keys are those
    of its task.
    """
    pairs = [word.lstrip("+").partition("=") for word in arguments]
    keys = {key: value for key, _, value in pairs}
    asked = keys.get("action") in ("evaluate", *OF_A_PROMPT)
    if not asked or {"task", "experiment"} & {*keys} or not any(
            key.startswith("task.") for key in keys):
        return arguments
    try:
        saved = json.loads((Path(keys.get("model.name", "")) / "ponder.json").read_text())
        return [f"task={saved['config']['task']['name']}", *arguments]
    except (OSError, ValueError, KeyError, TypeError):
        return arguments  # what is wrong there is told later


def _again(arguments: list[str]) -> list[str]:
    """`action=sweep sweep.retry=failed`: the words that send the lost jobs of a sweep again.

    Raises `UserError` for other words: a job is what it was when it was sent.
    """
    if not {"action=sweep", "sweep.retry=failed"} <= set(arguments):
        return arguments
    from ponder.sweeps.plan import retry_arguments

    return retry_arguments(arguments)


def _refuse(error: Exception) -> int:
    """One line and 2 for a mistake in the input. Raises anything else again."""
    line = str(error) if isinstance(error, UserError) else explain(error)
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return 2


def _compose_and_run(arguments: list[str]) -> int:
    import hydra

    from ponder.config.spine import register

    register()
    sys.argv = [sys.argv[0], *arguments]
    codes: list[int] = []
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
            functools.partial(job, codes=codes, home=process()))()
    except OSError as error:
        if codes or explain(error) is not None:
            raise
        raise UserError(f"{error.filename or 'hydra.run.dir'}: cannot be made ({error.strerror}); "
                        "legal: hydra.run.dir=<directory that can be written>") from None
    return max(codes, default=0)
