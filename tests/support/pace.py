"""How fast this machine is now: limits in seconds hold on one that is slow or shared, too."""

from __future__ import annotations

import time

IDLE = 0.022  # seconds of processor time that `work` takes where the limits were set


def work() -> None:
    sorted({str(number): number for number in range(50_000)}, key=lambda word: word[::-1])


def pace() -> float:
    """How many times longer than there a fixed piece of Python takes here; never below 1."""
    seconds = []
    for _ in range(3):
        before = time.process_time()
        work()
        seconds.append(time.process_time() - before)
    return max(1.0, sorted(seconds)[1] / IDLE)
