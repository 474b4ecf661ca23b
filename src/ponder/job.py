"""One composed job: its configuration checked, its action done, its failure told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from ponder.config import BEGUN, OF_A_PROMPT
from ponder.elsewhere import foreign, written
from ponder.errors import ERROR, JobFailed, UserError, brief, explain
from ponder.hold import LOCK, of_another
from ponder.signals import GivenUp, guard
from ponder.snapshot import DIFF, note

SHAPE = {"d_model": "n_embd", "layers": "n_layer", "heads": "n_head",
         "tie_embeddings": "tie_word_embeddings"}  # key of the model -> in a config.json
OF_THIS_CALL = ("action", "run_type", "out", "step", "logger", "model.name", "trainer.device",
                "trainer.threads", "generate")


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
        config = read(node)
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
        from ponder.sweeps.follow import run as look

        return look(config)
    if config.action == "compare":
        from ponder.compare import run as compare

        return compare(config, directory)
    if config.action in OF_A_PROMPT:
        from ponder.speaking import speak

        return speak(config)
    from ponder.actions import run

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


def read(node: Any) -> Any:
    """The checked configuration of a composed node, before anything heavy is loaded."""
    from omegaconf import OmegaConf

    from ponder.check import check

    if node.model.name and node.model.kind == "transformer":
        _of_its_shape(node)
    if node.action in ("evaluate", *OF_A_PROMPT) and node.model.name:
        node = _with_checkpoint(node)
    config: Any = OmegaConf.to_object(node)
    check(config)
    return config


def _typed() -> list[str]:
    """The keys that were typed."""
    from hydra.core.hydra_config import HydraConfig

    return [word.partition("=")[0].lstrip("+~") for word in HydraConfig.get().overrides.task]


def _of_its_shape(node: Any) -> None:
    """Raise `UserError` for a shape that was typed beside a checkpoint of another one."""
    try:
        saved = json.loads((Path(node.model.name) / "config.json").read_text())
        shape = {key: saved.get(name) for key, name in SHAPE.items()}
    except (OSError, ValueError, AttributeError):
        return  # what is wrong there is told later
    typed = _typed()
    for key, found in shape.items():
        asked = node.model[key]
        if {"model", f"model.{key}"} & {*typed} and found not in (None, asked):
            raise UserError(f"model.{key}={asked}: found model.name={node.model.name}, where it "
                            f"is {found}; legal: that, or no word about it")


def _with_checkpoint(node: Any) -> Any:
    """What the checkpoint was trained with, under what was typed.

    Raises `UserError` for variants that are not the checkpoint's: its networks know no others. But
    a model of text speaks without its thoughts too (think=false).
    """
    from omegaconf import OmegaConf

    from ponder.config import variants

    merged = _of_checkpoint(Path(node.model.name) / "ponder.json")
    if merged is None:
        return foreign(node) if node.action in OF_A_PROMPT else node
    typed = _typed()
    if {"task", "experiment"} & set(typed) and node.task.name != merged.task.name:
        merged.task = node.task
    merged.prompt = written(node, "prompt")
    for key in (*OF_THIS_CALL, *(key for key in typed if key == "seed" or "." in key)):
        if not key.startswith("hydra."):
            OmegaConf.update(merged, key, OmegaConf.select(node, key))
    of_text = node.action in OF_A_PROMPT and merged.task.name in ("text", "corpus")
    if "variant" in typed and of_text and not variants(node):
        merged.thinker.tokens = 0
    elif "variant" in typed and variants(node) != variants(merged):
        raise UserError(f"variant=[{','.join(variants(node))}]: found a checkpoint trained "
                        f"otherwise; legal: [{','.join(variants(merged))}], or no word about it")
    return merged


def _of_checkpoint(path: Path) -> Any:
    """The configuration in a checkpoint's ponder.json; None for a directory from elsewhere."""
    from ponder.config import SCHEMAS, restored

    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())["config"]
        for key, default in vars(SCHEMAS["task"][saved["task"]["name"]]()).items():
            if str(default).startswith(("${ponder.", "${.")):  # computed: follows what is typed
                saved["task"].pop(key, None)
        return restored(saved)
    except Exception as error:
        reason = brief(error)
        raise UserError(f"{path}: cannot be read ({reason}); legal: the ponder.json of a "
                        "checkpoint of this version") from None


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
    from ponder.config import WORDS

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
