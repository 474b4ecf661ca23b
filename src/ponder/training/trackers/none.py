"""No tracker."""

from __future__ import annotations

from ponder.config.registry import tracker
from ponder.config.running import LoggerConfig
from ponder.training.trackers import TrackedRun


@tracker("none")
class NoTracker:
    """Metrics go to metrics.jsonl only."""

    def __init__(self, config: LoggerConfig | None = None, run: TrackedRun | None = None) -> None:
        pass

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass
