"""Several processes that train one model: collective operations, sharded weights, memory.

With one process every function here does nothing or returns its argument. Losses are divided by
denominators of the whole optimizer step, so gradients are summed over processes, never averaged.

With `trainer.data_parallel=shard` each process keeps one shard of the weights, gradients and
optimizer state (FSDP2, ZeRO stage 3). A block is gathered when it is computed and freed afterwards,
forward and backward, by all processes at once (Zhao et al. 2023). All processes must therefore
compute equally often; where they do not, as in sampling, the weights are gathered once for the
whole of it (`full_parameters`). Checkpoints and hashes hold full tensors, the same as those of one
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ponder.core.lazy_imports import Tensor, dist, nn, torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Value = TypeVar("Value")
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)  # how long a process waits for the others to start
FSDP, TENSOR = "torch.distributed.fsdp", "torch.distributed.tensor"


# --- the group of processes ----------------------------------------------------------------------

def is_distributed_launch() -> bool:
    """Whether a launcher (torchrun, accelerate, ours) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_process_group(device: str) -> None:
    """Join the group that the launcher describes, if there is one. Raises torch's `DistError`
    where a process does not arrive in time.
    """
    if is_distributed_launch() and not dist.is_initialized():
        import torch.distributed.nn  # imported later, its default arguments would keep the group
        from torch.distributed.rendezvous import rendezvous

        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0"))
                                  % torch.cuda.device_count())  # a job may see one GPU only
        store, rank, world = next(rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank,
                                world_size=world)


def destroy_process_group() -> None:
    """Leave the group, with nothing left that refers to it.

    The group's threads hold Python tensors a moment longer than the work on them takes; were they
    still alive when the interpreter ends, the process would abort. torch's operator caches keep
    device meshes for good, so those that sharding has made are told to forget the group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    dist.destroy_process_group()
    if FSDP in sys.modules:
        # picked first: the variable of a loop over all objects would keep the last of them alive
        for mesh in [found for found in gc.get_objects() if type(found).__name__ == "DeviceMesh"]:
            vars(mesh).get("_pg_registry", {}).clear()
    device_mesh.cache_clear()
    gc.collect()


@functools.cache
def device_mesh(device: str) -> DeviceMesh:
    """All processes in one row, for `shard`; made once, as part of the group."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (dist.get_world_size(),))


def is_connection_error(error: BaseException) -> bool:
    """Whether an error says that another process is gone, or does not answer."""
    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def is_distributed() -> bool:
    """Whether this process is one of a group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main_process() -> bool:
    """Whether this process has rank 0: the one that writes files and prints."""
    return not is_distributed() or dist.get_rank() == 0


# --- collective operations: every process must call them -----------------------------------------

def barrier() -> None:
    """Wait until all processes are here."""
    if is_distributed():
        dist.barrier()


def broadcast(value: Value) -> Value:
    """The main process's value (any object that can be pickled), in every process."""
    if not is_distributed():
        return value
    objects: list[Value] = [value]
    dist.broadcast_object_list(objects)
    return objects[0]


def all_gather(value: Value) -> list[Value]:
    """The value of every process, in the order of their ranks, in every process."""
    if not is_distributed():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if is_distributed():
        dist.all_reduce(value)
    return value


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any process."""
    if not is_distributed():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)) > 0)


def merge_parts(value: Tensor) -> Tensor:
    """The full tensor, where every process has filled its own part and left the rest 0."""
    if not is_distributed():
        return value
    if value.dtype == torch.bool:
        return all_reduce_sum(value.byte()) > 0
    return all_reduce_sum(value.contiguous())


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes, in one message.

    A parameter without a gradient has none in any process, as all compute the same operations on
    equally many micro-batches.
    """
    if not is_distributed():
        return
    grads = [weight.grad for weight in parameters if weight.grad is not None]
    message = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(message)
    for grad, part in zip(grads, message.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


# --- which work is this process's ----------------------------------------------------------------

def local_range(count: int) -> range:
    """The part of `range(count)` that belongs to this process."""
    if not is_distributed():
        return range(count)
    world, rank = dist.get_world_size(), dist.get_rank()
    return range(count * rank // world, count * (rank + 1) // world)


def largest_local_count(count: int) -> int:
    """The length of the longest `local_range(count)` of any process."""
    return -(-count // (dist.get_world_size() if is_distributed() else 1))


def is_local(number: int) -> bool:
    """Whether item `number` belongs to this process when items are dealt out round-robin."""
    return not is_distributed() or number % dist.get_world_size() == dist.get_rank()


def local_item(values: Sequence[Value]) -> Value:
    """This process's item of what `all_gather` returned, also where fewer processes gathered."""
    return values[dist.get_rank() % len(values) if is_distributed() else 0]


# --- sharded weights -----------------------------------------------------------------------------

def shard(net: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh,
          method: str = "forward") -> None:
    """Shard a network's weights over all processes: those of each block, and the rest.

    It moves to the device one block at a time. method: the name of the method that computes it.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # never changed
    for part in (*blocks, net):
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no other
    assert isinstance(net, FSDPModule)
    _reshard_blocks_only(net)
    net.set_reshard_after_backward(False, recurse=False)  # `full_root_parameters` decides when
    if method != "forward":
        register_fsdp_forward_method(net, method)


def _reshard_blocks_only(net: Any) -> None:
    """Free blocks after their forward pass, but not the rest (embeddings, head)."""
    net.set_reshard_after_forward(True)
    net.set_reshard_after_forward(False, recurse=False)


def _is_instance(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class of torch's whose module may not have been imported yet."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def sharded_networks(module: nn.Module) -> Iterator[Any]:
    """The sharded networks inside a module."""
    if FSDP not in sys.modules:
        return
    if _is_instance(module, FSDP, "FSDPModule"):
        yield module
        return
    for child in module.children():
        yield from sharded_networks(child)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module contains a sharded network."""
    return next(sharded_networks(module), None) is not None


def _sharded_parts(net: nn.Module) -> list[Any]:
    """A sharded network and its blocks."""
    return [part for part in net.modules() if _is_instance(part, FSDP, "FSDPModule")]


@contextlib.contextmanager
def full_parameters(module: nn.Module) -> Iterator[None]:
    """Gather all weights for the length of the context, so that each process may compute whatever
    it likes, as often as it likes. Without gradients where anything is sharded.
    """
    found = list(sharded_networks(module))
    for net in found:
        net.set_reshard_after_forward(False)
        for part in _sharded_parts(net):
            part.unshard()
    try:
        with torch.no_grad() if found else contextlib.nullcontext():
            yield
    finally:
        for net in found:
            for part in _sharded_parts(net):
                part.reshard()
            with contextlib.suppress(AttributeError):  # of a network that has never computed
                net.reset_iter_state()  # FSDP expects the order of calls of the last pass
            _reshard_blocks_only(net)


@contextlib.contextmanager
def full_root_parameters(module: nn.Module) -> Iterator[None]:
    """Gather the weights that belong to no block (embeddings, head) for a forward and a backward
    pass, also where they are used outside of the network's own method. Blocks come and go.
    """
    found = list(sharded_networks(module))
    for net in found:
        net.unshard()
    yield
    for net in found:
        net.reshard()


def full_tensors(value: Any) -> Any:
    """Full tensors for sharded ones, also inside dictionaries and lists: on the CPU in the main
    process, None in the others. Every process must call this.
    """
    if _is_instance(value, TENSOR, "DTensor"):
        found = value.detach().full_tensor()
        return found.cpu() if is_main_process() else None
    if isinstance(value, dict):
        return {name: full_tensors(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full_tensors(item) for item in value)
    return value


def full_state_dict(module: nn.Module, wanted: Callable[[str], bool] = lambda name: True,
                    ) -> dict[str, Tensor]:
    """A module's state with `full_tensors`; weights tied under two names stay one tensor."""
    state = module.state_dict()
    known: dict[int, Tensor] = {}
    names = {name: id(weight) for name, weight in module.named_parameters(remove_duplicate=False)}
    found = {}
    for name, value in state.items():
        if wanted(name):
            key = names.get(name, id(value))
            if key not in known:
                known[key] = full_tensors(value)
            found[name] = known[key]
    return found


def shard_like(sharded: Any, value: Tensor) -> Tensor:
    """A copy of a full tensor, or this process's shard of it where `sharded` is a shard."""
    if not _is_instance(sharded, TENSOR, "DTensor"):
        return value.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(sharded.device, sharded.dtype), sharded.device_mesh,
                             sharded.placements, src_data_rank=None)


def shard_state_dict(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Full weights by name, as `module.load_state_dict` takes them: sharded where it is."""
    state = module.state_dict()
    return {name: shard_like(state[name], value) if name in state else value
            for name, value in weights.items()}


def full_norm(value: Any) -> Tensor:
    """A norm over all shards, as a plain tensor."""
    return value.full_tensor() if _is_instance(value, TENSOR, "DTensor") else value


# --- memory --------------------------------------------------------------------------------------

def keep_freed_memory() -> None:
    """Let the process keep memory that was freed. glibc returns large blocks at once, and the
    system then clears each new one page by page: a third of a CPU's time in large models.
    """
    most_mappings, trim_threshold = -4, -1
    _mallopt(most_mappings, 0)
    _mallopt(trim_threshold, -1)


def return_freed_memory() -> None:
    """The opposite, for sharded weights, which come and go: between blocks of all sizes glibc would
    find no room for the next ones, and hold two to three times what is in use.
    """
    mapping_threshold = -3
    _mallopt(mapping_threshold, 2**16)


def _mallopt(name: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(name, value)
