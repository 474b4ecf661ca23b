"""What the terminal shows: a live display for people, plain lines for log files."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ponder.core.distributed import is_main_process
from ponder.core.metrics import pace
from ponder.tokenizers.vocabulary import COLOURS, pieces

SHOWN = (("loss", "loss", "{:.3f}".format), ("val/loss", "held-out loss", "{:.3f}".format),
         ("accuracy", "accuracy", "{:.4f}".format), ("thought_entropy", "entropy", "{:.2f}".format),
         ("steps_per_second", "steps/s", pace),
         ("rollouts_per_second", "rollouts/s", "{:.0f}".format))


def figures(metrics: dict[str, float]) -> str:
    """The numbers people watch, in one line."""
    return "  ".join(f"{label} {form(metrics[name])}" for name, label, form in SHOWN
                     if name in metrics)


class Plain:
    """Plain lines: one an evaluation, and one every ten seconds between."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.last = time.monotonic()

    def note(self, text: str) -> None:
        print(text, flush=True)

    def update(self, step: int, end: int | None, metrics: dict[str, float]) -> None:
        """Numbers at a step; end: the last step, as far as is known by now."""
        self.seen.update(metrics)
        if "accuracy" in metrics or time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            known = "" if end is None else f"/{end}"
            print(f"step {step}{known}  {figures(self.seen)}", flush=True)

    def busy(self, line: str, over: bool) -> None:
        """How far something is that is no step, and whether it is over."""
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            print(line, flush=True)

    def samples(self, rows: list[str]) -> None:
        pass

    def close(self) -> None:
        pass


class Silent(Plain):
    """Nothing: of processes that follow another."""

    def note(self, text: str) -> None:
        pass

    def update(self, step: int, end: int | None, metrics: dict[str, float]) -> None:
        pass

    def busy(self, line: str, over: bool) -> None:
        pass


class Rich(Plain):
    """A bar, the numbers, and a few rollouts in colour; no bar where there are no steps."""

    def __init__(self, total: int | None, console: Console) -> None:
        super().__init__()
        self.console = console
        self.progress = Progress(BarColumn(None), MofNCompleteColumn(), TextColumn("steps, left"),
                                 TimeRemainingColumn(), console=console)
        self.task = self.progress.add_task("train", total=total, visible=total is not None)
        self.rollouts: list[Text] = []
        self.doing = ""
        self.live = Live(self._render(), console=console, refresh_per_second=4)
        self.live.start()

    def _render(self) -> Group:
        panel = Panel(Group(*self.rollouts), title="held-out questions", title_align="left",
                      border_style="dim")
        return Group(self.progress, Text(figures(self.seen)),
                     *([Text(self.doing)] if self.doing else []),
                     *([panel] if self.rollouts else []))

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def update(self, step: int, end: int | None, metrics: dict[str, float]) -> None:
        self.seen.update(metrics)
        self.progress.update(self.task, completed=step, total=end)
        self.live.update(self._render())

    def busy(self, line: str, over: bool) -> None:
        if over or time.monotonic() - self.last > 0.25:
            self.last = time.monotonic()
            self.doing = "" if over else line
            self.live.update(self._render())

    def samples(self, rows: list[str]) -> None:
        self.rollouts = [coloured(row) for row in rows]
        self.live.update(self._render())

    def close(self) -> None:
        self.live.stop()


def coloured(row: str) -> Text:
    """Tokens in colour: blue ordinary, cyan thought, magenta special."""
    text = Text()
    for word, kind in pieces(row):
        text.append(word, COLOURS[kind])
    return text


def build_console(total: int | None) -> Plain:
    """The live display on a terminal, plain lines elsewhere, nothing from a process that follows
    another. total: of steps; None: there are none.
    """
    if not is_main_process():
        return Silent()
    console = Console()
    return Rich(total, console) if console.is_terminal and sys.stdout.isatty() else Plain()
