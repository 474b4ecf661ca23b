"""Behind the door: command line in, one action done, exit code out."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ponder.compat import rewrite
from ponder.errors import JobFailed, UserError, explain, refuse_words
from ponder.launch import launched
from ponder.legacy import modern
from ponder.signals import GivenUp, guard

CONF = Path(__file__).resolve().parents[2] / "conf"
ERROR = "error.txt"  # in a run directory: the traceback of its unexpected end
OF_THIS_CALL = ("action", "run_type", "out", "step", "logger", "model.name", "trainer.device",
                "trainer.threads")


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a bug or a failed job, 2 a mistake in the input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--help" in arguments or "-h" in arguments:
        from ponder.help import help_text

        with contextlib.suppress(BrokenPipeError):  # of `| head`
            print(help_text(CONF), flush=True)
            return 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        arguments, notes = modern(_as_begun(arguments))
        arguments = rewrite(launched(arguments), CONF)
        refuse_words(arguments, CONF)
        for line in notes:
            print(line, file=sys.stderr)
        if os.environ.get("RANK", "0") != "0":  # of several processes the first one writes
            from ponder.ranks import FOLLOWER

            arguments = [*arguments, *FOLLOWER, f"hydra.run.dir={tempfile.mkdtemp()}"]
        return _compose_and_run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _refuse(error)


def _as_begun(arguments: list[str]) -> list[str]:
    """`resume=<run directory>`: the words that run was begun with, then those typed now.

    Raises `UserError` where no run was begun in that directory.
    """
    named = [word for word in arguments if word.partition("=")[0] == "resume"
             and word.partition("=")[2] not in ("auto", "never")]
    if not named:
        return arguments
    from ponder.config import WORDS

    directory = named[-1].partition("=")[2]
    try:
        begun = json.loads((Path(directory) / WORDS).read_text())
    except (OSError, ValueError):
        raise UserError(f"resume={directory}: found no run there; legal: auto, never, or the "
                        "directory of a run") from None
    return [*begun, *(word for word in arguments if word not in named),
            f"hydra.run.dir={directory}"]


def _refuse(error: Exception) -> int:
    """One line and 2 for a mistake in the input. Raises anything else again."""
    line = str(error) if isinstance(error, UserError) else explain(error)
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return 2


def _compose_and_run(arguments: list[str]) -> int:
    import hydra

    from ponder.config import register

    register()
    sys.argv = [sys.argv[0], *arguments]
    codes: list[int] = []
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
            functools.partial(job, codes=codes, home=_process()))()
    except OSError as error:
        if codes or explain(error) is not None:
            raise
        raise UserError(f"{error.filename or 'hydra.run.dir'}: cannot be made ({error.strerror}); "
                        "legal: hydra.run.dir=<directory that can be written>") from None
    return max(codes, default=0)


def _process() -> str:
    """The name of this process among those of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def job(node: Any, codes: list[int], home: str) -> float | None:
    """One composed job. Its line about a mistake is written here, so that Hydra adds no words, and
    the sweep goes on.

    In another process (a launcher's) nobody would read `codes`, so there it is raised as well, as
    an error that can be sent back.
    """
    elsewhere = home != _process()
    if elsewhere:
        guard()
    codes.append(0)
    try:
        config = read(node)
        (_directory() / ERROR).unlink(missing_ok=True)
        if config.action == "compare":  # needs no torch
            from ponder.compare import run
        else:
            from ponder.actions import run

        accuracy = run(config, _directory())
        return None if accuracy is None else float(accuracy)
    except (Exception, GivenUp) as error:
        failure = _failure(error, _directory())
    print(f"error: {failure}", file=sys.stderr)
    if elsewhere:
        raise failure
    codes.append(2 if isinstance(failure, UserError) else 1)
    return None


def _failure(error: BaseException, directory: Path) -> UserError | JobFailed:
    """What became of a job: a mistake in the input leaves nothing behind, anything else its
    traceback.
    """
    line = str(error) if isinstance(error, UserError) else explain(error)
    if line is not None:
        _forget(directory)
        return UserError(line)
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        (directory / ERROR).write_text("".join(traceback.format_exception(error)))
    except OSError:
        traceback.print_exception(error)
        return JobFailed(said)
    return JobFailed(f"{said}; the traceback is in {directory / ERROR}")


def read(node: Any) -> Any:
    """The checked configuration of a composed node, before anything heavy is loaded."""
    from omegaconf import OmegaConf

    from ponder.check import check

    if node.action == "evaluate" and node.model.name:
        node = _with_checkpoint(node)
    config: Any = OmegaConf.to_object(node)
    check(config)
    return config


def _with_checkpoint(node: Any) -> Any:
    """`action=evaluate`: what the checkpoint was trained with, under what was typed.

    Raises `UserError` for variants that are not the checkpoint's: its networks know no others.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ponder.config import variants

    merged = _of_checkpoint(Path(node.model.name) / "ponder.json")
    if merged is None:
        return node
    typed = [word.partition("=")[0].lstrip("+~") for word in HydraConfig.get().overrides.task]
    if {"task", "experiment"} & set(typed) and node.task.name != merged.task.name:
        merged.task = node.task
    for key in (*OF_THIS_CALL, *(key for key in typed if key == "seed" or "." in key)):
        if not key.startswith("hydra."):
            OmegaConf.update(merged, key, OmegaConf.select(node, key))
    if "variant" in typed and variants(node) != variants(merged):
        raise UserError(f"variant=[{','.join(variants(node))}]: found a checkpoint trained "
                        f"otherwise; legal: [{','.join(variants(merged))}], or no word about it")
    return merged


def _of_checkpoint(path: Path) -> Any:
    """The configuration in a checkpoint's ponder.json; None for a directory from elsewhere."""
    from omegaconf import OmegaConf

    from ponder.config import GROUPS, SCHEMAS, Config

    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())["config"]
        merged = OmegaConf.structured(Config)
        for group, name in GROUPS:
            merged[group] = OmegaConf.structured(SCHEMAS[group][saved[group][name]])
        for key, default in vars(SCHEMAS["task"][saved["task"]["name"]]()).items():
            if str(default).startswith(("${ponder.", "${.")):  # computed: follows what is typed
                saved["task"].pop(key, None)
        return OmegaConf.merge(merged, saved)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read ({reason}); legal: the ponder.json of a "
                        "checkpoint of this version") from None


def _directory() -> Path:
    """Where this job's outputs go."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def _forget(directory: Path) -> None:
    """Remove the directory of a refused job, where nothing but Hydra's own files is in it."""
    from ponder.config import WORDS

    if not {path.name for path in directory.glob("*")} <= {".hydra", "run.log", WORDS}:
        return
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    for name in ("run.log", WORDS):
        (directory / name).unlink(missing_ok=True)
    for folder in (directory, *directory.parents):
        if folder.parts[:1] != ("star_runs",) or any(folder.glob("*")):
            return
        folder.rmdir()
