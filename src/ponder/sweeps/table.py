"""The jobs of a sweep as a table on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ponder.config.errors import shown
from ponder.core.metrics import pace
from ponder.sweeps.state import State

ORDER = {"failed": "red", "vanished": "magenta", "running": "cyan", "elsewhere": "yellow",
         "queued": "dim", "done": "green"}  # and its colour


def counted(found: Sequence[State]) -> str:
    """`3 running, 9 done`."""
    count = Counter(state.name for state in found)
    return ", ".join(f"{count[name]} {name}" for name in ORDER if count[name]) or "no job"


def table(found: Sequence[State], rows: int) -> Any:
    """A row a job: the first `rows`, those first that one would look at first where there is no
    room for all.
    """
    from rich.table import Table
    from rich.text import Text

    kept = list(found)
    if len(kept) > rows:
        order = list(ORDER)
        kept = sorted(kept, key=lambda state: order.index(state.name))[:rows]
    same, told = set(_shared(found)), any(state.error for state in kept)
    made = Table(caption=f"… and {len(found) - len(kept)} more" if len(kept) < len(found) else None,
                 caption_justify="left")
    for name in ("job", "state", "step", "steps/s", "accuracy", "left"):
        made.add_column(name, justify="left" if name in ("job", "state") else "right", no_wrap=True)
    made.add_column("what differs", overflow="fold")
    if told:
        made.add_column("last error", overflow="fold")
    for state in kept:
        differing = [word for word in state.job.overrides if word not in same]
        cells = [state.job.directory, state.name, *_numbers(state), " ".join(differing)]
        if told:
            cells.append(state.error)
        texts = [Text(cell) for cell in cells]
        texts[1].stylize(ORDER[state.name])
        made.add_row(*texts)
    return made


def _numbers(state: State) -> list[str]:
    """Step, rate, accuracy and time left, as far as they are known."""
    end = "" if state.end is None else f"/{state.end}"
    left = "" if state.left is None else str(timedelta(seconds=round(state.left)))
    return ["" if state.step is None else f"{state.step}{end}",
            "" if state.rate is None else pace(state.rate),
            "" if state.accuracy is None else f"{state.accuracy:.4f}", left]


def heading(sweep: Any, found: Sequence[State]) -> str:
    """Whose table it is, and the words that all its jobs share."""
    same = _shared(found)
    return f"{sweep}: {counted(found)}" + (f"\nall: {' '.join(map(shown, same))}" if same else "")


def _shared(found: Sequence[State]) -> list[str]:
    """The words that all jobs have, in order."""
    return [word for word in found[0].job.overrides
            if all(word in state.job.overrides for state in found)] if found else []
