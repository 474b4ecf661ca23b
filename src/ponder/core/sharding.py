"""Weights, gradients and optimizer state in shares, one for each process (FSDP2, ZeRO stage 3).

A block is gathered when it is computed and freed behind it, forward and backward, by all processes
at once (Zhao et al. 2023). So all must compute as often as each other; where they do not, as in
sampling, the weights are gathered once for the whole of it (`gathered`). Gradients add up over
processes, as losses are divided by denominators of the whole step. What leaves the processes
(checkpoints, hashes) is whole: the same as of one process.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ponder.core.processes import in_a_row, leads

FSDP, TENSOR = "torch.distributed.fsdp", "torch.distributed.tensor"


def shard(net: nn.Module, blocks: Iterable[nn.Module], device: torch.device,
          verb: str = "forward") -> None:
    """Share out a network's weights: those of each block, and the rest. `verb` is the method that
    computes it. It moves to the device a block at a time.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # never changed
    mesh = in_a_row(device.type)
    for part in (*blocks, net):
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no other
    assert isinstance(net, FSDPModule)
    _as_in_training(net)
    net.set_reshard_after_backward(False, recurse=False)  # `opened` says when
    if verb != "forward":
        register_fsdp_forward_method(net, verb)


def _as_in_training(net: Any) -> None:
    """Blocks are freed behind their forward pass; the rest (embeddings, head) is not."""
    net.set_reshard_after_forward(True)
    net.set_reshard_after_forward(False, recurse=False)


def _is(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class of torch's, which may not have been loaded."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def networks(module: nn.Module) -> Iterator[Any]:
    """The networks in a module that are in shares."""
    if FSDP not in sys.modules:
        return
    if _is(module, FSDP, "FSDPModule"):
        yield module
        return
    for child in module.children():
        yield from networks(child)


def is_sharded(module: nn.Module) -> bool:
    return next(networks(module), None) is not None


def _parts(net: nn.Module) -> list[Any]:
    """A network and its blocks."""
    return [part for part in net.modules() if _is(part, FSDP, "FSDPModule")]


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """All weights are whole in every process, which may compute what and as often as it likes.
    No gradients.
    """
    found = list(networks(module))
    for net in found:
        net.set_reshard_after_forward(False)
        for part in _parts(net):
            part.unshard()
    try:
        with torch.no_grad() if found else contextlib.nullcontext():
            yield
    finally:
        for net in found:
            for part in _parts(net):
                part.reshard()
            with contextlib.suppress(AttributeError):  # of a network that has never computed
                net.reset_iter_state()  # which remembers the order of what was
            _as_in_training(net)


@contextlib.contextmanager
def opened(module: nn.Module) -> Iterator[None]:
    """For a forward and a backward pass: what is in no block is whole, also outside of a network's
    own verb; blocks come and go."""
    found = list(networks(module))
    for net in found:
        net.unshard()
    yield
    for net in found:
        net.reshard()


def full(value: Any) -> Any:
    """A tensor, or those in dictionaries and lists, without shares: the leading process has them,
    on the CPU; in the others None stands for what was in shares. All must ask.
    """
    if _is(value, TENSOR, "DTensor"):
        found = value.detach().full_tensor()
        return found.cpu() if leads() else None
    if isinstance(value, dict):
        return {name: full(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full(item) for item in value)
    return value


def full_weights(module: nn.Module, wanted: Callable[[str], bool] = lambda name: True,
               ) -> dict[str, Tensor]:
    """Its state as `full` gives it; weights that are one, by two names, stay one."""
    own = module.state_dict()
    known: dict[int, Tensor] = {}
    names = {name: id(weight) for name, weight in module.named_parameters(remove_duplicate=False)}
    found = {}
    for name, value in own.items():
        if wanted(name):
            key = names.get(name, id(value))
            if key not in known:
                known[key] = full(value)
            found[name] = known[key]
    return found


def shard_like(own: Any, value: Tensor) -> Tensor:
    """A copy of a whole tensor, or of this process's share of it, if `own` is in shares."""
    if not _is(own, TENSOR, "DTensor"):
        return value.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device, own.dtype), own.device_mesh, own.placements,
                             src_data_rank=None)


def shards_of(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name as `module.load_state_dict` takes them."""
    own = module.state_dict()
    return {name: shard_like(own[name], value) if name in own else value
            for name, value in weights.items()}


def norm_of(value: Any) -> Tensor:
    """A norm over all shares, as a plain tensor."""
    return value.full_tensor() if _is(value, TENSOR, "DTensor") else value
