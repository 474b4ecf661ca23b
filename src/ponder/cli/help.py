"""The text of `python run.py --help` and the page docs/config.md, made from what is registered.

    python -m ponder.cli.help [plugin ...] > docs/config.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from ponder.config.option import legal_words
from ponder.config.registry import ENGINES, SEARCHES, discover
from ponder.config.running import StudyConfig
from ponder.config.spine import Config, choices, schemas, variant_names

CHOSEN = ("experiment", "logger", "model", "reward", "rollout", "strategy", "task", "trainer",
          "variant")

HEAD = """\
Ponder: thinking before answering in language models.

usage: python run.py [GROUP=CHOICE ...] [KEY=VALUE ...] [-m] [--cfg job]

With no words at all, two small networks invent a language of meaningless tokens and add with it.
"""

EXAMPLES = """\
Examples
  python run.py                                            the default run
  python run.py experiment=add_think_fixed_blind_super_clean strategy=grpo
  python run.py think=true blind=true task.max=1000 trainer.max_steps=5000
  python run.py -m experiment=add_normal seed=0,1,2        a sweep, one run after another
  python run.py action=evaluate model.name=star_runs/<run>/checkpoint_<epoch>
  python run.py action=generate model.name=<checkpoint> prompt="31+84="   what it thinks and says
  python run.py action=chat model.name=<checkpoint>        talk with it
  python run.py action=compare 'runs=star_runs/train_*'    runs in one table, means over seeds
  python run.py -m hydra.launcher.partition=overcap seed=0,1,2   a sweep on Slurm
  python run.py -m hydra/launcher=local seed=0,1,2         several runs at once on this machine
  python run.py -m hydra/sweeper=optuna 'trainer.lr=tag(log, interval(1e-4, 1e-1))'
                                                           values that Optuna chooses
  python run.py action=sweep                               how the newest sweep stands
  python run.py action=sweep sweep.retry=failed            send again what it lost

Also
  --cfg job       print the configuration, run nothing
  --config-dir D  presets and experiments of your own, as in D/experiment/mine.yaml
  plugins=[m]     tasks, rewards, strategies, searches of your own, in m.py
  -m              sweep over comma-separated values
  Every key with its default and meaning: docs/config.md"""


def help_text(*folders: Path) -> str:
    """The whole text; presets and experiments are in `folders`."""
    lines, groups = [HEAD, "Groups"], {group: choices(group, *folders) for group in CHOSEN}
    width = 2 + max(len(name) for options in groups.values() for name in options)
    for group, options in groups.items():
        if group == "variant" or not options:
            continue
        lines.append(f"  {group}=")
        lines += [f"      {name:<{width}}{about}" for name, about in options.items()]
    for title, registry in (("rollout.method", SEARCHES), ("trainer.engine", ENGINES)):
        lines.append(f"  {title}=")
        lines += [f"      {entry.name:<{width}}{entry.sentence}" for entry in registry]
    lines.append("  experiment= also takes names such as add_normal or add_think_fixed_blind")
    lines.append("\nVariants: variant=[think,blind], or think=true blind=true")
    about = groups["variant"]
    lines += [f"      {flag:<{width}}{about[flag]}" for flag in variant_names(*folders)]
    return "\n".join([*lines, "", EXAMPLES])


KEYS_HEAD = """\
# Every key

Made by `python -m ponder.cli.help`. A group is chosen as `group=name`; a key is set as
`group.key=value`. A schedule is a number, `linear(start, end, steps)`, `cosine(...)` or
`exponential(...)`, from start at step 0 to end at step `steps`.
"""


def keys_page() -> str:
    """The whole page as Markdown."""
    parts = [KEYS_HEAD, "## The spine\n", table(Config, "")]
    for key in ("thinker", "answerer", "generate", "lm_eval", "sweep"):
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
    print(keys_page())
