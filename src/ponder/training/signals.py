"""Signals that ask a run to end, also where a launcher has handlers for the same ones.

In a submitit job, SIGUSR2 has a handler that requeues the job and exits, and SIGTERM one that does
nothing (SIGKILL follows, or nothing). Ours replace them for a while: the signal is recorded, the
loop saves at the end of its step, and then the earlier handler is called.

Left out: an end without a signal. A job that is killed resumes from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

ORDER = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)  # most important first


class GivenUp(BaseException):
    """A launcher's handler could not requeue its job; the message says why.

    No `Exception`: it is raised wherever the signal arrives, and nothing there must catch it.
    """


class Signals:
    """A context in which the first Ctrl-C, SIGTERM or SIGUSR2 is only recorded, so that the loop
    can end cleanly; a second Ctrl-C or SIGTERM has its usual effect.
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
        if self.caught != signal.SIGUSR2:  # more important than those that come with it
            self.caught = number
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, self.before[other])

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def redeliver(self) -> None:
        """Call the handler that the caught signal had before, now that everything is saved. Where
        a launcher's handler returns, the run goes on. Raises `KeyboardInterrupt` without a handler.
        """
        number, self.caught = self.caught, None
        handler = self.before[number or signal.SIGINT]
        if not callable(handler):
            raise KeyboardInterrupt
        self.__exit__()
        if number == signal.SIGUSR2:
            signal.signal(number, signal.SIG_IGN)  # one call requeues the job
        handler(number, None)
        self.__enter__()


def guard() -> None:
    """In a launcher's process, let what its handler of SIGUSR2 raises become `GivenUp`."""
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
    """Reset handlers in a forked child: only its parent may save or requeue."""
    for number, plain in ((signal.SIGUSR2, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        if callable(signal.getsignal(number)):
            signal.signal(number, plain)


os.register_at_fork(after_in_child=_forget)
