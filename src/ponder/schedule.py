"""Numbers that change with the step: a constant, or `linear(start, end, steps)` and its kin."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

Schedule = Callable[[int], float]

_FORM = re.compile(r"^(linear|cosine|exponential)\(([^()]*)\)$")
FORMS = "a number, linear(start, end, steps), cosine(...) or exponential(...)"


def parse_schedule(value: float | str) -> Schedule:
    """Turn a configuration value into a function of the optimizer step.

    `linear(a, b, n)`, `cosine(a, b, n)` and `exponential(a, b, n)` go from `a` at step 0 to `b` at
    step `n` and stay there. Raises `ValueError` for anything else.
    """
    try:
        constant = float(value)
    except ValueError:
        pass
    else:
        return lambda step: constant
    match = _FORM.match(str(value).replace(" ", ""))
    if not match:
        raise ValueError(f"{value!r} is not {FORMS}")
    shape = match.group(1)
    try:
        start, end, steps = (float(part) for part in match.group(2).split(","))
    except ValueError:
        raise ValueError(f"{value!r} needs three numbers: {shape}(start, end, steps)") from None
    if steps < 1:
        raise ValueError(f"{value!r} needs steps >= 1")
    if shape == "exponential" and min(start, end) <= 0:
        raise ValueError(f"{value!r} needs start and end above 0")

    def at(step: int) -> float:
        done = min(1.0, step / steps)
        if shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        if shape == "exponential":
            return start * (end / start) ** done
        return start + (end - start) * done

    return at
