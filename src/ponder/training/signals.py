"""Signals that ask a run to end, and launchers that listen for the same ones.

In a job of submitit's, SIGUSR2 has a handler that puts the job back into the queue and leaves, and
SIGTERM one that does nothing, as SIGKILL will follow or nothing at all. Ours are set above them:
the signal is noted, the loop saves at the end of its step, and then theirs is called.

Left out: hearing of an end without a signal; a job that is killed goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

ORDER = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)  # the first says most


class GivenUp(BaseException):
    """A launcher's handler refused to put its job back into the queue, and why. No `Exception`, as
    it is raised wherever the signal strikes, and nothing on the way may take it for its own.
    """


class Signals:
    """While it lasts, the first Ctrl-C, SIGTERM or SIGUSR2 is only noted, so that the loop can end
    in order; a second Ctrl-C or SIGTERM does what it always did.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ORDER:
                self.before[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught != signal.SIGUSR2:  # which says more than those that come with it
            self.caught = number
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, self.before[other])

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hand_on(self) -> None:
        """Do what the caught signal did before, now that all is saved. Where a launcher's handler
        returns, the run goes on. Raises `KeyboardInterrupt` where there was no handler.
        """
        number, self.caught = self.caught, None
        handler = self.before[number or signal.SIGINT]
        if not callable(handler):
            raise KeyboardInterrupt
        self.__exit__()
        if number == signal.SIGUSR2:
            signal.signal(number, signal.SIG_IGN)  # one call puts the job back
        handler(number, None)
        self.__enter__()


def guard() -> None:
    """For a launcher's process: what its handler of SIGUSR2 raises becomes `GivenUp`."""
    before = signal.getsignal(signal.SIGUSR2)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        return

    def act(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except Exception as error:
            raise GivenUp(" ".join(str(error).split())) from error

    signal.signal(signal.SIGUSR2, act)


def _forget() -> None:
    """In a forked helper: only its parent may save or requeue, and it must end when it is told."""
    for number, plain in ((signal.SIGUSR2, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        if callable(signal.getsignal(number)):
            signal.signal(number, plain)


os.register_at_fork(after_in_child=_forget)
