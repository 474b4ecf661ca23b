"""What users type, rewritten into what Hydra reads: variant flags and experiment names.

Hydra groups cannot take a boolean, so `think=true` becomes an entry of `variant=[...]`; Hydra knows
no function `linear(0.5, 0, 100)`, so schedules are quoted; and an experiment such as
`add_think_fixed_blind` is parsed, not looked up in a file.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from ponder.config import VARIANTS
from ponder.errors import UserError

DEFAULT_VARIANTS = ["think", "fixed", "blind", "search"]
_SCHEDULE = re.compile(r"""(?<!["'\w])(?:linear|cosine|exponential)\([^()]*\)""")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def rewrite(arguments: list[str], conf: Path) -> list[str]:
    """Command-line arguments with flags and parsed experiment names replaced."""
    arguments = [_SCHEDULE.sub(r'"\g<0>"', argument) for argument in arguments]
    experiment, arguments = _take(arguments, "experiment")
    named = None
    if experiment is not None and not (conf / "experiment" / f"{experiment}.yaml").is_file():
        task, named = parse_experiment(experiment, conf)
        if not any(argument.startswith("task=") for argument in arguments):
            arguments = [f"task={task}", *arguments]
    elif experiment is not None:
        arguments = [f"experiment={experiment}", *arguments]
    flags = {}
    for flag in VARIANTS:
        value, arguments = _take(arguments, flag)
        if value is not None:
            flags[flag] = [_boolean(flag, word) for word in value.split(",")]
    listed, arguments = _take(arguments, "variant")
    if not flags and named is None:
        return arguments if listed is None else [f"variant={_list(listed)}", *arguments]
    start = _start(listed, named, flags, experiment, conf)
    combinations = [dict(zip(flags, values, strict=True))
                    for values in itertools.product(*flags.values())]
    sweep = ",".join(_format(start, combination) for combination in combinations)
    return [f"variant={sweep}", *arguments]


def parse_experiment(name: str, conf: Path) -> tuple[str, list[str]]:
    """`add_think_fixed` -> `("add", ["think", "fixed"])`; `add_normal` has no variants.

    Raises `UserError` that lists the legal parts.
    """
    task, *flags = name.split("_")
    tasks = sorted(path.stem for path in (conf / "task").glob("*.yaml"))
    files = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    known = task in tasks and flags and (flags == ["normal"] or set(flags) <= set(VARIANTS))
    if not known or len(set(flags)) < len(flags):
        raise UserError(
            f"experiment={name}: unknown; legal: {', '.join([*files, 'or a task'])} "
            f"({', '.join(tasks)}) followed by _normal or by any of _{', _'.join(VARIANTS)}")
    return task, [] if flags == ["normal"] else flags


def _take(arguments: list[str], key: str) -> tuple[str | None, list[str]]:
    """The value of the last `key=value`, and the arguments without it."""
    found = [argument for argument in arguments if argument.startswith(f"{key}=")]
    rest = [argument for argument in arguments if not argument.startswith(f"{key}=")]
    return (found[-1].partition("=")[2] if found else None), rest


def _boolean(flag: str, word: str) -> bool:
    if word.lower() not in _TRUE + _FALSE:
        raise UserError(f"{flag}={word}: found {word!r}; legal: true or false")
    return word.lower() in _TRUE


def _list(value: str) -> str:
    """`think` and `[]` as Hydra wants them: a list."""
    return value if value.startswith("[") or "," in value else f"[{value}]"


def _start(listed: str | None, named: list[str] | None, flags: dict, experiment: str | None,
           conf: Path) -> list[str]:
    """The variants that flags add to or remove from."""
    if listed is not None:
        if "],[" in listed.replace(" ", ""):
            raise UserError(f"variant={listed}: sweep over variant or over flags, not both")
        return [word.strip() for word in listed.strip("[]").split(",") if word.strip()]
    if named is not None:
        return named
    if experiment is not None:
        text = (conf / "experiment" / f"{experiment}.yaml").read_text()
        patch = re.search(r"override /variant: \[(.*)\]", text)
        return re.findall(r"\w+", patch.group(1)) if patch else DEFAULT_VARIANTS
    return [] if any(any(values) for values in flags.values()) else DEFAULT_VARIANTS


def _format(start: list[str], flags: dict[str, bool]) -> str:
    on = [flag for flag in VARIANTS if flags.get(flag, flag in start)]
    unknown = [word for word in start if word not in VARIANTS]
    return f"[{','.join(on + unknown)}]"
