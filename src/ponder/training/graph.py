"""A round and a step of the loop as CUDA graphs (`trainer.graph`): all their kernels start at once.

Launching a kernel takes the processor longer than a tiny network needs for it. A graph holds the
kernels of a whole function and the addresses that they read and write; it is recorded once and
replayed on new inputs, which are copied to where the recorded ones lay. So a function that is
replayed must not look at a value on the host, and every Python number in it is a constant: those
that change from step to step (a schedule's value, how many positions have begun) are part of the
key under which a graph is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ponder.config.registry import REWARDS
from ponder.core.distributed import is_distributed
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.rollouts import PreparedSource, Source
from ponder.strategies.base import Strategy
from ponder.tasks.base import Task

if TYPE_CHECKING:
    from ponder.config.spine import Config

WARM = 3  # ordinary calls before one is recorded: libraries set themselves up in them
MOST = 40  # keys; beyond them something changes all the time
Result = TypeVar("Result")
Replay = Callable[[], None]
# Records what a function does on the device: (its results, where each replay leaves them; replay).
Recorder = Callable[[Callable[[], Any]], tuple[Any, Replay]]

for record in (Problems, Rollouts, Sampling):
    if record not in pytree.SUPPORTED_NODES:
        pytree.register_dataclass(record)


@dataclass
class Recorded:
    """inputs and result lie where the graph reads and writes them."""

    inputs: list[Tensor]
    result: Any
    replay: Replay


@dataclass
class Graphs:
    """Calls functions, and replays those that it has seen several times.

    record: None where everything is simply called. note: gets a line that says why there are no
    graphs. failed: why not; nothing is recorded any more.
    """

    record: Recorder | None = None
    note: Callable[[str], None] = lambda line: None
    failed: str | None = None
    calls: dict[Hashable, int] = field(default_factory=dict)
    recorded: dict[Hashable, Recorded] = field(default_factory=dict)

    @property
    def on(self) -> bool:
        """Whether functions are replayed, so that nothing may be read from the device in them."""
        return self.record is not None and self.failed is None

    def __call__(self, function: Callable[..., Result], *inputs: Any,
                 constants: Hashable | None) -> Result:
        """function(*inputs), the result of a replay where it has been recorded. Such a result is
        overwritten by the next replay. constants: the Python values that the function depends on
        beside its inputs; None where they are not known, so that it can't be replayed.
        """
        if not self.on or constants is None:
            return function(*inputs)
        leaves, form = pytree.tree_flatten(inputs)
        key = (function.__qualname__, constants, form, *map(_kind, leaves))
        known = self.recorded.get(key)
        if known is None:
            self.calls[key] = self.calls.get(key, 0) + 1
            if len(self.calls) > MOST:
                self.give_up("what a step does changes all the time (a schedule that is no "
                              "learning rate's, or rollouts of other sizes)")
            if self.calls[key] <= WARM or not self.on:
                return function(*inputs)
            known = self._recorded(function, leaves, form)
            if known is None:
                return function(*inputs)
            self.recorded[key] = known
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for kept, new in zip(known.inputs, tensors, strict=True):
            kept.copy_(new, non_blocking=True)
        known.replay()
        return known.result

    def _recorded(self, function: Callable[..., Any], leaves: list[Any],
                  form: pytree.TreeSpec) -> Recorded | None:
        assert self.record is not None
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        inputs = pytree.tree_unflatten(own, form)
        try:
            result, replay = self.record(lambda: function(*inputs))
        except RuntimeError as error:
            self.give_up(str(error).strip().split("\n")[0][:200])
            return None
        return Recorded([leaf for leaf in own if isinstance(leaf, Tensor)], result, replay)

    def give_up(self, why: str) -> None:
        """Record nothing any more."""
        self.failed = why
        self.recorded.clear()
        self.note(f"trainer.graph: operations are started one by one; {why}")


def _kind(leaf: Any) -> Hashable:
    """What must be equal for one input to take another's place."""
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def record_cuda(function: Callable[[], Any]) -> tuple[Any, Replay]:
    """What a function does on the GPU, as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        result = function()
    return result, graph.replay


def build_graphs(config: Config, task: Task, source: Source, strategy: Strategy,
                 device: torch.device, note: Callable[[str], None]) -> Graphs:
    """Graphs where `trainer.graph` wants them and they can be made; `note` gets the reason why not.
    """
    if config.trainer.graph == "off" or device.type != "cuda":
        return Graphs()
    graphs = Graphs(record_cuda, note)
    reason = next(_obstacles(config, task, source, strategy), None)
    if reason is not None:
        graphs.give_up(reason)
    return graphs


def _obstacles(config: Config, task: Task, source: Source, strategy: Strategy) -> Iterator[str]:
    """What a replay could not do, in the words of the command line."""
    trainer = config.trainer
    if is_distributed():
        yield "several processes exchange their gradients"
    if task.policy_kind != "question" or config.model.kind == "hf":
        yield "texts are of any length"
    if task.epoch_size is not None:
        yield f"task={config.task.name} leaves questions out that teach nothing"
    for key in ("compile", "reset_model_every_epoch", "rationalise", "rehearse"):
        if value := getattr(trainer, key):
            yield f"found trainer.{key}={value}"
    if trainer.optimizer != "adamw" or trainer.engine != "ponder":
        yield f"found trainer.optimizer={trainer.optimizer}, trainer.engine={trainer.engine}"
    if config.strategy.tokens_per_rollout:
        yield f"found strategy.tokens_per_rollout={config.strategy.tokens_per_rollout}"
    if type(source).collect is not PreparedSource.collect:
        yield f"{type(source).__name__} decides on the host while it collects"
    own = [type(source), type(strategy), *(REWARDS[name].target for name in config.reward)]
    for part in own:
        if not part.__module__.startswith("ponder."):
            yield f"{part.__name__} is a plugin's"
    if strategy.constants(0) is None:
        yield f"strategy={config.strategy.name} looks at numbers while it learns"
