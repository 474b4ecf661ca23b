"""Run a command for as long as the process that asked for it lives: `python keeper.py <command>`.

Standard input is a pipe that nobody writes to. It ends with the process at its other end, however
that ended; the command and all that it has started are then told to end, and made to soon after.
Nothing here imports anything of Ponder, so that it is ready at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 10.0  # seconds between asking and killing


def main(command: list[str]) -> int:
    """The exit code of the command."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is for the run, which ends us when it ends
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda number, frame: stop(child))

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop(child)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    signal_group(child, signal.SIGKILL)  # what it has left behind
    return code


def stop(child: subprocess.Popen[bytes]) -> None:
    signal_group(child, signal.SIGTERM)
    threading.Timer(GRACE, signal_group, (child, signal.SIGKILL)).start()


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code if code >= 0 else 128 - code)
