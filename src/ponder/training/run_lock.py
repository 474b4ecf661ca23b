"""One process at a time in the directory of a run, as two would spoil each other's checkpoints."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from ponder.config.errors import UserError

LOCK = ".lock"  # in a run directory: who is, or was last, at work there


def hold(directory: Path) -> IO[str] | None:
    """Keep other processes out of a run's directory until the file that is returned is closed, or
    this process ends. None where the disk knows no locks.

    Raises `UserError` where another process is at work there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        with file:
            raise UserError(f"hydra.run.dir={directory}: found a run that goes on there "
                            f"({file.read().strip()}); legal: another directory, or when it has "
                            "ended") from None
    except OSError:
        file.close()
        return None
    file.truncate(0)
    file.write(_name())
    file.flush()
    return file


def of_another(directory: Path) -> bool:
    """Whether another process has been at work in a directory since this one was."""
    try:
        return (directory / LOCK).read_text() not in ("", _name())
    except OSError:
        return False


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n"
