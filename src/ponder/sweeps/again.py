"""sweep.retry=failed: the words of a sweep of those jobs that another one lost."""

from __future__ import annotations

from ponder.config.errors import UserError, shown
from ponder.sweeps.follow import named
from ponder.sweeps.state import lost

OURS = ("action=", "sweep.", "hydra.", "hydra/launcher=", "+hydra.")


def words(arguments: list[str]) -> list[str]:
    """What to type for the jobs that failed or vanished, to run where the last of them was sent,
    unless the arguments say where.

    Raises `UserError` for words that would change a job, and where there is no sweep.
    """
    other = [word for word in arguments if not word.startswith(OURS)]
    if other:
        raise UserError(f"{other[0]}: found sweep.retry=failed, which sends jobs as they were; "
                        "legal: with it sweep.dir, sweep.detach and hydra.launcher.<key>")
    said = [word.partition("=")[2] for word in arguments if word.startswith("sweep.dir=")]
    sweep = named(said[-1] if said else None)
    jobs = lost(sweep)
    before = jobs[-1].launcher if jobs else []
    kept = [word for word in arguments if not word.startswith(("action=", "sweep.dir="))]
    if any(word.startswith("hydra/launcher=") for word in arguments):
        before = []
    return ["-m", *before, *kept, "hydra/sweeper=again", f"sweep.dir={shown(str(sweep))}"]
