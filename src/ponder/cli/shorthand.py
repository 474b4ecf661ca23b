"""What users type, rewritten into what Hydra reads: variant flags and experiment names.

Hydra groups cannot take a boolean, so `think=true` becomes an entry of `variant=[...]`; Hydra knows
no function `linear(0.5, 0, 100)`, so schedules are quoted; an experiment such as
`add_think_fixed_blind` is parsed, not looked up in a file; `reward.length=-0.1` may name a reward
that is not there yet; and options may stand anywhere among the words.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from ponder.config.errors import UserError, closest
from ponder.config.spine import VARIANTS, choices

DEFAULT_VARIANTS = ["think", "fixed", "blind", "search"]
_SCHEDULE = re.compile(r"""(?<!["'\w])(?:linear|cosine|exponential)\([^()]*\)""")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def rewrite(arguments: list[str], *folders: Path) -> list[str]:
    """Command-line arguments with flags and parsed experiment names replaced.

    Flags that are always true say which variants there are; where none is, flags change those of
    the experiment, or else of the default run. Presets are in `folders`, the first is `conf/`.
    """
    folders = (*folders, *config_folders(arguments))
    sweeping = "-m" in arguments or "--multirun" in arguments
    arguments = [_plain(argument) for argument in arguments]
    flags, arguments = _take_flags(arguments, sweeping)
    experiment, arguments = _take(arguments, "experiment")
    listed, arguments = _take(arguments, "variant")
    starts, parsed = None, False
    if experiment is not None:
        words, starts, parsed = _experiment(experiment, folders, sweeping, bool(flags))
        typed = any(argument.startswith("task=") for argument in arguments)
        arguments = [*(word for word in words if not (typed and parsed)), *arguments]
    if listed is not None:
        starts = _lists(listed, sweeping)
    if flags or parsed or listed is not None:
        if starts is None:
            starts = [[] if any(map(all, flags.values())) else DEFAULT_VARIANTS]
        combinations = [dict(zip(flags, values, strict=True))
                        for values in itertools.product(*flags.values())]
        lists = [_combine(start, chosen) for start in starts for chosen in combinations]
        arguments = [f"variant={','.join(dict.fromkeys(lists))}", *arguments]
    return sorted(arguments, key=_is_override)


def config_folders(arguments: list[str]) -> list[Path]:
    """The folders that `--config-dir` and `hydra.searchpath` add to `conf/`.

    Raises `UserError` for a `--config-dir` that is no directory.
    """
    found: list[Path] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, sign, value = word.partition("=")
        if option in ("--config-dir", "-cd"):
            folder = Path(value if sign else following)
            if not folder.is_dir():
                raise UserError(f"--config-dir={folder}: found no such directory; legal: one with "
                                "files such as experiment/mine.yaml")
            found.append(folder)
        elif option == "hydra.searchpath":
            found += [Path(path) for path in re.findall(r"file://([^,\]\s'\"]+)", value)]
    return found


def parse_experiment(name: str, *folders: Path) -> tuple[str, list[str]]:
    """`add_think_fixed` -> `("add", ["think", "fixed"])`; `add_normal` has no variants.

    Raises `UserError` that lists the legal parts.
    """
    task, *flags = name.split("_")
    tasks, files = [*choices("task", *folders)], [*choices("experiment", *folders)]
    known = task in tasks and flags and (flags == ["normal"] or set(flags) <= set(VARIANTS))
    if not known or len(set(flags)) < len(flags):
        near = closest(name, [*files, *(f"{task}_{flag}" for flag in ("normal", *VARIANTS))])
        raise UserError(
            f"experiment={name}: found {name!r}{near}; legal: {''.join(f'{x}, ' for x in files)}"
            f"{' or '.join(tasks)} followed by _normal or by some of _{' _'.join(VARIANTS)}")
    return task, [] if flags == ["normal"] else flags


def _plain(argument: str) -> str:
    """Schedules and prompts quoted, and a reward's weight added where the reward is not there yet.
    """
    if argument.startswith("prompt="):
        return f"prompt={_quoted(argument.partition('=')[2])}"
    argument = re.sub(r"^\+?experiment=", "experiment=", argument)
    return re.sub(r"^reward\.", "++reward.", _SCHEDULE.sub(r'"\g<0>"', argument))


def _quoted(text: str) -> str:
    """A text as Hydra and OmegaConf read it: no sign in it means anything else there."""
    text = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)
    text = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (r'\"' if found[2] else ""), text)
    return f'"{text}"'


def _is_override(argument: str) -> bool:
    """`key=value` or `~key`, not an option or its value (which argparse wants in front)."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _take(arguments: list[str], key: str) -> tuple[str | None, list[str]]:
    """The value of the last `key=value`, and the arguments without it."""
    found = [argument for argument in arguments if argument.startswith(f"{key}=")]
    rest = [argument for argument in arguments if not argument.startswith(f"{key}=")]
    return (found[-1].partition("=")[2] if found else None), rest


def _take_flags(arguments: list[str], sweeping: bool,
                ) -> tuple[dict[str, list[bool]], list[str]]:
    """The values of each flag that was typed, and the arguments without them."""
    flags = {}
    for flag in VARIANTS:
        value, arguments = _take(arguments, flag)
        if value is not None:
            _one(flag, value.split(","), sweeping)
            flags[flag] = [_boolean(flag, word.strip()) for word in value.split(",")]
    return flags, arguments


def _boolean(flag: str, word: str) -> bool:
    if word.lower() not in _TRUE + _FALSE:
        raise UserError(f"{flag}={word}: found {word!r}; legal: true or false")
    return word.lower() in _TRUE


def _one(key: str, values: list[str], sweeping: bool) -> None:
    if len(values) > 1 and not sweeping:
        raise UserError(f"{key}={','.join(values)}: found {len(values)} values; legal: one, or -m "
                        "in front for a sweep over them")


def _experiment(value: str, folders: tuple[Path, ...], sweeping: bool, flags: bool,
                ) -> tuple[list[str], list[list[str]] | None, bool]:
    """(words for Hydra, variants that flags change, whether the names were parsed).

    The variants of an experiment file are in it, so they are read only where flags change them.
    """
    if value == "null":
        return [], None, False
    names = value.split(",")
    _one("experiment", names, sweeping)
    in_files = [name for name in names if name in choices("experiment", *folders)]
    if in_files and len(names) > 1 and (flags or len(in_files) < len(names)):
        raise UserError(f"experiment={value}: found a file ({in_files[0]}) among others; legal: "
                        "a sweep over files without flags, or over names such as add_think")
    if in_files:
        starts = [_file_variants(folders, in_files[0])] if flags else None
        return [f"experiment={value}"], starts, False
    parsed = [parse_experiment(name, *folders) for name in names]
    tasks = list(dict.fromkeys(task for task, _ in parsed))
    if len(tasks) > 1:
        raise UserError(f"experiment={value}: found tasks {', '.join(tasks)}; legal: one task")
    return [f"task={tasks[0]}"], [variants for _, variants in parsed], True


def _file_variants(folders: tuple[Path, ...], name: str) -> list[str]:
    """The variants that an experiment file names, else those of the default run."""
    import yaml

    paths = [folder / "experiment" / f"{name}.yaml" for folder in folders]
    path = next(path for path in paths if path.is_file())
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())[:120]})") from None
    for entry in (content or {}).get("defaults", []):
        for key, value in entry.items() if isinstance(entry, dict) else []:
            if re.fullmatch(r"override\s+/?variant", key):
                return [value] if isinstance(value, str) else list(value or [])
    return DEFAULT_VARIANTS


def _lists(value: str, sweeping: bool) -> list[list[str]]:
    """`[think,blind]`, `think` and `[think],[blind]` as lists of variants."""
    found = value.split(",") if sweeping else [value]
    if "[" in value:
        found = re.findall(r"\[([^\[\]]*)\]", value)
        if value.replace(" ", "") != ",".join(f"[{text}]" for text in found).replace(" ", ""):
            raise UserError(f"variant={value}: found brackets that do not match; legal: a list "
                            "such as [think,blind]")
    lists = [[word.strip() for word in text.split(",") if word.strip()] for text in found]
    for word in itertools.chain(*lists):
        if word not in VARIANTS:
            raise UserError(f"variant={value}: found {word!r}{closest(word, list(VARIANTS))}; "
                            f"legal: a list of {', '.join(VARIANTS)}")
    _one("variant", [f"[{','.join(words)}]" for words in lists], sweeping)
    return lists


def _combine(start: list[str], flags: dict[str, bool]) -> str:
    """Variants after flags; without think nothing is left but what flags say is true."""
    if flags.get("think") is False:
        start = []
    return f"[{','.join(flag for flag in VARIANTS if flags.get(flag, flag in start))}]"
