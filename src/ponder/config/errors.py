"""Bad input gets one line: the key or file, what was found, what is legal."""

from __future__ import annotations

import difflib
import errno
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON may hold alone and UTF-8 not
ERROR = "error.txt"  # in a run directory: the traceback of its unexpected end
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or none that is allowed
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A mistake in the input. Its text is the one line the user reads; the exit code is 2.

    It and `JobFailed` take that text alone, so that they can be sent from one process to another.
    """


class JobFailed(Exception):
    """A job that failed through no fault of the input; the exit code is 1."""


@contextmanager
def writing(what: object, legal: str = "a file in a directory that can be") -> Iterator[None]:
    """Turn an `OSError` while a file is written into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: cannot be written ({error.strerror or error}); legal: {legal}"
                        ) from None


def must_be_text(where: str, text: str) -> None:
    """Raise `UserError` for half a character (a lone surrogate), which no tokenizer can read."""
    found = HALVES.search(text)
    if found is not None:
        near = ascii(text[max(0, found.start() - 20):found.end() + 20])
        raise UserError(f"{where}: found {found[0]!a}, half a character, in {near}; legal: whole "
                        "characters, in UTF-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written: readers see all of
    it or nothing, and a full disk leaves what was there before and nothing half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # jobs share some
    try:
        yield temporary
        os.replace(temporary, path)
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
