"""Where the time of a training step goes: exclusive host seconds of its named parts."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from common import table
from ponder.rollouts import sampler as rollout
from ponder.training.trainer import Trainer


class Stopwatch:
    """Times functions while they are wrapped; the time of a part excludes that of parts inside."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside: list[float] = []

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            self.inside.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                total = time.perf_counter() - started
                self.spent[name] += total - self.inside.pop()
                if self.inside:
                    self.inside[-1] += total

        return timed

    @contextlib.contextmanager
    def on(self, parts: list[tuple[Any, str, str]]) -> Iterator[None]:
        """Time `owner.attribute` under a name while the context lasts; absent ones are skipped."""
        with contextlib.ExitStack() as stack:
            for owner, attribute, name in parts:
                if hasattr(owner, attribute):
                    timed = self.wrap(getattr(owner, attribute), name)
                    stack.enter_context(mock.patch.object(owner, attribute, timed))
            yield


def parts_of(trainer: Trainer) -> list[tuple[Any, str, str]]:
    """(owner, attribute, name) of the parts of a step, in the order in which they happen."""
    return [(trainer.task, "sample", "questions"),
            (rollout, "_prefill", "prefill"), (rollout, "_choose", "logits and draw"),
            (trainer.policy.thinker, "extend", "extend"), (trainer.source, "collect", "records"),
            (trainer, "reward", "reward"), (trainer.learner.strategy, "credit", "credit"),
            (trainer.learner, "denominators", "loss"), (trainer.learner, "score", "forward"),
            (trainer.learner, "losses", "loss"), (torch.Tensor, "backward", "backward"),
            (trainer.learner, "clip", "clip"), (trainer.learner.optimizer, "step", "optimizer"),
            (trainer.learner.optimizer, "zero_grad", "optimizer"),
            (trainer, "step", "other"), (trainer, "collect", "other")]


def profile(trainer: Trainer, steps: int, operators: int = 12) -> str:
    """Two tables: milliseconds a step of each part, and of the costliest operators."""
    watch, parts = Stopwatch(), parts_of(trainer)
    with watch.on(parts):
        for _ in range(steps):
            trainer.step([trainer.collect()])
    whole = sum(watch.spent.values())
    order = list(dict.fromkeys(name for _, _, name in parts if name in watch.spent))
    rows = [["part of a step", "ms", "share"]]
    rows += [[name, f"{1e3 * watch.spent[name] / steps:.2f}", f"{watch.spent[name] / whole:.0%}"]
             for name in order]
    rows.append(["whole", f"{1e3 * whole / steps:.2f}", "100%"])
    return table(rows) + "\n\n" + _operators(trainer, steps, operators)


def _operators(trainer: Trainer, steps: int, count: int) -> str:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(steps):
            trainer.step([trainer.collect()])
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    rows = [["operator", "ms", "share", "calls"]]
    rows += [[event.key[:48], f"{event.self_cpu_time_total / 1e3 / steps:.2f}",
              f"{event.self_cpu_time_total / whole:.0%}", f"{event.count / steps:.0f}"]
             for event in events[:count]]
    return table(rows)
