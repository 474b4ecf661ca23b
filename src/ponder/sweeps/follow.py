"""Shows the jobs of a sweep: while they run, when they have ended, and for `action=sweep`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from hydra.core.utils import JobReturn

from ponder.config.errors import JobFailed, shown
from ponder.config.spine import Config, program
from ponder.core.metrics import pace
from ponder.sweeps import plan
from ponder.sweeps.jobs import (
    ACTIVE,
    LOST,
    JobState,
    find_sweep,
    job_states,
    read_jobs,
    read_summary,
)

REFRESH_SECONDS = 2.0
PRINTED_ROWS = 1000  # the most rows of a table that is printed once
COLOURS = {"failed": "red", "vanished": "magenta", "running": "cyan", "elsewhere": "yellow",
           "queued": "dim", "done": "green"}  # status -> colour, the most urgent first


def show_command(sweep: Path) -> str:
    """The command that shows a sweep."""
    return f"{program()} action=sweep sweep.dir={sweep}"


def compare_hint(sweep: Path) -> str:
    """The line that ends a sweep: how to compare its runs; "" with fewer than two results."""
    done = sum(read_summary(sweep / job.directory) is not None for job in read_jobs(sweep))
    return "" if done < 2 else (f"{done} runs are done; to compare them: {program()} "
                                f"action=compare runs={sweep}")


def _states_of(sweep: Path, directories: Sequence[str]) -> list[JobState]:
    """The states of those jobs of a sweep that run in these directories."""
    return job_states(sweep, [job for job in read_jobs(sweep) if job.directory in {*directories}])


class Follower:
    """Progress of a sweep that is waited for: a live table on a terminal; elsewhere a line whenever
    the counts of running, queued and ended jobs change.
    """

    def __init__(self, sweep: Path, directories: Sequence[str]) -> None:
        self.sweep, self.directories = sweep, directories
        self.last_time, self.last_line = -REFRESH_SECONDS, ""
        self.live: Any = None
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def refresh(self) -> list[JobState] | None:
        """Show the current states and return them; None if the last refresh was just now."""
        if time.monotonic() - self.last_time < REFRESH_SECONDS:
            return None
        states = _states_of(self.sweep, self.directories)
        self.last_time = time.monotonic()
        if self.live:
            rows = max(3, self.live.console.height - 8)
            self.live.update(_heading_and_table(self.sweep, states, rows), refresh=True)
        elif count_statuses(states) != self.last_line:
            self.last_line = count_statuses(states)
            print(self.last_line, flush=True)
        return states

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()


def wait_for(sweep: Path, active: dict[int, JobState], exit_codes: list[int],
             ) -> dict[int, JobReturn]:
    """Wait until jobs that another process launched have ended, and return their results.

    Each job that was lost gets a line on stderr and an exit code.
    """
    with Follower(sweep, [state.job.directory for state in active.values()]) as follower:
        states = follower.refresh() if active else []
        while any(state.status in ACTIVE for state in states or []):
            time.sleep(REFRESH_SECONDS)
            states = follower.refresh() or states
    for state in states or []:
        if state.status in LOST:
            plan.print_error(state.job.job, state.job.overrides, state.error or state.status)
            exit_codes.append(1)
    return {number: plan.job_return(state.job.overrides, read_summary(sweep / state.job.directory))
            for number, state in active.items()}


def print_lost(sweep: Path, directories: Sequence[str]) -> None:
    """After a sweep: a table of the jobs that were lost, if any, and how to send them again."""
    states = _states_of(sweep, directories)
    lost = [state for state in states if state.status in LOST]
    if lost:
        _print(sweep, lost)
        print(f"{count_statuses(states)}; {show_command(sweep)} sweep.retry=failed sends again "
              "what was lost")


def show_sweep(config: Config) -> None:
    """`action=sweep`: the table of a sweep, on a terminal live until its jobs have ended.

    Raises `UserError` where there is no sweep, `JobFailed` where jobs were lost.
    """
    sweep = find_sweep(config.sweep.dir)
    jobs = read_jobs(sweep)
    states = job_states(sweep, jobs)
    if sys.stdout.isatty() and any(state.status in ACTIVE for state in states):
        with Follower(sweep, [job.directory for job in jobs]) as follower:
            try:
                while any(state.status in ACTIVE for state in states):
                    states = follower.refresh() or states
                    time.sleep(0.2)
            except KeyboardInterrupt:  # leaves the view; the jobs are not touched
                states = job_states(sweep, jobs)
    else:
        _print(sweep, states)
    lost = [state.job.directory for state in states if state.status in LOST]
    if lost:
        raise JobFailed(f"{len(lost)} of {len(states)} jobs failed or vanished ({lost[0]}"
                        f"{', ...' if lost[1:] else ''}); again: {show_command(sweep)} "
                        "sweep.retry=failed")
    hint = compare_hint(sweep)
    if hint and not any(state.status in ACTIVE for state in states):
        print(hint)


# --- the table -----------------------------------------------------------------------------------


def _print(sweep: Path, states: Sequence[JobState]) -> None:
    from rich.console import Console

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=10_000)
    console.print(_heading_and_table(sweep, states, PRINTED_ROWS), soft_wrap=False)


def _heading_and_table(sweep: Path, states: Sequence[JobState], rows: int) -> Any:
    """The sweep, its counts and the arguments that all its jobs share, above the table."""
    from rich.console import Group
    from rich.text import Text

    heading, shared = f"{sweep}: {count_statuses(states)}", _shared_overrides(states)
    if shared:
        heading += f"\nall: {' '.join(map(shown, shared))}"
    return Group(Text(heading), job_table(states, rows))


def count_statuses(states: Sequence[JobState]) -> str:
    """`3 running, 9 done`."""
    count = Counter(state.status for state in states)
    return ", ".join(f"{count[name]} {name}" for name in COLOURS if count[name]) or "no job"


def job_table(states: Sequence[JobState], rows: int) -> Any:
    """A `rich` table with one row per job. If there is no room for all, the most urgent `rows`."""
    from rich.table import Table
    from rich.text import Text

    kept = list(states)
    if len(kept) > rows:
        urgency = list(COLOURS)
        kept = sorted(kept, key=lambda state: urgency.index(state.status))[:rows]
    shared, with_errors = {*_shared_overrides(states)}, any(state.error for state in kept)
    hidden = len(states) - len(kept)
    table = Table(caption=f"… and {hidden} more" if hidden else None, caption_justify="left")
    for name in ("job", "state", "step", "steps/s", "accuracy", "left"):
        table.add_column(name, justify="left" if name in ("job", "state") else "right",
                         no_wrap=True)
    table.add_column("what differs", overflow="fold")
    if with_errors:
        table.add_column("last error", overflow="fold")
    for state in kept:
        differing = " ".join(word for word in state.job.overrides if word not in shared)
        cells = [state.job.directory, state.status, *_number_cells(state), differing]
        texts = [Text(cell) for cell in [*cells, *[state.error] * with_errors]]
        texts[1].stylize(COLOURS[state.status])
        table.add_row(*texts)
    return table


def _number_cells(state: JobState) -> list[str]:
    """Step, steps per second, accuracy and time left; "" where unknown."""
    last, left = state.last_step, state.seconds_left
    return ["" if state.step is None else f"{state.step}{'' if last is None else f'/{last}'}",
            "" if state.rate is None else pace(state.rate),
            "" if state.accuracy is None else f"{state.accuracy:.4f}",
            "" if left is None else str(timedelta(seconds=round(left)))]


def _shared_overrides(states: Sequence[JobState]) -> list[str]:
    """The arguments that all jobs have, in order."""
    return [word for word in states[0].job.overrides
            if all(word in state.job.overrides for state in states)] if states else []
