"""Which code a run is of: its commit and its differences from it, and copies that nobody edits.

A copy lies in the directory of a sweep from the moment the sweep is sent, so that a job that starts
hours later runs what was there then.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ponder.config.registry import plugin_files
from ponder.config.spine import INSTALLED, PACKAGE

ROOT = PACKAGE.parents[1]
PARTS = ("run.py", "src/ponder", "src/hydra_plugins", "conf")  # what a run is made of
DIFF = "git.diff"  # in a run directory and in a copy: `commit <hash>`, then the differences


def note(directory: Path) -> None:
    """Write the commit, the differences and the plugins into the directory of a run; nothing where
    there is no repository and no plugin.
    """
    said = differences() or ""
    for file, name in plugin_files():
        lines = file.read_text("utf-8", "replace").splitlines(keepends=True)
        said += "".join(difflib.unified_diff([], lines, os.devnull, f"b/{name}"))
    if said:
        (directory / DIFF).write_text(said, encoding="utf-8")


def revision() -> str | None:
    """The commit, with + where the code differs from it; None outside a repository."""
    said = differences()
    if said is None:
        return None
    first, _, rest = said.partition("\n")
    return first.removeprefix("commit ") + ("+" if rest else "")


@cache
def differences() -> str | None:
    """`commit <hash>` and the differences of the code from it, new files among them, as
    `git apply` takes them; of a copy, those that it was made with. None outside a repository.
    """
    if (ROOT / DIFF).is_file():
        return (ROOT / DIFF).read_text("utf-8")
    if INSTALLED:  # a repository around it is somebody else's
        return None
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("diff", "--binary", "HEAD", "--", *PARTS)
        new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *PARTS)
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


def freeze(folder: Path) -> Path:
    """Copy the code into `folder`, under a name made from its content; an equal copy is reused.

    The copy holds `src/` with the plugins in it and, of a checkout, `run.py` and `conf/`.
    """
    files = list(_files())
    digest = hashlib.sha256((differences() or "").encode())
    for path, name in files:
        digest.update(name.encode() + b"\0" + path.read_bytes())
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    making = folder / f".{uuid.uuid4().hex}"
    for path, name in files:
        (making / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, making / name)
    note(making)
    try:
        making.rename(copy)
    except OSError:  # another sweep has made it meanwhile
        shutil.rmtree(making)
    return copy


def _files() -> Iterator[tuple[Path, str]]:
    """Every file of the code and its place in a copy, in order."""
    if INSTALLED:  # between packages of others, and without run.py
        home = PACKAGE.parent
        found = [*PACKAGE.rglob("*"), *home.glob("hydra_plugins/ponder_*.py")]
        named = ((path, f"src/{path.relative_to(home)}") for path in sorted(found))
    else:
        parts = [ROOT / part for part in PARTS]
        found = [path for part in parts
                 for path in ([part] if part.is_file() else sorted(part.rglob("*")))]
        named = ((path, str(path.relative_to(ROOT))) for path in found)
    yield from ((path, name) for path, name in named
                if path.is_file() and "__pycache__" not in path.parts)
    yield from ((path, f"src/{name}") for path, name in plugin_files())
