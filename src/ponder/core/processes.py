"""Several processes as one: sums over all of them; with one process, nothing."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Value = TypeVar("Value")
MEETING = timedelta(minutes=5)  # so long a process waits for the others to begin
_rows: dict[str, DeviceMesh] = {}  # by kind of device; `end` empties them


def announced() -> bool:
    """Whether a launcher (torchrun, accelerate, ours) says that this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def begin(device: str) -> None:
    """Meet the other processes that the launcher has told us of, if any. Raises torch's DistError
    where one does not come.
    """
    if announced() and not dist.is_initialized():
        import torch.distributed.nn  # loaded later, its defaults would keep the group

        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0"))
                                  % torch.cuda.device_count())  # a task may see its own GPU only
        store, rank, world = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank,
                                world_size=world)


def meet() -> None:
    """Wait until all processes are here, with nothing of each other's still under way."""
    if several():
        dist.barrier()


def end() -> None:
    """Leave the group. Nothing may keep it: its threads, which hold tensors of Python's a moment
    longer than the work on them takes, would meet an interpreter that ends, and abort the process.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        for row in _rows.values():  # which the caches of torch's operators keep for good
            vars(row).get("_pg_registry", {}).clear()
        _rows.clear()
        gc.collect()


def in_a_row(device: str) -> DeviceMesh:
    """All processes, as what is in shares knows them."""
    if device not in _rows:
        from torch.distributed.device_mesh import init_device_mesh

        _rows[device] = init_device_mesh(device, (dist.get_world_size(),))
    return _rows[device]


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone, or does not answer."""
    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def several() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return not several() or dist.get_rank() == 0


def agreed(value: Value) -> Value:
    """What the leading process says, in every process; all wait for it."""
    if not several():
        return value
    said: list[Value] = [value]
    dist.broadcast_object_list(said)
    return said[0]


def everyones(value: Value) -> list[Value]:
    """What each process says, in the order of their ranks, in every process; all must ask."""
    if not several():
        return [value]
    said = [value] * dist.get_world_size()
    dist.all_gather_object(said, value)
    return said


def own(values: Sequence[Value]) -> Value:
    """This process's one of what `everyones` gave, also where they were fewer then."""
    return values[dist.get_rank() % len(values) if several() else 0]


def share(count: int) -> range:
    """The numbers below count that are this process's."""
    if not several():
        return range(count)
    world, rank = dist.get_world_size(), dist.get_rank()
    return range(count * rank // world, count * (rank + 1) // world)


def largest_share(count: int) -> int:
    """How many of `count` numbers the process with the most of them has."""
    return -(-count // (dist.get_world_size() if several() else 1))


def turn(number: int) -> bool:
    """Whether the work with this number is this process's, where all take turns."""
    return not several() or number % dist.get_world_size() == dist.get_rank()


def together(value: Tensor) -> Tensor:
    """What every process has put into its own part of a tensor; elsewhere it must be 0."""
    if not several():
        return value
    if value.dtype == torch.bool:
        return everywhere(value.byte()) > 0
    return everywhere(value.contiguous())


def everywhere(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same in each."""
    if several():
        dist.all_reduce(value)
    return value


def anywhere(flag: bool) -> bool:
    """Whether a flag is set in any process; all wait for it."""
    if not several():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(everywhere(torch.tensor(float(flag), device=device)) > 0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes, in one message. What has none has none in
    any process, as all compute the same things of as many micro-batches.

    Losses are divided by denominators of the whole step, so gradients add up and are not averaged.
    """
    if not several():
        return
    grads = [weight.grad for weight in parameters if weight.grad is not None]
    message = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(message)
    for grad, part in zip(grads, message.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def keep_memory() -> None:
    """Memory that was freed stays with the process. glibc hands large blocks back at once, and the
    system then clears each new one page by page: a third of the time of a CPU in large models.
    """
    most_mappings, trim_threshold = -4, -1
    _mallopt(most_mappings, 0)
    _mallopt(trim_threshold, -1)


def give_memory_back() -> None:
    """The opposite, where weights come and go: among blocks of all sizes glibc would find no room
    for the next ones, and keep two to three times of what is used.
    """
    mapping_threshold = -3
    _mallopt(mapping_threshold, 2**16)


def _mallopt(name: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(name, value)
