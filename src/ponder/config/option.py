"""How a key of the configuration states its default, its sentence of help and its legal values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar


def option(default: Any, doc: str, *, legal: Any = (), low: float | None = None,
           high: float | None = None, later: bool = False) -> Any:
    """A dataclass field with a sentence of help and legal values: words, or bounds.

    legal may be a function that returns the words, where they are registered elsewhere. later: runs
    are older than the key, so its default is left out of their hash (`spine.config_hash`).
    """
    metadata = {"doc": doc, "legal": legal, "low": low, "high": high, "later": later}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def schedule(default: float | str, doc: str, *, low: float | None = None,
             high: float | None = None) -> Any:
    """A field that takes a number or a schedule such as `linear(0.5, 0, 1000)`."""
    return field(default=default,
                 metadata={"doc": doc, "schedule": True, "low": low, "high": high})


def legal_words(about: Any) -> tuple[str, ...]:
    """The legal words in the metadata of a field; none where any value is legal."""
    found: Any = about.get("legal") or ()
    words: Any = found() if callable(found) else found
    return tuple(words)


class WithOptions:
    """A class whose `option` fields are keys of the configuration and arguments: `GRPO(clip=0.1)`.

    The registering decorator adds `Keys`, the dataclass of the keys alone, which Hydra composes.
    """

    Keys: ClassVar[type]

    if TYPE_CHECKING:
        def __init__(self, **options: Any) -> None: ...

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(eq=False, kw_only=True, repr=False)(cls)

    @classmethod
    def of(cls, keys: Any) -> Any:
        """An object with the values of a `Keys`; the key that names the class is left out."""
        known = vars(cls)["__dataclass_fields__"]
        return cls(**{name: value for name, value in vars(keys).items() if name in known})


# --- schedules ------------------------------------------------------------------------------------

Schedule = Callable[[int], float]

_FORM = re.compile(r"^(linear|cosine|exponential)\(([^()]*)\)$")
FORMS = "a number, or linear, cosine or exponential(start, end, steps)"


def parse_schedule(value: float | str) -> Schedule:
    """Turn a configuration value into a function of the optimizer step.

    `linear(a, b, n)`, `cosine(a, b, n)` and `exponential(a, b, n)` go from `a` at step 0 to `b` at
    step `n` and stay there. Raises `ValueError` for anything else.
    """
    constant = _finite(value)
    if constant is not None:
        return lambda step: constant
    match = _FORM.match(str(value).replace(" ", ""))
    numbers = [_finite(part) for part in match.group(2).split(",")] if match else []
    if match is None or len(numbers) != 3 or None in numbers:
        raise ValueError(f"found {value!r}")
    shape, (start, end, steps) = match.group(1), [number or 0.0 for number in numbers]
    if steps < 1:
        raise ValueError(f"found {steps:g} steps, fewer than 1")
    if shape == "exponential" and min(start, end) <= 0:
        raise ValueError(f"found {min(start, end):g}, but exponential needs numbers above 0")

    def at(step: int) -> float:
        done = min(1.0, step / steps)
        if shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        if shape == "exponential":
            return start * (end / start) ** done
        return start + (end - start) * done

    return at


def _finite(value: object) -> float | None:
    """The finite number that a value says, or None."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
