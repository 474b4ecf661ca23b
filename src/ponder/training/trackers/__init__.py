"""Trackers: the numbers of metrics.jsonl, which is the record, shown elsewhere too.

A tracker is a class with `write` and `close`, registered with `@tracker`. One that shows tables has
`table` as well, and one that leaves out no line and repeats none when a run goes on has
`begins_after`: the step up to which it has all lines already. The lines after that are written into
it again from metrics.jsonl, so that a run that was killed and resumed is one run there, whatever
the tracker had buffered or had written of steps that are taken again.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ponder.config.errors import UserError, brief
from ponder.config.registry import TRACKERS
from ponder.config.resolve import typed_words
from ponder.config.running import LoggerConfig
from ponder.config.spine import TRACKER_ID

ROWS = 20  # of a table of rollouts
COLUMNS = ("question", "thought", "answer", "gold", "correct", "reward")  # of them
NECESSITY = "necessity/"  # what the names of the numbers of the necessity table begin with
BAR = 20  # characters of a bar that stands for 1
Rows = list[dict[str, Any]]


class Tracker(Protocol):
    """Shows metrics; built with the keys `logger.*` and a `TrackedRun`."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run. step: the step after which it goes on; length: bytes of
    metrics.jsonl that the run keeps, which a checkpoint is of.
    """

    directory: Path
    config: dict[str, Any]
    step: int = 0
    length: int = 0

    def history(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, metrics) of each line of metrics.jsonl that the run keeps."""
        if not self.length:
            return
        with (self.directory / "metrics.jsonl").open("rb") as file:
            for line in file.read(self.length).splitlines():
                found = json.loads(line)
                yield found.pop("step"), {name: math.nan if value is None else value
                                          for name, value in found.items()}

    def rollouts(self, step: int) -> Rows:
        """The first rows of the table of an earlier evaluation; none where there is no table."""
        path = self.directory / f"val_{step}" / "generated.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [row for _, row in zip(range(ROWS), csv.DictReader(file), strict=False)]

    def identity(self, name: str) -> str | None:
        """Under which a tracker knows the run since an earlier call of `keep_identity`."""
        path = self.directory / TRACKER_ID.format(name)
        return path.read_text().strip() if path.is_file() else None

    def keep_identity(self, name: str, identity: str) -> None:
        """Keep in the run directory under which a tracker knows the run."""
        (self.directory / TRACKER_ID.format(name)).write_text(identity)

    def name(self, config: LoggerConfig) -> str:
        """The run's name, as `logger.naming` says."""
        if config.naming == "directory":
            return "/".join(self.directory.resolve().parts[-2:])
        return parameter_name(self.config, typed_words())


class Mirrors:
    """Several trackers as one. One that fails is told of once and gets no more numbers: no run ends
    because it cannot be shown. note: takes a line for people.
    """

    def __init__(self, trackers: dict[str, Tracker] | None = None,
                 note: Callable[[str], None] = print) -> None:
        self.trackers, self.note = dict(trackers or {}), note
        self.step, self.written = -1, set[str]()  # the last step, and the names of its numbers

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if step != self.step:
            self.step, self.written = step, set()
        new = {name: value for name, value in metrics.items() if name not in self.written}
        self.written |= {*metrics}  # an evaluation repeats the epoch of its step
        self._all("write", step, new)
        shares = {name.removeprefix(NECESSITY): value for name, value in metrics.items()
                  if name.startswith(NECESSITY) and name.count("/") == 1}
        if shares:
            self._all("table", step, "necessity_bars", necessity_bars(shares))

    def rollouts(self, step: int, rows: Rows) -> None:
        """Show the first rows of an evaluation's table."""
        if rows:
            self._all("table", step, "rollouts", [
                {name: row[name] for name in COLUMNS if name in row} for row in rows[:ROWS]])

    def begin(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        """Add a tracker, and show it what it lacks of the run so far."""
        one = Mirrors({name: tracker}, self.note)
        after = getattr(tracker, "begins_after", run.step)
        for step, metrics in run.history():
            if step > after:
                one.write(step, metrics)
                one.rollouts(step, [] if "lr" in metrics else run.rollouts(step))
        self.trackers |= one.trackers

    def close(self) -> None:
        self._all("close")
        self.trackers = {}

    def _all(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                getattr(tracker, method, _ignore)(*arguments)
            except Exception as error:  # whatever a library raises
                del self.trackers[name]
                with contextlib.suppress(Exception):
                    if method != "close":
                        tracker.close()
                self.note(f"warning: logger={name} has failed and gets no more numbers "
                          f"({type(error).__name__}: {brief(error)}); metrics.jsonl has them all")


def _ignore(*_: Any) -> None:
    pass


def build_tracker(config: LoggerConfig, run: TrackedRun,
                  note: Callable[[str], None] = print) -> Mirrors:
    """The trackers that `logger` names, with all of the run so far.

    Raises `UserError` for one that cannot begin. Where the run goes on after an interruption, it
    does so without that one, and `note` is called with a line.
    """
    mirrors = Mirrors(note=note)
    for name in config.names if config.mode != "disabled" else ():
        try:
            mirrors.begin(name, TRACKERS[name].target(config, run), run)
        except Exception as error:  # whatever a library raises
            said = str(error) if isinstance(error, UserError) else (
                f"logger={name}: cannot begin ({type(error).__name__}: {brief(error)})")
            if not run.step:
                mirrors.close()
                legal = "" if "; legal: " in said else "; legal: another tracker, or none"
                raise UserError(f"{said}{legal}") from None
            note(f"warning: {said}; the run goes on without it, and metrics.jsonl has all numbers")
    return mirrors


# --- tables ---------------------------------------------------------------------------------------

def necessity_bars(shares: dict[str, float]) -> Rows:
    """The accuracy with each kind of thoughts, as a number and as a bar."""
    return [{"thoughts": name, "accuracy": value, "bar": "█" * round(BAR * value)}
            for name, value in shares.items() if math.isfinite(value)]


def markdown(rows: Rows) -> str:
    """Rows as a table in Markdown, one line each."""
    def line(cells: Any) -> str:
        whole = (" ".join(str(cell).split()) for cell in cells)
        safe = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in whole)
        return f"| {' | '.join(safe)} |"

    return "\n".join([line(rows[0]), line("---" for _ in rows[0]),
                      *(line(row.values()) for row in rows)])


# --- names of runs --------------------------------------------------------------------------------

def parameter_name(run: dict[str, Any], typed: list[str]) -> str:
    """A name made of parameters, such as `train_beta=0.1_samples=3_ts=dpo_ds=mmlu_...`.

    run: the whole configuration. typed: the words of the command line; the name has a number as it
    was typed there, `wd=100` or `wd=100.0`.
    """
    task, strategy, trainer = run["task"], run["strategy"], run["trainer"]
    right = strategy.get("keep") == "correct"
    language = task.get("language", "EN")
    parts = {"beta": strategy.get("beta"), "samples": run["rollout"]["samples"],
             "ts": "reinforce" if right else strategy["name"],
             "ds": task["name"] if language == "EN" else f"{task['name']}_{language}",
             "lr": trainer["lr"], "wd": trainer["weight_decay"],
             "lora": run["model"].get("lora_r"),
             "gaccum": trainer["train_gradient_accumulation_steps"], "warmup": trainer["warmup"],
             "gnorm": trainer["grad_clip"], "shuff": task.get("shuffle"), "seed": run["seed"]}
    for part, key in (("beta", "strategy.beta"), ("lr", "trainer.lr"),
                      ("wd", "trainer.weight_decay"), ("gnorm", "trainer.grad_clip")):
        said = [word.partition("=")[2] for word in typed if word.startswith(f"{key}=")]
        if said and re.fullmatch(r"\d+", said[-1]):
            parts[part] = int(said[-1])
    return "_".join([run["run_type"], *(f"{part}={value}" for part, value in parts.items())])
