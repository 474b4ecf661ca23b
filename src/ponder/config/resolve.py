"""From a composed node to the checked configuration, with what a checkpoint was trained with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.config.registry import TASKS, discover
from ponder.config.spine import OF_A_MODEL

SHAPE = {"d_model": "n_embd", "layers": "n_layer", "heads": "n_head",
         "tie_embeddings": "tie_word_embeddings"}  # key of the model -> in a config.json
OF_THIS_CALL = ("action", "run_type", "out", "step", "logger", "scratch", "model.name",
                "trainer.device", "trainer.threads", "generate", "lm_eval")


def read(node: Any) -> Any:
    """The checked configuration of a composed node, before anything heavy is loaded."""
    from omegaconf import OmegaConf

    from ponder.config.checker import check

    if node.model.name and node.model.kind == "transformer":
        _of_its_shape(node)
    if node.action in ("evaluate", *OF_A_MODEL) and node.model.name:
        node = _with_checkpoint(node)
    config: Any = OmegaConf.to_object(node)
    check(config)
    return config


def typed_words() -> list[str]:
    """The overrides of the present job as they were typed; none where Hydra runs no job."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    return [str(word) for word in HydraConfig.get().overrides.task]


def _typed() -> list[str]:
    """The keys that were typed."""
    return [word.partition("=")[0].lstrip("+~") for word in typed_words()]


def _of_its_shape(node: Any) -> None:
    """Raise `UserError` for a shape that was typed beside a checkpoint of another one."""
    try:
        saved = json.loads((Path(node.model.name) / "config.json").read_text())
        shape = {key: saved.get(name) for key, name in SHAPE.items()}
    except (OSError, ValueError, AttributeError):
        return  # what is wrong there is told later
    typed = _typed()
    for key, found in shape.items():
        asked = node.model[key]
        if {"model", f"model.{key}"} & {*typed} and found not in (None, asked):
            raise UserError(f"model.{key}={asked}: found model.name={node.model.name}, where it "
                            f"is {found}; legal: that, or no word about it")


def _with_checkpoint(node: Any) -> Any:
    """What the checkpoint was trained with, under what was typed.

    Raises `UserError` for variants that are not the checkpoint's: its networks know no others. But
    a model of text speaks without its thoughts too (think=false).
    """
    from omegaconf import OmegaConf

    from ponder.config.spine import VARIANTS, variants

    merged = _of_checkpoint(Path(node.model.name) / "ponder.json")
    typed = _typed()
    if merged is None:
        if "task.data" in typed:
            _ask_all(node, typed, None)
        return foreign(node) if node.action in OF_A_MODEL else node
    trained_on = OmegaConf.select(merged, "task.data")
    if {"task", "experiment"} & set(typed) and node.task.name != merged.task.name:
        merged.task = node.task
    merged.prompt = written(node, "prompt")
    merged.plugins = list(dict.fromkeys([*merged.plugins, *node.plugins]))
    for key in (*OF_THIS_CALL, *(key for key in typed if key == "seed" or "." in key)):
        if not key.startswith("hydra."):
            OmegaConf.update(merged, key, OmegaConf.select(node, key))
    _ask_all(merged, typed, trained_on)
    of_text = node.action in OF_A_MODEL and (merged.model.kind == "hf" or bool(
        {"text", "positions"} & TASKS[merged.task.name].offers))
    others = [name for word in typed_words() if word.startswith("variant=")
              for name in re.findall(r"[\w-]+", word)[1:] if name not in VARIANTS]
    if others:
        raise UserError(f"variant: found {others[0]} beside a checkpoint, which has been trained "
                        f"with or without it; legal: {', '.join(VARIANTS)}, or no word about it")
    if "variant" in typed and of_text and not variants(node):
        merged.thinker.tokens = 0
    elif "variant" in typed and variants(node) != variants(merged):
        raise UserError(f"variant=[{','.join(variants(node))}]: found a checkpoint trained "
                        f"otherwise; legal: [{','.join(variants(merged))}], or no word about it")
    return merged


def _ask_all(node: Any, typed: list[str], trained_on: str | None) -> None:
    """Hold out all rows of a table that is evaluated on, unless the checkpoint was trained on it
    or a share was typed.
    """
    from omegaconf import OmegaConf

    data = OmegaConf.select(node, "task.data")
    if (node.action == "evaluate" and data not in (None, trained_on)
            and "task.held_out" not in typed and "questions" in TASKS[node.task.name].offers):
        node.task.held_out = 1.0


def checkpoint_config(name: str, device: str = "auto",
                      changes: dict[str, Any] | None = None) -> Any:
    """The configuration with which a checkpoint directory, or a model of Hugging Face, generates
    and answers. changes: values of other keys by name. Raises `UserError` where `name` is neither,
    and for keys and values that are not legal.
    """
    from omegaconf import OmegaConf

    from ponder.config.spine import register, restored

    register()  # the resolver that configurations of checkpoints refer to
    merged = _of_checkpoint(Path(name) / "ponder.json")
    if merged is None:
        merged = restored({"task": {"name": "add"}, "model": {"kind": "transformer", "name": name},
                           "rollout": {"kind": "sample"}, "strategy": {"name": "reinforce"}})
        merged = foreign(merged)
    merged.action, merged.model.name, merged.trainer.device = "chat", name, device
    _change(merged, changes or {})
    config = OmegaConf.to_object(merged)
    if changes:
        from ponder.config.checker import check_leaf, leaves

        for key, value, about in leaves(config):
            check_leaf(key, value, about)
    return config


def _change(node: Any, changes: dict[str, Any]) -> None:
    """Set keys of a node: `task` first, whose value is a name. Raises `UserError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ponder.config.spine import schemas

    for key, value in sorted(changes.items()):  # `task` comes before `task.data`
        try:
            if key == "task":
                node.task = OmegaConf.structured(schemas("task")[value])
            else:
                OmegaConf.select(node, key, throw_on_missing=True)
                OmegaConf.update(node, key, value, merge=False)
        except (OmegaConfBaseException, KeyError, ValueError) as error:
            raise UserError(f"{key}={value}: cannot be set ({brief(error)}); legal: a key of "
                            "docs/config.md with a value of its kind") from None


def _of_checkpoint(path: Path) -> Any:
    """The configuration in a checkpoint's ponder.json; None for a directory from elsewhere."""
    from ponder.config.spine import restored, schemas

    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())["config"]
        discover(saved.get("plugins") or ())
        for key, default in vars(schemas("task")[saved["task"]["name"]]()).items():
            if str(default).startswith(("${ponder.", "${.")):  # computed: follows what is typed
                saved["task"].pop(key, None)
        return restored(saved)
    except UserError:  # of a plugin, which says itself what is missing
        raise
    except Exception as error:
        reason = brief(error)
        raise UserError(f"{path}: cannot be read ({reason}); legal: the ponder.json of a "
                        "checkpoint of this version") from None


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


def flattened(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`task.max`, 100 and so on of a nested configuration."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flattened(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), node
