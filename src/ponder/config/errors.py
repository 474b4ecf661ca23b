"""Bad input gets one line: the key or file, what was found, what is legal."""

from __future__ import annotations

import difflib
import errno
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON may hold alone and UTF-8 not
ERROR = "error.txt"  # in a run directory: the traceback of its unexpected end
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or none that is allowed
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)  # a directory where a file belongs, ...
REMEDIES = {FULL: "a disk with room; what was written before is whole",
            NOT_ALLOWED: "a directory that you may write to"}


class UserError(Exception):
    """A mistake in the input. Its text is the one line the user reads; the exit code is 2.

    It and `JobFailed` take that text alone, so that they can be sent from one process to another.
    """


class JobFailed(Exception):
    """A job that failed through no fault of the input; the exit code is 1."""


class EngineFailed(JobFailed):
    """The engine that writes texts is gone, slow, or not the one that was expected."""


def unwritable(what: object, error: OSError, legal: str) -> UserError:
    """The line about a file that cannot be written. legal: where the error does not say more."""
    more = next((line for codes, line in REMEDIES.items() if error.errno in codes), legal)
    return UserError(f"{what}: cannot be written ({error.strerror or error}); legal: {more}")


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn an `OSError` while a file is written into a `UserError` that names it: as `what`, or
    where that is the path of a directory, the file in it.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(what, Path) and error.filename else what
        raise unwritable(named, error, "a file in a directory that can be") from None


def must_be_text(where: str, text: str) -> None:
    """Raise `UserError` for half a character (a lone surrogate), which no tokenizer can read."""
    found = HALVES.search(text)
    if found is not None:
        near = ascii(text[max(0, found.start() - 20):found.end() + 20])
        raise UserError(f"{where}: found {found[0]!a}, half a character, in {near}; legal: whole "
                        "characters, in UTF-8")


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a directory; where what is done in it fails, remove what was made of it and is empty."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(new)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove directories in which there is nothing, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written: readers see all of
    it or nothing, and a full disk leaves what was there before and nothing half-written. An
    `OSError` names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # jobs share some
    with making(path.parent):
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            if error.filename is None or str(error.filename) == str(temporary):
                error.filename, error.filename2 = str(path), None
            raise
        finally:
            temporary.unlink(missing_ok=True)


def closest(word: str, legal: list[str]) -> str:
    """` (did you mean x?)` where one of the legal words is near, else nothing."""
    near = difflib.get_close_matches(word, legal, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def brief(error: BaseException, room: int = 120) -> str:
    """What an error of a library says, in one line of whole words."""
    line = " ".join(str(error).split())
    whole = textwrap.shorten(line, room, placeholder=" ...")
    return whole if len(whole) > room // 2 or whole == line else f"{line[:room]}..."
