"""Errors of Hydra and OmegaConf in one line: the key or file, what was found, what is legal."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import typing
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, closest, shown
from ponder.config.option import FORMS, legal_words
from ponder.config.spine import CONF, choices

PLACES = ("hydra.run.dir", "hydra.sweep.dir", "sweep.dir", "scratch")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


# --- before Hydra reads the words -------------------------------------------------------------

def sweeps(arguments: list[str]) -> bool:
    """Whether the words ask for a sweep."""
    return bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments})


def refuse_words(arguments: list[str], *folders: Path) -> None:
    """Raise `UserError` for words that Hydra answers at length, or with a traceback.

    The choices of a group are files in `folders`, or registered.
    """
    for override in _overrides(arguments):
        key, typed = override.key_or_group, override.input_line
        if override.is_delete() and not key.startswith("reward."):
            raise UserError(f"{typed}: found a deletion; legal: key=value")
        if not key:
            raise UserError(f"{typed}: found no key; legal: key=value")
        if key in PLACES and not override.is_sweep_override() and not override.value():
            raise UserError(f"{typed}: found no directory; legal: {key}=<directory>")
        legal = choices(key, *folders)
        if legal and not override.is_sweep_override():
            _refuse_choice(key, str(typed), override.value(), legal)


def _in_quotes(word: str) -> str:
    """How `key=value` is typed in a shell if the value is text; nothing for another word."""
    key, sign, value = word.partition("=")
    text = value.strip("\"'").replace('"', '\\"')
    typed = shlex.quote(f'{key}="{text}"')
    return f", or as text {typed}" if sign and text else ""


def _refuse_choice(group: str, typed: str, value: Any, legal: Iterable[str]) -> None:
    """A group takes the name of a choice; rewards, variants and loggers a list of them."""
    several = isinstance(value, list) and group in ("reward", "variant", "logger")
    names = value if several else [value]
    if isinstance(value, dict) or all(isinstance(name, str) and name for name in names):
        return
    raise UserError(f"{typed}: found {shown(value) or 'nothing'}; legal: {', '.join(legal)}")


def _overrides(arguments: list[str]) -> list[Any]:
    """The words of the command line as Hydra understands them."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = get_args_parser().parse_args(arguments)
    except SystemExit as error:
        if not error.code:
            raise
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"{reason}; legal: key=value, --cfg job, -m, --help") from None
    parser, parsed = OverridesParser.create(), []
    for word in options.overrides:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            function = re.search(r"Unknown function '(\w+)'", str(error))
            reason = f"found a function {function.group(1)}" if function else "cannot be read"
            legal = FORMS if function else f"key=value{_in_quotes(word)}"
            raise UserError(f"{word}: {reason}; legal: {legal}") from None
        if override.is_sweep_override() and not (
                sweeps(arguments) or options.shell_completion):
            raise UserError(f"{word}: found several values; legal: one, a list in brackets, or -m "
                            "in front for a sweep over them")
        parsed.append(override)
    return parsed


# --- after Hydra has refused them --------------------------------------------------------------


def explain(error: BaseException) -> str | None:
    """One line for an error raised by Hydra or OmegaConf; None where it is not one of theirs."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, OmegaConfBaseException | HydraException) and (said := _within(error)):
        return said
    if not isinstance(error, HydraException | OmegaConfBaseException | YAMLError) and not (
            isinstance(error, ValueError | TypeError) and _raised_by_hydra(error)):
        return None
    text = str(error)
    file = re.match(r"In '([^']+/[^']+)': (?:\w+ raised while composing config:)?", text)
    where = f"conf/{file.group(1)}.yaml: " if file else ""
    text = text[file.end():] if file else text
    cause = error.__cause__ or error.__context__
    inner = error if isinstance(error, OmegaConfBaseException) else cause
    choice = _unknown_choice(text)
    if choice is not None:
        return choice
    if "does not support sweep type" in text:
        return ("interval(...): found values without number to combine; legal: values with commas, "
                "range(a, b, step), or hydra/sweeper=optuna, which chooses some")
    line = None
    if isinstance(inner, OmegaConfBaseException):
        word = re.search(r"(?:merging override |your config use )([+~]*)(\S.*)", text)
        line = _about_key(inner, *(word.groups() if word else ("", "")))
        if line and file and "no such key" in line:
            line += _meant(file.group(1), line.partition(".")[0])
    return where + (line or " ".join(text.split()))


def _within(error: BaseException | None) -> str | None:
    """The line of a `UserError` that a library has wrapped, such as one of a resolver's."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return None if error is None else str(error)


def _meant(file: str, group: str) -> str:
    """What a file of `conf/` chooses of a group, whose keys it sets: another choice has others."""
    path = CONF / f"{file}.yaml"
    found = re.search(rf"override /{group}: *(\S+)", path.read_text() if path.is_file() else "")
    return f", or {group}={found.group(1)}, for which the file is made" if found else ""


def _raised_by_hydra(error: BaseException) -> bool:
    import hydra

    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    home = Path(hydra.__file__).parent
    return frame is not None and home in Path(frame.tb_frame.f_code.co_filename).parents


def _unknown_choice(text: str) -> str | None:
    """`task=foo`: the legal words are those that Hydra lists."""
    found = re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", text)
    if not found:
        return None
    group, name = found.groups()
    options = re.search(r"Available options in '[^']+':\n((?:\t\S+\n)+)", text)
    legal = options.group(1).split() if options else [*choices(group)]
    return (f"{group}={name}: found {name!r}{closest(name, legal)}; "
            f"legal: {', '.join(legal) or 'nothing'}")


def _about_key(error: Any, sign: str, typed: str) -> str | None:
    """A wrong key, or a wrong value for a right one; `typed` is `key=value` if it was typed."""
    full, kind = error.full_key or "", error.object_type
    if not full:
        return None
    key, _, value = typed.partition("=")
    message = str(error).splitlines()[0]
    if re.match(r"Key '[^']*' (?:is not in struct|not in)", message):
        legal = [item.name for item in fields(kind)] if is_dataclass(kind) else list(
            error.parent_node or [])
        legal = [name for name in legal if name != "hydra"]
        return (f"{full}: no such key{closest(full.rpartition('.')[2], legal)}; "
                f"legal here: {', '.join(legal)}")
    legal = _legal(error)
    if key.startswith(full + "."):
        return f"{key}: no such key; legal: {full}=<{legal}>"
    if "~" in sign:
        return f"~{full}: found a deletion; legal: {full}=<{legal}>"
    if key != full:
        found = re.search(r"[Vv]alue '(.*?)'", message)
        if "nterpolation" in type(error).__name__ or not found:
            return f"{full}: found {_reason(message)}; legal: {legal}"
        value = {"None": "null"}.get(found.group(1), found.group(1))
    return f"{full}={value}: found {'null' if value == 'null' else repr(value)}; legal: {legal}"


def _reason(message: str) -> str:
    """`${foo}` that leads nowhere, in few words."""
    key = re.search(r"Interpolation key '([^']+)' not found", message)
    return f"${{{key.group(1)}}}, which is no key" if key else message


def _legal(error: Any) -> str:
    """What a key takes, from the dataclass that declares it."""
    kind, name = error.object_type, (error.full_key or "").rpartition(".")[2]
    if not is_dataclass(kind):
        return "a number" if "float" in str(error.ref_type) else "another value"
    about = next((dict(item.metadata) for item in fields(kind) if item.name == name), {})
    hint = typing.get_type_hints(kind).get(name)
    plain = [part for part in typing.get_args(hint) if part is not type(None)]
    words = ", ".join(legal_words(about))
    if about.get("schedule"):
        return FORMS
    if typing.get_origin(hint) is list:
        return f"a list of {words or 'words'}"
    if is_dataclass(hint):
        return f"{name}.<key>=<value>"
    null = ", or null" if type(None) in typing.get_args(hint) else ""
    return (words or KINDS.get(plain[0] if plain else hint, "another value")) + null
