"""What users type, rewritten into what Hydra reads.

- Old keys are spelled as today, `resume=<directory>` becomes the words of that run.
- Hydra groups cannot take a boolean, so `think=true` becomes an entry of `variant=[...]`.
- `add_think_fixed_blind` is parsed as an experiment, not looked up in a file.
- Hydra knows no function `linear(0.5, 0, 100)`, so schedules are quoted; so are texts and paths
  with characters that Hydra does not read (`task.data=~/Bücher/a=b (1).txt`).
- `reward.length=-0.1` may name a reward that is not there yet.
- A Slurm partition alone means `hydra/launcher=slurm`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ponder.cli.errors import refuse_words, sweeps
from ponder.cli.legacy import modern, thought_tokens_of
from ponder.config.errors import UserError, brief, closest
from ponder.config.registry import DEFAULT_VARIANTS, discover, plugins_of
from ponder.config.spine import (
    CONF,
    OF_A_MODEL,
    OWN,
    WORDS,
    choices,
    combined,
    variant_names,
    variants_of,
)

LAUNCHER, SWEEPER, PARTITION = "hydra/launcher", "hydra/sweeper", "hydra.launcher.partition"
OURS = {"submitit_slurm": "slurm", "submitit_local": "local", "basic": "here"}  # instead of Hydra's
SUBMITS = ("slurm", "local")
ONLY_PRINT = {"--cfg", "-c", "--info", "-i", "--help", "--hydra-help", "--shell-completion", "-sc"}
_SCHEDULE = re.compile(r"""(?<!["'\w])(?:linear|cosine|exponential)\([^()]*\)""")
_READABLE = re.compile(r"[\w./:+\-@%*?|$ ,\\]*", re.ASCII)  # of a value, by Hydra, without quotes
_STRUCTURED = re.compile(r"""["'(].*|.*[\[\]{}"].*|\w+\(.*\)""", re.DOTALL)  # Hydra's to understand
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def understood(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for Hydra, and lines that the user should see about them.

    Raises `UserError` for words that mean nothing.
    """
    arguments, notes = modern(_resumed(arguments))
    notes += [*load_plugins(arguments), *repeated_flags(arguments)]
    arguments = rewrite(launched(_retried(_with_task(arguments))), CONF)
    refuse_words(arguments, CONF, *config_folders(arguments))
    return arguments, notes


def load_plugins(arguments: list[str]) -> list[str]:
    """Import the plugins that words, a checkpoint or an experiment file name; lines about them.

    Raises `UserError` for an experiment file whose keys Hydra would put below `experiment`.
    """
    folders = (CONF, *config_folders(arguments))
    named = plugins_of(arguments)
    for name in (_take([word.lstrip("+") for word in arguments], "experiment")[0] or "").split(","):
        if name not in choices("experiment", *folders):
            continue
        file = _file("experiment", name, folders)
        content = _yaml(file)
        if {*content} - {"defaults"} and "@package" not in file.read_text():
            raise UserError(f"{file}: found keys that would stand below experiment; legal: with "
                            "the line `# @package _global_` at the top")
        named += content.get("plugins") or []
    return discover(named)


# --- words that stand for those of an earlier call ------------------------------------------------


def _resumed(arguments: list[str]) -> list[str]:
    """`resume=<run directory>`: the words that run was begun with, then those typed now.

    Raises `UserError` where no run was begun in that directory, or its words are not whole.
    """
    named = [word for word in arguments if word.partition("=")[0] == "resume"
             and word.partition("=")[2] not in ("auto", "never")]
    if not named:
        return arguments
    directory = os.path.expanduser(named[-1].partition("=")[2])
    try:
        begun = json.loads((Path(directory) / WORDS).read_text())
    except OSError:
        raise UserError(f"resume={directory}: found no run there; legal: auto, never, or the "
                        "directory of a run") from None
    except ValueError:
        begun = None
    if not isinstance(begun, list) or not all(isinstance(word, str) for word in begun):
        raise UserError(f"resume={directory}: found no list of words in {WORDS} there; legal: that "
                        f"file as the run wrote it, or hydra.run.dir={directory} and these words")
    if not os.access(directory, os.W_OK):
        raise UserError(f"resume={directory}: found a directory that cannot be written to; legal: "
                        "one that can, such as a copy of it")
    return [*begun, *thought_tokens_of(Path(directory)),
            *(word for word in arguments if word not in named), f"hydra.run.dir={directory}"]


def _with_task(arguments: list[str]) -> list[str]:
    """`model.name=<checkpoint> task.key=...`, where it is evaluated or speaks: the keys are those
    of its task.
    """
    pairs = [word.lstrip("+").partition("=") for word in arguments]
    keys = {key: value for key, _, value in pairs}
    asked = keys.get("action") in ("evaluate", *OF_A_MODEL)
    if not asked or {"task", "experiment"} & {*keys} or not any(
            key.startswith("task.") for key in keys):
        return arguments
    try:
        saved = json.loads((Path(keys.get("model.name", "")) / "ponder.json").read_text())
        return [f"task={saved['config']['task']['name']}", *arguments]
    except (OSError, ValueError, KeyError, TypeError):
        return arguments  # what is wrong there is told later


def _retried(arguments: list[str]) -> list[str]:
    """`action=sweep sweep.retry=failed`: the words that send the lost jobs of a sweep again.

    Raises `UserError` for other words: a job is what it was when it was sent.
    """
    if not {"action=sweep", "sweep.retry=failed"} <= set(arguments):
        return arguments
    from ponder.sweeps.plan import retry_arguments

    return retry_arguments(arguments)


# --- flags, experiments, text ---------------------------------------------------------------------


def rewrite(arguments: list[str], *folders: Path) -> list[str]:
    """Command-line arguments with flags and parsed experiment names replaced.

    Flags that are always true say which variants there are; where none is, flags change those of
    the experiment, or else of the default run. Presets are in `folders`, the first is `conf/`.
    """
    folders = (*folders, *config_folders(arguments))
    known = variant_names(*folders)
    sweeping = sweeps(arguments)
    arguments = [_plain(argument, sweeping) for argument in arguments]
    flags, arguments = _take_flags(arguments, known, sweeping)
    experiment, arguments = _take(arguments, "experiment")
    listed, arguments = _take(arguments, "variant")
    starts, parsed = None, False
    if experiment is not None:
        words, starts, parsed = _experiment(experiment, folders, sweeping, bool(flags))
        typed = any(argument.startswith("task=") for argument in arguments)
        arguments = [*(word for word in words if not (typed and parsed)), *arguments]
    if listed is not None:
        starts = _lists(listed, known, sweeping)
    default = [*DEFAULT_VARIANTS]
    if experiment is None:
        default = _default_variants(arguments, sweeping)
    if flags or parsed or listed is not None or default != [*DEFAULT_VARIANTS]:
        if starts is None:
            starts = [[] if any(map(all, flags.values())) else default]
        combinations = [dict(zip(flags, values, strict=True))
                        for values in itertools.product(*flags.values())]
        lists = dict.fromkeys(combined(start, chosen, known) for start in starts
                              for chosen in combinations)
        one = starts == [[OWN]] and len(lists) == 1  # which is for the jobs, not for the sweep
        arguments = [f"variant={'choice(' * one}{','.join(lists)}{')' * one}", *arguments]
    return sorted(arguments, key=_is_override)


def config_folders(arguments: list[str]) -> list[Path]:
    """The folders that `--config-dir` and `hydra.searchpath` add to `conf/`.

    Raises `UserError` for a `--config-dir` that is no directory.
    """
    found: list[Path] = []
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
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
    tasks, files = [*choices("task", *folders)], [*choices("experiment", *folders)]
    variants = variant_names(*folders)
    task = max((one for one in tasks if name.startswith(f"{one}_")), key=len,
               default=name.partition("_")[0])  # names of tasks may have underscores
    flags = name.removeprefix(task).split("_")[1:]
    known = task in tasks and flags and (flags == ["normal"] or set(flags) <= {*variants})
    if not known or len(set(flags)) < len(flags):
        near = closest(name, [*files, *(f"{task}_{flag}" for flag in ("normal", *variants))])
        raise UserError(
            f"experiment={name}: found {name!r}{near}; legal: {''.join(f'{x}, ' for x in files)}"
            f"{' or '.join(tasks)} followed by _normal or by some of _{' _'.join(variants)}")
    return task, [] if flags == ["normal"] else flags


def _plain(argument: str, sweeping: bool) -> str:
    """One argument with `~` expanded and with quotes where Hydra needs them; a reward's weight, or
    an option of a generator, is added where it is not there yet.
    """
    if argument.startswith("prompt="):
        return f"prompt={quoted(argument.partition('=')[2])}"
    argument = re.sub(r"^\+?experiment=", "experiment=", argument)
    argument = re.sub(r"^(reward|task\.options)(?=\.|=\{)", r"++\1",
                      _SCHEDULE.sub(r'"\g<0>"', argument))
    key, sign, value = argument.partition("=")
    if key == "plugins" and re.fullmatch(r"[\w.,]+", value):  # a list, also without its brackets
        return f"plugins=[{value}]"
    if not sign or not re.fullmatch(r"\+{0,2}[\w./@]+", key):
        return argument
    if value.startswith("~/"):
        value = os.path.expanduser(value)
    if _READABLE.fullmatch(value) or _STRUCTURED.fullmatch(value):
        return f"{key}={value}"
    return f"{key}={','.join(map(quoted, value.split(',') if sweeping else [value]))}"


def quoted(text: str) -> str:
    """A text in quotes, as Hydra and OmegaConf read it: no sign in it has a meaning there."""
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


def _take_flags(arguments: list[str], known: list[str], sweeping: bool,
                ) -> tuple[dict[str, list[bool]], list[str]]:
    """The last values of each flag that was typed, and the arguments without them."""
    flags: dict[str, list[bool]] = {}
    for flag in known:
        value, arguments = _take(arguments, flag)
        if value is not None:
            values = value.split(",")
            _one(flag, values, sweeping)
            flags[flag] = [_boolean(flag, one.strip()) for one in values]
    return flags, arguments


def repeated_flags(arguments: list[str]) -> list[str]:
    """A line for each flag that was typed with several values, of which the last one counts."""
    notes = []
    for flag in variant_names(CONF, *config_folders(arguments)):
        typed = list(dict.fromkeys(word for word in arguments if word.startswith(f"{flag}=")))
        if len(typed) > 1:
            notes.append(f"{' '.join(typed)}: the last one counts")
    return notes


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


def _file(group: str, name: str, folders: Sequence[Path]) -> Path:
    """The file of a choice, of which there is one."""
    paths = [folder / group / f"{name}.yaml" for folder in folders]
    return next(path for path in paths if path.is_file())


def _yaml(path: Path) -> dict[str, Any]:
    """What is in an experiment file. Raises `UserError` for one that is not YAML."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({brief(error)})") from None
    return content if isinstance(content, dict) else {}


def _file_variants(folders: Sequence[Path], name: str) -> list[str]:
    """The variants that an experiment file names, else those of the default run."""
    for entry in _yaml(_file("experiment", name, folders)).get("defaults") or []:
        for key, value in entry.items() if isinstance(entry, dict) else []:
            if re.fullmatch(r"override\s+/?variant", key):
                return [value] if isinstance(value, str) else list(value or [])
    return [*DEFAULT_VARIANTS]


def _default_variants(arguments: list[str], sweeping: bool) -> list[str]:
    """Those of the task that is typed; of several with different ones `OWN`. A checkpoint brings
    its own, so nothing is said there.
    """
    keys = {key.lstrip("+"): value.strip("\"'") for key, _, value in (
        word.partition("=") for word in arguments)}
    names = re.findall(r"\w+", keys.get("task", "")) if sweeping else [keys.get("task", "")]
    if (Path(keys.get("model.name", "")) / "ponder.json").is_file():
        return [*DEFAULT_VARIANTS]
    return variants_of(names)


def _lists(value: str, known: list[str], sweeping: bool) -> list[list[str]]:
    """`[think,blind]`, `think` and `[think],[blind]` as lists of variants."""
    found = value.split(",") if sweeping else [value]
    if "[" in value:
        found = re.findall(r"\[([^\[\]]*)\]", value)
        if value.replace(" ", "") != ",".join(f"[{text}]" for text in found).replace(" ", ""):
            raise UserError(f"variant={value}: found brackets that do not match; legal: a list "
                            "such as [think,blind]")
    lists = [[word.strip() for word in text.split(",") if word.strip()] for text in found]
    for word in itertools.chain(*lists):
        if word not in known:
            raise UserError(f"variant={value}: found {word!r}{closest(word, known)}; "
                            f"legal: a list of {', '.join(known)}")
    _one("variant", [f"[{','.join(words)}]" for words in lists], sweeping)
    return lists


# --- where a sweep runs ---------------------------------------------------------------------------


def launched(arguments: list[str]) -> list[str]:
    """Arguments that name their launcher: a partition alone means `hydra/launcher=slurm`.

    Raises `UserError` for a launcher or a sweeper without -m, which Hydra would ignore without a
    word, and for Slurm on a machine that has none.
    """
    arguments = [f"{LAUNCHER}={OURS.get(name, name)}" if key == LAUNCHER else word
                 for word in arguments for key, _, name in [word.partition("=")]]
    launcher, partition, sweeper, directory = (
        _take(arguments, key)[0] for key in (LAUNCHER, PARTITION, SWEEPER, "sweep.dir"))
    said = f"{LAUNCHER}={launcher}"
    if launcher is None and partition is not None:
        launcher, said = "slurm", f"{PARTITION}={partition}"
        arguments = [*arguments, f"{LAUNCHER}={launcher}"]
    swept = sweeps(arguments)
    if swept and directory is not None:  # Hydra's directory of a sweep, too
        arguments = [*arguments, f"hydra.sweep.dir={directory}"]
    if any(word.partition("=")[0] in ONLY_PRINT for word in arguments):
        return arguments
    if sweeper is not None and not swept:
        raise UserError(f"{SWEEPER}={sweeper}: found no -m, without which nothing is swept; legal: "
                        "-m in front, or no word about a sweeper")
    if launcher in SUBMITS and not swept:
        raise UserError(f"{said}: found no -m, without which nothing is launched; legal: -m in "
                        "front, or no word about a launcher, to run here")
    if launcher == "slurm" and not shutil.which("sbatch"):
        raise UserError(f"{said}: found no sbatch on this machine; legal: a machine that sends "
                        f"jobs to Slurm, {LAUNCHER}=local for several runs at once on this one, or "
                        "no word about a launcher for one run after another")
    return arguments
