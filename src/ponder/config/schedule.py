"""Numbers that change with the step: a constant, or `linear(start, end, steps)` and its kin."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

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
