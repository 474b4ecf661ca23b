"""Bad input gets one line: the key or file, what was found, what is legal."""

from __future__ import annotations

import difflib
import re
from pathlib import Path


class UserError(Exception):
    """A mistake in the input. Its text is the one line the user reads; the exit code is 2."""


def closest(word: str, legal: list[str]) -> str:
    """` (did you mean x?)` where one of the legal words is near, else nothing."""
    near = difflib.get_close_matches(word, legal, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def explain(error: BaseException, conf: Path) -> str | None:
    """One line for an error raised by Hydra or OmegaConf; None where it is not one of theirs."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = error.__cause__ or error.__context__
    inner = cause if isinstance(cause, OmegaConfBaseException) else error
    text = f"{error}\n{inner}"
    return (_unknown_choice(text, conf) or _unknown_key(text, inner) or _wrong_type(text)
            or " ".join(str(error).split()))


def _unknown_choice(text: str, conf: Path) -> str | None:
    """`task=foo`: the legal words are the files of the group's folder."""
    found = re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text)
    if not found:
        return None
    group, name = found.groups()
    legal = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    return f"{group}={name}: unknown {group}{closest(name, legal)}; legal: {', '.join(legal)}"


def _unknown_key(text: str, error: BaseException) -> str | None:
    if not re.search(r"Key '[^']+' (?:is not in struct|not in)", text):
        return None
    key = re.search(r"full_key: (\S+)", text) or re.search(r"Could not override '([^']+)'", text)
    node = getattr(error, "parent_node", None)
    legal = [str(name) for name in node if name != "hydra"] if node is not None else []
    full = key.group(1) if key else "?"
    return (f"{full}: no such key{closest(full.rpartition('.')[2], legal)}"
            + (f"; legal here: {', '.join(legal)}" if legal else ""))


def _wrong_type(text: str) -> str | None:
    found = re.search(r"Value '(.*?)'(?: of type '\w+')? (?:could not be converted to|is not a "
                      r"valid) (.+)", text)
    if not found:
        return None
    key = re.search(r"full_key: (\S+)", text)
    kinds = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
    kind = found.group(2).strip()
    return (f"{key.group(1) if key else '?'}={found.group(1)}: found {found.group(1)!r}; "
            f"legal: {kinds.get(kind, kind)}")
