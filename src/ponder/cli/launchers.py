"""Where a sweep runs: the words that send it to a launcher, refused where there is none."""

from __future__ import annotations

import shutil

from ponder.config.errors import UserError

LAUNCHER = "hydra/launcher="
SWEEPER = "hydra/sweeper="
PARTITION = "hydra.launcher.partition="
OURS = {"submitit_slurm": "slurm", "submitit_local": "local", "basic": "here"}  # instead of Hydra's
AWAY = ("slurm", "local")
SWEEPING = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
ONLY_PRINT = {"--cfg", "-c", "--info", "-i", "--help", "--hydra-help", "--shell-completion", "-sc"}


def launched(arguments: list[str]) -> list[str]:
    """Arguments that name their launcher: a partition alone means `hydra/launcher=slurm`.

    Raises `UserError` for a launcher or a sweeper without -m, which Hydra passes over in silence,
    and for Slurm on a machine that has none.
    """
    arguments = _to_directory([_ours(word) for word in arguments])
    prints = any(word.partition("=")[0] in ONLY_PRINT for word in arguments)
    for word in arguments:
        if word.startswith(SWEEPER) and not prints and not SWEEPING & set(arguments):
            raise UserError(f"{word}: found no -m, without which nothing is swept; legal: -m in "
                            "front, or no word about a sweeper")
    named = [word for word in arguments if word.startswith(LAUNCHER)]
    said = named or [word for word in arguments if word.startswith(PARTITION)]
    if said and not named:
        named = [f"{LAUNCHER}slurm"]
        arguments = [*arguments, *named]
    if named and not prints:
        _refuse(said[-1], named[-1].partition("=")[2], arguments)
    return arguments


def _to_directory(arguments: list[str]) -> list[str]:
    """A sweep goes where `sweep.dir` says, too."""
    said = [word.partition("=")[2] for word in arguments if word.startswith("sweep.dir=")]
    if not said or not SWEEPING & set(arguments):
        return arguments
    return [*arguments, f"hydra.sweep.dir={said[-1]}"]


def _ours(word: str) -> str:
    key, _, name = word.partition("=")
    return f"{LAUNCHER}{OURS[name]}" if f"{key}=" == LAUNCHER and name in OURS else word


def _refuse(said: str, launcher: str, arguments: list[str]) -> None:
    """Raise `UserError` where the launcher that `said` asks for cannot be used."""
    if launcher in AWAY and not SWEEPING & set(arguments):
        raise UserError(f"{said}: found no -m, without which nothing is launched; legal: -m in "
                        "front, or no word about a launcher, to run here")
    if launcher == "slurm" and not shutil.which("sbatch"):
        raise UserError(f"{said}: found no sbatch on this machine; legal: a machine that sends "
                        f"jobs to Slurm, {LAUNCHER}local for several runs at once on this one, or "
                        "no word about a launcher for one run after another")
