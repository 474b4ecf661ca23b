"""TensorBoard."""

from __future__ import annotations

from ponder.config.registry import tracker
from ponder.config.running import LoggerConfig
from ponder.training.trackers import Rows, TrackedRun, markdown


@tracker("tensorboard")
class Tensorboard:
    """TensorBoard event files in the run directory.

    A run that goes on writes them anew: a process that is killed loses the events of two minutes,
    and has written some of steps that are taken again.
    """

    packages, install = ("tensorboard",), "'ponder[tensorboard]'"
    begins_after = -1

    def __init__(self, config: LoggerConfig, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.directory / "tensorboard"
        earlier = list(folder.glob("events.out.tfevents.*"))
        for file in earlier:
            file.unlink()
        # An open TensorBoard has read the earlier events, and forgets them for this.
        self.writer = SummaryWriter(str(folder), purge_step=0 if earlier else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def table(self, step: int, name: str, rows: Rows) -> None:
        self.writer.add_text(name, markdown(rows), step)

    def close(self) -> None:
        self.writer.close()
