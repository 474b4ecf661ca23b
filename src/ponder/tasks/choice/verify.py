"""Verifiers of free answers: each a function of what was said and the answer of the file.

A new one is one function here or in a plugin, decorated with `@verifier`. It returns whether the
answer is right, or how right it is, from 0 to 1; only 1 counts as right in accuracies and in
reward=exact_match, and reward=score is paid by the number itself.
"""

from __future__ import annotations

import importlib.util
import re
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

from ponder.config.registry import verifier
from ponder.tasks.choice import reading

SECONDS = 5  # that sympy may take for one answer, which then counts as wrong
MATH = ("math_verify", "sympy")


@verifier
def exact(said: str, answer: str) -> bool:
    r"""The same text, but for case, white space, a full stop, \text{}, and marks around it."""
    return plain(said) == plain(answer)


def _must_be_number(answer: str) -> str | None:
    return None if reading.number(answer)[0] is not None else "a number"


@verifier(accepts=_must_be_number)
def number(said: str, answer: str) -> bool:
    """The same value, without rounding; see `ponder.tasks.choice.reading`."""
    value = reading.number(said)[0]
    return value is not None and value == reading.number(answer)[0]


def _has_sympy(config: Any) -> Iterator[str]:
    if not all(map(importlib.util.find_spec, MATH)):
        yield ("task.verify=math: found no math_verify and sympy; legal: exact, number, or after "
               "pip install 'ponder[math]'")


@verifier(refuses=_has_sympy)
def math(said: str, answer: str) -> bool:
    """Equal in mathematics (sets, intervals, equations, matrices in LaTeX), by math-verify."""
    from math_verify import parse, verify

    main = threading.current_thread() is threading.main_thread()  # its clock needs signals
    seconds: Any = SECONDS if main else None
    try:
        gold, found = (parse(_latex(text), parsing_timeout=seconds) for text in (answer, said))
        return bool(verify(gold, found, timeout_seconds=seconds))
    except Exception:  # whatever sympy raises about what a model has written
        return False


def _latex(text: str) -> str:
    """A text as math-verify looks for it: in a formula, unless it has one."""
    return text if "$" in text or "\\boxed" in text else f"${text}$"


def plain(text: str) -> str:
    """A text as `exact` compares it."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.casefold().split()).strip("$*_`\"'“”「」。. ")
