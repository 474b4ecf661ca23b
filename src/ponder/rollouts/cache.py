"""A cache on disk: tensors under the hash of everything that determined them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Store:
    """Files in a directory, each written whole or not at all; a damaged one counts as none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, key: str) -> dict[str, Tensor] | None:
        try:
            return load_file(self._path(key))
        except (OSError, SafetensorError):
            return None

    def save(self, key: str, tensors: dict[str, Tensor]) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


def key_of(**parts: Any) -> str:
    """The hash of plain values and tensors, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(parts.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):  # the numbers, whatever their type
            digest.update(str(tuple(value.shape)).encode() + value.cpu().numpy().tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


def fingerprint(model: nn.Module, name: str | None) -> str:
    """A hash that changes with every trained weight; frozen weights are identified by the model's
    name, and where that is a directory by size and date of its files.
    """
    digest = hashlib.sha256(str(name).encode())
    for file in sorted(Path(str(name)).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    for key, value in model.named_parameters():
        if value.requires_grad:
            digest.update(key.encode())
            own = value.detach().to("cpu", copy=True)  # numpy would hold on to the memory
            digest.update(own.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
