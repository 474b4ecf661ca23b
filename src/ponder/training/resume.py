"""Going on where a run was cut off: which checkpoint is whole, and which may go.

A checkpoint is trusted when every file has the hash that its manifest says; a damaged one is
reported and the one before it used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ponder.config.errors import UserError
from ponder.config.spine import BEGUN, OF_THE_CALL, WANDB_ID, WORDS, restored
from ponder.training.checkpoint import file_sha256, write_json

# Keys that say how long, how loud or how safe a run is, and not what it computes.
MAY_CHANGE = {*OF_THE_CALL, "trainer.max_steps", "trainer.max_epochs", "trainer.target_accuracy",
              "trainer.save_every_n_steps", "trainer.keep_checkpoints", "trainer.max_bad_steps",
              "trainer.data_parallel"}


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint of a run."""

    path: Path
    step: int
    accuracy: float | None

    def state(self, device: torch.device) -> dict[str, Any]:
        """What training needs to go on; nothing is unpickled but tensors and plain values."""
        found = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True, mmap=True)
        return _moved(found, device)


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, or those in dictionaries and lists, on the device. What belongs to the optimizer
    stays on the disk till it is taken: a process may want a share of it only.
    """
    if isinstance(value, dict):
        return {name: item if name == "optimizer" else _moved(item, device)
                for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value.to(device, copy=True) if isinstance(value, torch.Tensor) else value


def newest(directory: Path, note: Callable[[str], None]) -> Saved | None:
    """The newest whole checkpoint of a run directory; `note` hears of damaged ones."""
    for path, manifest in list(_manifests(directory)):
        fault = _fault(path, manifest)
        if fault is None:
            return Saved(path, manifest["step"], manifest.get("accuracy"))
        aside = path.with_name(f"damaged_{path.name.lstrip('.')}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        note(f"{path}: damaged ({fault}), now {aside.name}; going back to the one before")
    return None


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one; 0 keeps all."""
    found = list(_manifests(directory))
    best = max(found, key=lambda entry: (entry[1].get("accuracy") or 0.0, entry[1]["step"]),
               default=None)
    for path, _ in found[keep:] if keep else []:
        if best is None or path != best[0]:
            shutil.rmtree(path, ignore_errors=True)


def _manifests(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Checkpoints and their manifests, newest first; a hidden one was being replaced."""
    found = []
    for path in [*directory.glob("checkpoint_*"), *directory.glob(".checkpoint_*.old")]:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            found.append(((int(manifest["step"]), int(manifest["epoch"])), path, manifest))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for _, path, manifest in sorted(found, key=lambda entry: entry[0], reverse=True):
        yield path, manifest


def _fault(path: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file_sha256(file) != expected:
            return f"{name} has changed"
    return None


def same_run(saved: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` where a checkpoint is of another experiment than the configuration. A key
    that is newer than the checkpoint had its default then.
    """
    before = json.loads((saved / "ponder.json").read_text())["config"]
    old, new, defaults = dict(_flat(before)), dict(_flat(config)), dict(_flat(_whole(before)))
    old.update((key, defaults[key]) for key in defaults.keys() & new.keys() - old.keys())
    for key in sorted(old.keys() | new.keys()):
        if key.split(".")[0] in MAY_CHANGE or key in MAY_CHANGE:
            continue
        if old.get(key) != new.get(key):
            raise UserError(f"{key}={new.get(key)}: found {old.get(key)} in the run that is in "
                            f"{saved.parent}; legal: the same, another hydra.run.dir, or "
                            "resume=never to begin anew")


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with all keys of this version; nothing of one that has others."""
    try:
        found: Any = OmegaConf.to_object(restored(config))
        return asdict(found)
    except Exception:
        return {}


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), node


def clear(directory: Path) -> None:
    """Remove what an earlier run left in a directory: checkpoints, evaluations, its end."""
    for pattern in ("checkpoint_*", "damaged_checkpoint_*", ".checkpoint_*", "val_*", "bad_*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for name in ("summary.json", WANDB_ID):
        (directory / name).unlink(missing_ok=True)


def remember_words(directory: Path) -> None:
    """Keep the words this run was begun or gone on with, for `resume=<directory>`, and what Hydra
    made of them: a call that is refused would leave its own in their place.
    """
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        words = [str(word) for word in HydraConfig.get().overrides.task]
        write_json(directory / WORDS, words)
        (directory / BEGUN).mkdir(exist_ok=True, parents=True)
        for file in directory.joinpath(".hydra").glob("*.yaml"):
            shutil.copy(file, directory / BEGUN)
