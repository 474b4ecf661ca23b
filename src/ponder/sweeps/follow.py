"""Looking at sweeps: while their jobs run, when they have ended, and with action=sweep."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hydra.core.utils import JobReturn

from ponder.config.errors import JobFailed, UserError
from ponder.config.spine import Config, program
from ponder.sweeps import plan
from ponder.sweeps.record import RECORD, read
from ponder.sweeps.state import ALIVE, LOST, State, ending, states
from ponder.sweeps.table import counted, heading, table

EVERY = 2.0  # seconds between looks
ROWS = 1000  # rows of a table that is printed once


def looking(sweep: Path) -> str:
    """The command that shows a sweep."""
    return f"{program()} action=sweep sweep.dir={sweep}"


def of(sweep: Path, directories: Sequence[str]) -> list[State]:
    """How some jobs of a sweep stand."""
    return states(sweep, [job for job in read(sweep) if job.directory in set(directories)])


class Follower:
    """While a sweep is waited for: a live table on a terminal, elsewhere a line whenever the number
    of jobs that run, wait or have ended changes.
    """

    def __init__(self, sweep: Path, directories: Sequence[str]) -> None:
        self.sweep, self.directories = sweep, directories
        self.last, self.said = -EVERY, ""
        self.live: Any = _live() if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def look(self) -> list[State] | None:
        """Show how things stand; None where that was done a moment ago."""
        if time.monotonic() - self.last < EVERY:
            return None
        found = of(self.sweep, self.directories)
        self.last = time.monotonic()
        if self.live:
            self.live.update(_drawn(self.sweep, found, self.live.console.height - 8), refresh=True)
        elif counted(found) != self.said:
            self.said = counted(found)
            print(self.said, flush=True)
        return found

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()


def _live() -> Any:
    from rich.live import Live

    return Live(auto_refresh=False, vertical_overflow="visible")


def _drawn(sweep: Path, found: Sequence[State], rows: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(heading(sweep, found)), table(found, max(3, rows)))


def wait_for(sweep: Path, going: dict[int, State], codes: list[int]) -> dict[int, JobReturn]:
    """What became of jobs that were launched by another process, once they have ended; a line and
    a code for each that was lost.
    """
    names = [state.job.directory for state in going.values()]
    with Follower(sweep, names) as follower:
        found = follower.look() if going else []
        while any(state.name in ALIVE for state in found or []):
            time.sleep(EVERY)
            found = follower.look() or found
    ended = {state.job.directory: state for state in found or []}
    for state in ended.values():
        if state.name in LOST:
            plan.tell(state.job.job, state.job.overrides, state.error or state.name)
            codes.append(1)
    return {number: plan.returned(state.job.overrides, ending(sweep / state.job.directory))
            for number, state in going.items()}


def closing(sweep: Path, directories: Sequence[str]) -> None:
    """After a sweep: the jobs that were lost, if any, and how to send them again."""
    found = of(sweep, directories)
    lost = [state for state in found if state.name in LOST]
    if lost:
        _print(sweep, lost)
        print(f"{counted(found)}; {looking(sweep)} sweep.retry=failed sends again what was lost")


def _print(sweep: Path, found: Sequence[State]) -> None:
    from rich.console import Console

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=10_000)
    console.print(_drawn(sweep, found, ROWS), soft_wrap=False)


def run(config: Config) -> None:
    """action=sweep: the table of a sweep, live on a terminal for as long as jobs go on.

    Raises `UserError` where there is no sweep, `JobFailed` where jobs were lost.
    """
    sweep = named(config.sweep.dir)
    jobs = read(sweep)
    found = states(sweep, jobs)
    if sys.stdout.isatty() and any(state.name in ALIVE for state in found):
        with Follower(sweep, [job.directory for job in jobs]) as follower:
            try:
                while any(state.name in ALIVE for state in found):
                    found = follower.look() or found
                    time.sleep(0.2)
            except KeyboardInterrupt:  # the way to leave
                found = states(sweep, jobs)
    else:
        _print(sweep, found)
    lost = [state.job.directory for state in found if state.name in LOST]
    if lost:
        raise JobFailed(f"{len(lost)} of {len(found)} jobs failed or vanished ({lost[0]}"
                        f"{', ...' if lost[1:] else ''}); again: {looking(sweep)} "
                        "sweep.retry=failed")


def named(directory: str | None) -> Path:
    """The directory of a sweep; the newest in star_runs where none is named."""
    if directory is not None:
        found = Path(directory)
        if not read(found):
            raise UserError(f"sweep.dir={directory}: found no {RECORD} with jobs there; legal: the "
                            "directory of a sweep")
        return found
    records = sorted(Path("star_runs").glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"sweep.dir=null: found no star_runs/*/{RECORD}; legal: the directory of a "
                        "sweep")
    return records[-1].parent
