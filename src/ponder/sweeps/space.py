"""Which values a study may try: the words of a sweep as distributions of Optuna's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ponder.config.errors import UserError

FORMS = ("interval(0.1, 0.9), tag(log, interval(1e-4, 1e-1)), int(interval(1, 64)), "
         "range(2, 10, 2), choice(adam, sgd) or values with commas")


@dataclass(frozen=True)
class Space:
    """`fixed` are the words of every trial; `free` the distribution of each key that varies;
    `typed` all of them, as they were typed."""

    fixed: list[str]
    free: dict[str, Any]
    typed: list[str]

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The words of a trial. A number is written so that it is read back as the same one."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.free)]

    def name(self, direction: str) -> str:
        """Equal sweeps have equal names, in whatever order they are typed."""
        content = json.dumps([direction, *sorted(self.typed)])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_space(words: Sequence[str], loader: Any) -> Space:
    """The space of the words of a sweep; of several words for one key the last counts. `loader` is
    Hydra's, which knows what `glob(...)` stands for. Raises `UserError` where nothing varies, or
    for bounds between which nothing is.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    last = {override.get_key_element(): override for override in read}
    free = {key: _distribution(override) for key, override in last.items()
            if override.is_sweep_override()}
    if not free:
        raise UserError("hydra/sweeper=optuna: found no key with several values; legal: "
                        f"key={FORMS}")
    return Space([str(override.input_line) for key, override in last.items() if key not in free],
                 free, [str(override.input_line) for override in last.values()])


def _distribution(override: Any) -> Any:
    """What Optuna calls the values of a word. Values without an order stay as they are typed."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        if override.is_interval_sweep():
            kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
            return kind(value.start, value.end, log="log" in value.tags)
        if override.is_range_sweep() and not value.shuffle:
            numbers = sorted(value.range())
            kind = IntDistribution if isinstance(numbers[0], int) else FloatDistribution
            return kind(numbers[0], numbers[-1], step=abs(value.step))
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except (ValueError, IndexError):
        raise UserError(f"{override.input_line}: found nothing between the bounds, or a logarithm "
                        f"of 0 or less; legal: {FORMS}") from None
