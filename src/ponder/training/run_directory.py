"""The directory of a run: its lock, what the run was given, and the code that it is of.

Nothing is written into a directory before it is locked. A sweep's directory has a copy of the code
from the moment it is sent, so that a job that starts hours later runs what was there then.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf, open_dict, read_write

from ponder.config.errors import UserError, replacing, unwritable
from ponder.config.inputs import PROMPTS, changed
from ponder.config.registry import TRACKERS, plugin_files
from ponder.config.resolve import flattened, typed_words
from ponder.config.spine import INSTALLED, OF_THE_CALL, PACKAGE, TRACKER_ID, WORDS, restored

LOCK = ".lock"  # in a run directory: which process works there, or was the last to
ROOT = PACKAGE.parents[1]
CODE = ("run.py", "src/ponder", "src/hydra_plugins", "conf")  # what a run is made of
DIFF = "git.diff"  # in a run directory and in a copy of the code: `code_differences`
JOB_LOG = "run.log"  # in a run directory: notes and evaluations
# Keys that do not change what a run computes, only how long it is or what it keeps.
MAY_CHANGE = {*OF_THE_CALL, "trainer.max_steps", "trainer.max_epochs", "trainer.target_accuracy",
              "trainer.save_every_n_steps", "trainer.keep_checkpoints", "trainer.max_bad_steps",
              "trainer.data_parallel"}


def writes_files() -> bool:
    """Whether this process writes files: of several that are one run, the first one does."""
    return os.environ.get("RANK", "0") == "0"


def same_run(saved: Path, config: dict[str, Any], inputs: dict[str, str],
             note: Callable[[str], None]) -> None:
    """Raise `UserError` where a checkpoint belongs to another experiment than the configuration, or
    a file that it reads has changed; `note` is told of plugins that have.

    A key that is newer than the checkpoint counts as having had its default.
    """
    before = json.loads((saved / "ponder.json").read_text())["config"]
    old, new = dict(flattened(before)), dict(flattened(config))
    defaults = dict(flattened(_with_defaults(before)))
    old.update((key, defaults[key]) for key in defaults.keys() & new.keys() - old.keys())
    for key in sorted(old.keys() | new.keys()):
        if key.split(".")[0] in MAY_CHANGE or key in MAY_CHANGE:
            continue
        if old.get(key) != new.get(key):
            raise UserError(f"{key}={new.get(key)}: found {old.get(key)} in the run that is in "
                            f"{saved.parent}; legal: the same, another hydra.run.dir, or "
                            "resume=never to begin anew")
    for name in changed(inputs_of(saved), inputs):
        key, _, file = name.partition("/")
        if key == "plugins":
            note(f"warning: {file} has changed since the run began")
            continue
        what = (f"{key}={new.get(key)}: found another content{f' of {file}' * bool(file)}"
                if key != PROMPTS else "task: found other prompts, of another version of the chat "
                "template, a library or the code,")
        raise UserError(f"{what} than when the run in {saved.parent} began; legal: the same, or "
                        "resume=never to begin anew")


def inputs_of(saved: Path) -> dict[str, str]:
    """The inputs of the run that a checkpoint is of; none where an earlier version has saved it."""
    try:
        return json.loads((saved / "manifest.json").read_text()).get("inputs") or {}
    except (OSError, ValueError, AttributeError):
        return {}


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with all keys of this version; empty where it has unknown keys."""
    try:
        found: Any = OmegaConf.to_object(restored(config))
        return asdict(found)
    except Exception:
        return {}


def clear(directory: Path) -> None:
    """Remove what an earlier run left in a directory: checkpoints, evaluations, the summary."""
    for pattern in ("checkpoint_*", "damaged_checkpoint_*", ".checkpoint_*", "val_*", "bad_*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for name in ("summary.json", *(TRACKER_ID.format(name) for name in TRACKERS.names())):
        (directory / name).unlink(missing_ok=True)


def save_command(directory: Path) -> None:
    """Save the words of the command line for `resume=<directory>`, and what they mean."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        presets = [f"--config-dir={one.path}" for one in HydraConfig.get().runtime.config_sources
                   if one.provider == "command-line"]
        write_json(directory / WORDS, [*presets, *typed_words()])
        describe(directory)


def describe(directory: Path) -> None:
    """Write what the present job was given into its directory: its configuration, under the names
    of Hydra, which would write it before the directory is locked, and the code.
    """
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        hydra: Any = HydraConfig.get()
        whole = hydra._get_parent()
        job = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        for name, node in (("config", job), ("hydra", HydraConfig.instance().cfg),
                           ("overrides", hydra.overrides.task)):
            with replacing(directory / ".hydra" / f"{name}.yaml") as path:
                OmegaConf.save(node, path)
    save_code_diff(directory)


# --- files ---------------------------------------------------------------------------------------

def write_json(path: Path, content: Any) -> None:
    """Write JSON to a temporary file, then rename it: readers see all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


# --- the lock ------------------------------------------------------------------------------------

def lock(directory: Path) -> IO[str]:
    """Lock a run's directory until the returned file is closed or this process ends; two runs would
    damage each other's checkpoints. Where the file system has no locks, nobody is kept out.

    Raises `UserError` where another process has the lock, or the directory cannot be written.
    """
    while True:
        with _may_be_written(directory):
            directory.mkdir(parents=True, exist_ok=True)
            file = _locked((directory / LOCK).open("a+"), directory)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # a refused run has given the directory back meanwhile


def _locked(file: IO[str], directory: Path) -> IO[str]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        with file:
            raise UserError(f"hydra.run.dir={directory}: found a run that goes on there "
                            f"({file.read().strip()}); legal: another directory, or when it has "
                            "ended") from None
    except OSError:
        pass
    file.truncate(0)
    file.write(_process_name())
    file.flush()
    return file


def _first_lock(directory: Path) -> IO[str] | None:
    """The lock of a directory in which there is nothing yet; None where there is something."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file = (directory / LOCK).open("x+")  # one process makes it, on every file system
        except FileExistsError:
            return None
        except FileNotFoundError:  # a refused run has given its directory back meanwhile
            continue
        if os.listdir(directory) == [LOCK]:
            try:
                return _locked(file, directory)
            except OSError:  # a full disk
                (directory / LOCK).unlink()
                raise
        file.close()
        (directory / LOCK).unlink()
        return None


class JobLog(logging.FileHandler):
    """The log file of a job: a full disk ends the job, instead of a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            error.filename = self.baseFilename
        raise

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when the line was written
            super().close()


@contextlib.contextmanager
def opened(directory: Path, new: bool) -> Iterator[Path]:
    """The directory of the present job, locked and with its log file, until the context ends.

    new: it is named by the second in which the run was begun, so another run may have the name;
    then a number is put behind it. Only the first of several processes locks. Raises `UserError` as
    `lock` does.
    """
    if not writes_files():
        yield directory
        return
    with contextlib.ExitStack() as held:
        names = itertools.chain([directory], (directory.with_name(f"{directory.name}_{number}")
                                              for number in itertools.count(1)))
        with _may_be_written(directory):
            file = held.enter_context(next(filter(None, map(_first_lock, names))) if new
                                      else lock(directory))
            directory = Path(file.name).parent
            log = JobLog(os.path.join(directory, JOB_LOG), encoding="utf-8")
        log.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
        logging.getLogger().addHandler(log)
        held.callback(log.close)
        held.callback(logging.getLogger().removeHandler, log)
        _tell_hydra(directory)
        yield directory


def _tell_hydra(directory: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        runtime: Any = HydraConfig.get().runtime
        with read_write(runtime), open_dict(runtime):
            runtime.output_dir = str(directory.resolve())


@contextlib.contextmanager
def _may_be_written(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        within = error.filename and Path(error.filename).parent.resolve() == directory.resolve()
        raise unwritable(error.filename if within else f"hydra.run.dir={directory}", error,
                         "another directory") from None


def locked_here(directory: Path) -> bool:
    """Whether this process was the last to lock a directory."""
    try:
        return (directory / LOCK).read_text() == _process_name()
    except OSError:
        return False


def _process_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n"


# --- the code ------------------------------------------------------------------------------------

def save_code_diff(directory: Path) -> None:
    """Write the commit, the differences and the plugins into the directory of a run; nothing where
    there is no repository and no plugin.
    """
    said = code_differences() or ""
    for file, name in plugin_files():
        lines = file.read_text("utf-8", "replace").splitlines(keepends=True)
        said += "".join(difflib.unified_diff([], lines, os.devnull, f"b/{name}"))
    if said:
        with replacing(directory / DIFF) as path:
            path.write_text(said, encoding="utf-8")


def code_revision() -> str | None:
    """The commit, with + where the code differs from it; None outside a repository."""
    said = code_differences()
    if said is None:
        return None
    first, _, rest = said.partition("\n")
    return first.removeprefix("commit ") + ("+" if rest else "")


@cache
def code_differences() -> str | None:
    """`commit <hash>` and the differences of the code from it, new files among them, as
    `git apply` takes them; of a copy, those that it was made with. None outside a repository.
    """
    if (ROOT / DIFF).is_file():
        return (ROOT / DIFF).read_text("utf-8")
    if INSTALLED:  # a repository around it is somebody else's
        return None
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("diff", "--binary", "HEAD", "--", *CODE)
        new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *CODE)
        for name in filter(None, new.split("\0")):
            changed += _git("diff", "--binary", "--no-index", "--", os.devnull, name, right=(0, 1))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"commit {commit}\n{changed}"


def _git(*words: str, right: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True,
                          errors="replace", timeout=60)
    if done.returncode not in right:
        raise subprocess.CalledProcessError(done.returncode, "git")
    return done.stdout


def freeze_code(folder: Path) -> Path:
    """Copy the code into `folder`, under a name made from its content; an equal copy is reused.

    The copy holds `src/` with the plugins in it and, of a checkout, `run.py` and `conf/`.
    """
    files = list(_code_files())
    digest = hashlib.sha256((code_differences() or "").encode())
    for path, name in files:
        digest.update(name.encode() + b"\0" + path.read_bytes())
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    making = folder / f".{uuid.uuid4().hex}"
    for path, name in files:
        (making / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, making / name)
    save_code_diff(making)
    try:
        making.rename(copy)
    except OSError:  # another sweep has made it meanwhile
        shutil.rmtree(making)
    return copy


def _code_files() -> Iterator[tuple[Path, str]]:
    """Every file of the code and its place in a copy, in order."""
    if INSTALLED:  # between packages of others, and without run.py
        home = PACKAGE.parent
        found = [*PACKAGE.rglob("*"), *home.glob("hydra_plugins/ponder_*.py")]
        named = ((path, f"src/{path.relative_to(home)}") for path in sorted(found))
    else:
        parts = [ROOT / part for part in CODE]
        found = [path for part in parts
                 for path in ([part] if part.is_file() else sorted(part.rglob("*")))]
        named = ((path, str(path.relative_to(ROOT))) for path in found)
    yield from ((path, name) for path, name in named
                if path.is_file() and "__pycache__" not in path.parts)
    yield from ((path, f"src/{name}") for path, name in plugin_files())
