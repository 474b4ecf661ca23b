"""The generators of reasoning-gym (Stojanovski et al. 2025) by name, with their options."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ponder.config.errors import UserError, brief, closest

Drawn = tuple[Any, dict[str, Any]]  # a generator, and an entry of it: question, answer, metadata


def names_of(dataset: Any) -> list[str]:
    """The generators in a `task.dataset`: `countdown`, `a,b` or a list."""
    told = dataset if isinstance(dataset, str) else ",".join(map(str, dataset))
    return [name for name in told.replace(" ", "").split(",") if name]


def refusals(task: Any) -> Iterator[str]:
    """What is refused of the keys of a task of generators without loading them."""
    if not names_of(task.dataset):
        yield "task.dataset=[]: found no generator; legal: one or more of reasoning-gym's"
    if importlib.util.find_spec("reasoning_gym") is None:
        yield (f"task={task.name}: found no reasoning_gym; legal: another task, or after pip "
               "install 'ponder[gym]'")


def check(dataset: Any, options: dict[str, Any]) -> None:
    """Draw a question of each generator. Raises `UserError` for a name or an option that none has.
    """
    names = names_of(dataset)
    legal = sorted({key for name in names for key in _keys(name)} - {"seed", "size"})
    for key in options:
        if key not in legal:
            raise UserError(f"task.options.{key}: found no such option of {', '.join(names)}"
                            f"{closest(key, legal)}; legal: {', '.join(legal)}")
    for name in names:
        next(drawn(name, options, 0, 1))


def drawn(name: str, options: dict[str, Any], seed: int, size: int) -> Iterator[Drawn]:
    """Up to `size` questions of a generator, with those of the options that it has. Raises
    `UserError` where it refuses them.
    """
    source = source_of(name, options, seed, size)
    for i in range(size):
        try:
            yield source, source[i]
        except IndexError:
            return


def source_of(name: str, options: dict[str, Any], seed: int, size: int) -> Any:
    """A generator of `size` questions, as the library's `create_dataset` makes it."""
    kind, keys = _registered(name)
    own = {key: value for key, value in options.items() if key in _keys(name)}
    try:
        source = kind(keys(**{**own, "seed": seed, "size": size}))
        assert source[0]
    except Exception as error:  # each generator checks its options in its own way
        raise UserError(f"task.dataset={name}: cannot be drawn from with task.options={own} "
                        f"({type(error).__name__}: {brief(error)}); legal: options that it takes"
                        ) from None
    return source


def _registered(name: str) -> tuple[Any, Any]:
    """(the class of a generator, that of its configuration). Raises `UserError` without one."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(f"task.dataset={name}: found no reasoning_gym ({brief(error)}); legal: "
                        "another task, or after pip install 'ponder[gym]'") from None
    if name not in DATASETS or name == "composite":
        names = sorted({*DATASETS} - {"composite"})
        raise UserError(f"task.dataset={name}: found no such generator{closest(name, names)}; "
                        f"legal: {', '.join(names)}")
    return DATASETS[name]


def _keys(name: str) -> list[str]:
    """The options of a generator."""
    return [item.name for item in fields(_registered(name)[1])]
