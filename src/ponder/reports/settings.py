"""What a run was told, read back from its directory.

That is `.hydra/config.yaml`, else the configuration of a checkpoint, else the words typed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ponder.config.spine import GROUPS, SCHEMAS, WORDS, Config
from ponder.config.tasks import gold_length
from ponder.reports.figures import natural

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
REFERENCE = re.compile(r"\$\{(\.?)([A-Za-z_][\w.]*)\}")
GOLD_LENGTH = re.compile(r"\$\{ponder\.gold_length:(\d+),(\d+),(\w+),(\w+)\}")
KNOWN = "configuration"  # the key that says how much is known: whole, words or nothing
Settings = dict[str, Any]  # `group.key` -> value, `${references}` as they were written


def settings(directory: Path) -> Settings:
    """What a run was told, every key of it where its configuration is there.

    An evaluation was told what its checkpoint was, and then what was typed.
    """
    told = _composed(directory / ".hydra" / "config.yaml")
    if told and told.get("action") == "evaluate":
        typed = {word.partition("=")[0].lstrip("+~") for word in _words(directory)}
        now = {key: value for key, value in told.items()
               if key in ("action", "step") or ("." in key and key in typed)}
        saved = _saved(Path(str(told.get("model.name"))) / "ponder.json")
        if saved:
            told = saved | now | {"model.name": saved.get("model.name")}
    if not told:
        paths = sorted(directory.glob("checkpoint_*/ponder.json"), key=lambda path: natural(
            path.parent.name), reverse=True)
        told = next(filter(None, map(_saved, paths)), {})
    if told:
        kinds = (str(told.get(f"{group}.{name}")) for group, name in GROUPS)
        return {KNOWN: "whole"} | _defaults(*kinds) | told
    pairs = [word.lstrip("+").partition("=") for word in _words(directory)]
    typed = {key: value for key, sign, value in pairs if sign and not key.startswith("~")}
    return {KNOWN: "words" if typed else "nothing"} | typed


def _composed(path: Path) -> Settings:
    """A configuration that Hydra wrote, top-level key by top-level key.

    Runs of a grid differ in few keys, so that most of these blocks have been read before.
    """
    told: Settings = {}
    try:
        block: list[str] = []
        for line in path.read_text("utf-8").splitlines(keepends=True):
            if block and line[0] not in " -\n":
                told.update(_block("".join(block)))
                block = []
            block.append(line)
        told.update(_block("".join(block)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return told


@cache
def _block(text: str) -> tuple[tuple[str, Any], ...]:
    content = yaml.load(text, LOADER)
    return tuple(flat(content)) if isinstance(content, dict) else ()


def _saved(path: Path) -> Settings:
    """The configuration in a checkpoint's ponder.json."""
    try:
        config = json.loads(path.read_bytes())["config"]
        return dict(flat(config)) if isinstance(config, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _words(directory: Path) -> list[str]:
    """The words that a run was begun with."""
    for path in (directory / WORDS, directory / ".hydra" / "overrides.yaml"):
        try:
            content = yaml.load(path.read_bytes(), LOADER)  # JSON is YAML too
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, list):
            return [str(word) for word in content]
    return []


@cache
def _defaults(*kinds: str) -> Settings:
    """What runs of earlier versions were told of keys that are younger: today's defaults."""
    spine = asdict(Config())
    for (group, _), kind in zip(GROUPS, kinds, strict=True):
        schema = SCHEMAS[group].get(kind)
        spine[group] = asdict(schema()) if schema else {}
    return dict(flat(spine))


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`group.key` and value of every leaf; the rewards, with their weights, are one."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key == "reward" and isinstance(value, dict):
            yield key, ", ".join(reward if weight == 1 else f"{reward}={weight}"
                                 for reward, weight in sorted(value.items(), key=str))
        elif isinstance(value, dict):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def settled(told: Settings, key: str) -> Any:
    """The value of a key, with the keys that it refers to looked up; None where there is none."""
    value = told.get(key)
    if not isinstance(value, str) or "${" not in value:
        return value
    others = {name: content for name, content in told.items() if name != key}
    group = key.rpartition(".")[0]

    def named(found: re.Match[str]) -> Any:
        return settled(others, f"{group}.{found[2]}" if found[1] else found[2])

    whole = REFERENCE.fullmatch(value)
    if whole:
        return named(whole)
    value = REFERENCE.sub(lambda found: str(named(found)), value)
    gold = GOLD_LENGTH.fullmatch(value)
    return gold_length(int(gold[1]), int(gold[2]), gold[3] == "True", gold[4]) if gold else value
