"""What takes the steps: AdamW alone, or Muon for the matrices inside of blocks and AdamW for the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ponder.config.running import TrainerConfig
from ponder.core.distributed import shard_like

OUTSIDE = ("wte", "wpe", "embed", "lm_head", "critic", "mixer")  # no matrices between states


def build_optimizer(config: TrainerConfig, policy: nn.Module) -> torch.optim.Optimizer | Both:
    """The optimizer of all weights that learn; the same learning rate serves either."""
    named = [(name, weight) for name, weight in policy.named_parameters() if weight.requires_grad]
    if config.optimizer == "adamw":
        return _adamw(config, [weight for _, weight in named], config.weight_decay)
    inside = [weight for name, weight in named
              if weight.dim() == 2 and not any(word in name for word in OUTSIDE)]
    known = {id(weight) for weight in inside}
    rest = [weight for _, weight in named if id(weight) not in known]
    muon = [torch.optim.Muon(inside, lr=config.lr, weight_decay=config.weight_decay,
                             adjust_lr_fn="match_rms_adamw")] if inside else []
    return Both([*muon, *([_adamw(config, rest, 0.0)] if rest else [])])


def _adamw(config: TrainerConfig, weights: list[nn.Parameter], decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(weights, lr=config.lr, betas=(0.9, config.beta2), weight_decay=decay,
                             fused=True)


class Both:
    """Several optimizers as one, each with weights of its own.

    Muon (Jordan et al. 2024) takes the momentum of a matrix to the nearest orthogonal one, so that
    all directions are learnt alike, scaled to steps as large as AdamW's (Liu et al. 2025).
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> States:
        return States(self.parts)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}


class States:
    """The states of several optimizers."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    def clear(self) -> None:
        for part in self.parts:
            part.state.clear()


def restore(optimizer: torch.optim.Optimizer | Both, saved: dict[str, Any]) -> None:
    """Give an optimizer the state that its `state_dict` once had, in shares where weights are."""
    if isinstance(optimizer, Both):
        for number, part in enumerate(optimizer.parts):
            restore(part, saved[str(number)])
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {number: dict(_placed(weights[number], known))
               for number, known in saved["state"].items()}
    optimizer.load_state_dict({**saved, "state": moments})


def _placed(weight: Tensor, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in known.items():
        yield name, value.clone() if name == "step" else shard_like(weight, value)


def learning_rate_share(config: TrainerConfig, step: int, end: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then the decay until `end`.

    wsd is warm-up, stable, decay (Hu et al. 2024): the decay may begin when training says so.
    """
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    done = min(1.0, step / max(end, 1))
    if config.lr_decay == "linear":
        return warm * max(config.lr_end, 1 - done)
    if config.lr_decay == "cosine":
        return warm * (config.lr_end + (1 - config.lr_end) * (1 + math.cos(math.pi * done)) / 2)
    if config.lr_decay == "wsd":
        return warm * min(1.0, max(config.lr_end, (end - step) / config.cooldown))
    return warm
