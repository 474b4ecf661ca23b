"""docs/config.md, made from what is registered.

    python -m ponder.cli.key_reference [plugin ...] > docs/config.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ponder.config.option import legal_words
from ponder.config.registry import discover
from ponder.config.running import StudyConfig
from ponder.config.spine import Config, schemas

HEAD = """\
# Every key

Made by `python -m ponder.cli.key_reference`. A group is chosen as `group=name`; a key is set as
`group.key=value`. A schedule is a number, `linear(start, end, steps)`, `cosine(...)` or
`exponential(...)`, from start at step 0 to end at step `steps`.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD, "## The spine\n", table(Config, "")]
    for key in ("thinker", "answerer", "generate", "sweep"):
        schema = type(getattr(Config(), key))
        parts += [f"## {key}\n", f"{schema.__doc__}\n", table(schema, f"{key}.")]
    for group in ("task", "model", "rollout", "strategy", "trainer", "logger"):
        for name, schema in schemas(group).items():
            title = group if name == group else f"{group}={name}"
            parts += [f"## {title}\n", f"{schema.__doc__}\n", table(schema, f"{group}.")]
    parts += ["## hydra/sweeper=optuna\n", f"{StudyConfig.__doc__}\n",
              table(StudyConfig, "hydra.sweeper.")]
    return "\n".join(parts)


def table(schema: type, prefix: str) -> str:
    """A row for every leaf of a dataclass."""
    head = ["| key | default | meaning | legal |", "|---|---|---|---|"]
    return "\n".join([*head, *rows(schema, prefix), ""])


def rows(schema: type, prefix: str) -> Iterator[str]:
    for item in fields(schema):
        if item.name.startswith("_"):  # Hydra's
            continue
        default: Any = item.default
        if default is MISSING and item.default_factory is not MISSING:
            default = item.default_factory()
        if is_dataclass(default):
            if prefix:
                yield from rows(type(default), f"{prefix}{item.name}.")
            continue
        shown = json.dumps(default) if default is None or isinstance(default, bool) else default
        about = str(item.metadata["doc"]).replace("|", "\\|")
        yield f"| `{prefix}{item.name}` | `{shown}` | {about} | {legal(dict(item.metadata))} |"


def legal(about: dict[str, Any]) -> str:
    """The legal values as a few words."""
    words = ", ".join(f"`{word}`" for word in legal_words(about))
    low, high = about.get("low"), about.get("high")
    bounds = [f"≥ {low}" if low is not None else "", f"≤ {high}" if high is not None else ""]
    kind = "schedule" if about.get("schedule") else ""
    return "; ".join(part for part in (words, kind, ", ".join(b for b in bounds if b)) if part)


if __name__ == "__main__":
    discover(sys.argv[1:])
    print(page())
