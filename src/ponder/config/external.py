"""Models that no run of ours has saved: what `model.name` alone says of them. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError

LEGAL = ("a checkpoint directory, a directory with a model or an adapter of Hugging Face, or its "
         "name on the hub")


def foreign(node: Any) -> Any:
    """A composed node whose model is one of Hugging Face, as there is no ponder.json beside it.

    Raises `UserError` where `model.name` can be none.
    """
    from omegaconf import OmegaConf

    from ponder.config.players import HfConfig

    name = node.model.name
    refuse(name)
    if node.model.kind != "hf":
        node.model = OmegaConf.structured(HfConfig(name=name))
    return node


def refuse(name: str) -> None:
    """Raise `UserError` for a name that is no directory with a model and no name on the hub."""
    path = Path(name)
    if not path.exists():
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or name.startswith("star_runs/"):
            raise UserError(f"model.name={name}: found no such directory; legal: {LEGAL}")
        return
    if any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        return
    raise UserError(f"model.name={name}: {no_model(path, LEGAL)}")


def no_model(path: Path, legal: str) -> str:
    """What is found in a directory without a model, and what is legal: of a run its newest
    checkpoint.
    """
    saved = sorted(path.glob("checkpoint_*"), key=lambda one: one.stat().st_mtime)
    return (f"found a run; legal: a checkpoint of it, as {saved[-1]}" if saved else
            f"found no config.json there; legal: {legal}")


def written(node: Any, key: str) -> str | None:
    """The text of a key as it was written: what is escaped in it stays so."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, key), resolve=False)
    return content[key]
