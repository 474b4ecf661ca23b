"""What the terminal shows: a live display for people, plain lines for log files.

Notes and evaluations also go to the job's log file (`run.log`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ponder.core.distributed import is_main_process
from ponder.core.metrics import pace
from ponder.rollouts.written import Batch, Listener, SamplingProgress
from ponder.tokenizers.vocabulary import COLOURS, pieces

SHOWN = (("loss", "loss", "{:.3f}".format), ("val/loss", "held-out loss", "{:.3f}".format),
         ("reward", "reward", "{:.3f}".format), ("accuracy", "accuracy", "{:.4f}".format),
         ("thought_entropy", "entropy", "{:.2f}".format), ("steps_per_second", "steps/s", pace),
         ("rollouts_per_second", "rollouts/s", "{:.0f}".format))


def figures(metrics: dict[str, float]) -> str:
    """The most important numbers in one line."""
    return "  ".join(f"{label} {form(metrics[name])}" for name, label, form in SHOWN
                     if name in metrics)


def log_line(text: str) -> None:
    """Add a line to the job's log file, where there is one; nothing is printed."""
    record = logging.LogRecord("ponder", logging.INFO, __file__, 0, text, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            with contextlib.suppress(OSError):  # a full disk is reported by what must be written
                handler.stream.write(handler.format(record) + "\n")
                handler.flush()


class Plain:
    """Prints a line for every evaluation, and at most one every ten seconds in between."""

    every = 10.0

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.last = time.monotonic()

    def note(self, text: str) -> None:
        """Show a line that stays."""
        log_line(text)
        self._print(text)

    def _print(self, text: str) -> None:
        print(text, flush=True)

    def _pass(self, text: str) -> None:
        """Show a line that the next one replaces, where that can be done."""
        self._print(text)

    def update(self, step: int, end: int | None, metrics: dict[str, float]) -> None:
        """Show the numbers of a step. end: the last step, None where it is not known yet."""
        self.latest.update(metrics)
        line = f"step {step}{'' if end is None else f'/{end}'}  {figures(self.latest)}"
        if "accuracy" in metrics:
            log_line(line)
        self._show_step(step, end, line, "accuracy" in metrics)

    def _show_step(self, step: int, end: int | None, line: str, evaluated: bool) -> None:
        if evaluated or time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            (self._print if evaluated else self._pass)(line)

    def busy(self, line: str, over: bool) -> None:
        """Show the progress of work that takes no optimizer steps. over: it has ended."""
        if time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            self._pass(line)

    def samples(self, rows: list[str]) -> None:
        """Show a few rollouts."""

    def close(self) -> None:
        """End the live display; what is shown stays."""


class Silent(Plain):
    """Shows nothing: the console of every process but the main one."""

    def note(self, text: str) -> None:
        pass

    def update(self, step: int, end: int | None, metrics: dict[str, float]) -> None:
        pass

    def busy(self, line: str, over: bool) -> None:
        pass


class Notebook(Plain):
    """Prints a line for every evaluation, and below it one line that says how far the run is."""

    every = 1.0
    width = 0  # of the line that is to be replaced

    def _print(self, text: str) -> None:
        self._pass(text)
        print(flush=True)
        self.width = 0

    def _pass(self, text: str) -> None:
        print(f"\r{text.ljust(self.width)}", end="", flush=True)
        self.width = len(text)

    def close(self) -> None:
        if self.width:
            print(f"\r{' ' * self.width}", end="\r", flush=True)
            self.width = 0


class Rich(Plain):
    """A bar, the numbers, and a few rollouts in colour; it begins when there is something to show.
    bar: there are optimizer steps.
    """

    def __init__(self, console: Console, bar: bool = True) -> None:
        super().__init__()
        self.console = console
        self.progress = Progress(BarColumn(None), MofNCompleteColumn(), TextColumn("steps, left"),
                                 TimeRemainingColumn(), console=console)
        self.task = self.progress.add_task("train", total=None, visible=bar)
        self.rollouts: list[Text] = []
        self.doing = ""
        self.live = Live(self._render(), console=console, refresh_per_second=4)

    def _render(self) -> Group:
        panel = Panel(Group(*self.rollouts), title="held-out questions", title_align="left",
                      border_style="dim")
        return Group(self.progress, Text(figures(self.latest)),
                     *([Text(self.doing)] if self.doing else []),
                     *([panel] if self.rollouts else []))

    def _refresh(self) -> None:
        self.live.start()  # also again, where it was closed for a requeue that did not happen
        self.live.update(self._render())

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _show_step(self, step: int, end: int | None, line: str, evaluated: bool) -> None:
        self.progress.update(self.task, completed=step, total=end)
        self._refresh()

    def busy(self, line: str, over: bool) -> None:
        if over or time.monotonic() - self.last > 0.25:
            self.last = time.monotonic()
            self.doing = "" if over else line
            self._refresh()

    def samples(self, rows: list[str]) -> None:
        self.rollouts = [coloured(row) for row in rows]
        self._refresh()

    def close(self) -> None:
        self.live.stop()


def coloured(row: str) -> Text:
    """Tokens in colour: blue ordinary, cyan thought, magenta special."""
    text = Text()
    for word, kind in pieces(row):
        text.append(word, COLOURS[kind])
    return text


def build_console(bar: bool = False) -> Plain:
    """The live display on a terminal, a line that is replaced in a notebook, plain lines elsewhere,
    nothing in processes but the main one.

    bar: there are optimizer steps to show.
    """
    if not is_main_process():
        return Silent()
    console = Console()
    if console.is_terminal and sys.stdout.isatty():
        return Rich(console, bar)
    return Notebook() if console.is_jupyter else Plain()


class ProgressReporter(Listener):
    """Shows how far sampling, scoring and searching is.

    pause is called at every token step, and may raise. on_batch is called with every sampled batch.
    """

    def __init__(self, console: Plain, pause: Callable[[], None] = lambda: None,
                 on_batch: Callable[[Batch], None] = lambda batch: None) -> None:
        self.console, self.pause, self.on_batch = console, pause, on_batch
        self.started: dict[str, float] = {}  # time, of each activity

    def sampling(self, progress: SamplingProgress) -> None:
        rows = progress.rows + progress.cached
        seconds = self._seconds("sampling", begins=not (progress.tokens or progress.cached))
        self.console.busy(f"writing {rows}/{progress.total} texts  "
                          f"{progress.tokens / seconds:.0f} tokens/s  "
                          f"{_left(seconds, progress.share)}", rows == progress.total)
        self.pause()

    def sampled(self, batch: Batch) -> None:
        self.on_batch(batch)

    def told(self, line: str) -> None:
        self.console.note(line)

    def scoring(self, doing: str, rows: int, total: int) -> None:
        """`rows` of `total` are done; doing: what is done to what, as people read it."""
        seconds = self._seconds(doing, begins=rows == 0)
        if rows:
            self.console.busy(f"{doing} {rows}/{total}  {_left(seconds, rows / total)}",
                              rows == total)
        if rows < total:
            self.pause()

    def _seconds(self, doing: str, begins: bool) -> float:
        """Since the activity began."""
        if begins:
            self.started[doing] = time.monotonic()
        return max(time.monotonic() - self.started[doing], 1e-9)


def _left(seconds: float, share: float) -> str:
    return f"{seconds * (1 / max(share, 1e-9) - 1):.0f} s left"
