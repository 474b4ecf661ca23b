"""Signs that a run goes wrong, each said once: symptom, number, what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

GOOD = 0.9  # an accuracy at which a silent thinker may have every right to be sure


@dataclass
class Watch:
    """Hears every line of numbers; `say` gets each warning once.

    vocabulary is the number of thought tokens, explores whether thoughts are sampled to be learnt
    from (not found or given), advice what may help where nobody needs the thoughts.
    """

    vocabulary: int
    explores: bool
    say: Callable[[str], None]
    advice: str = "; try variant blind, or reward=gain"
    said: set[str] = field(default_factory=set)
    latest: dict[str, float] = field(default_factory=dict)
    flat: int = 0

    def hear(self, metrics: dict[str, float]) -> None:
        """Numbers of a step or of an evaluation."""
        self.latest.update(metrics)
        if "flat_groups" in metrics:
            self.flat = self.flat + 1 if metrics["flat_groups"] > 0.98 else 0
        for name, warning in self._signs(metrics):
            if name not in self.said:
                self.said.add(name)
                self.say(f"warning: {warning}")

    def _signs(self, metrics: dict[str, float]) -> Iterator[tuple[str, str]]:
        poor = self.latest.get("accuracy", 1.0) < GOOD
        entropy = self.latest.get("thought_entropy", math.inf)
        if self.explores and poor and entropy < 0.02 * math.log(max(self.vocabulary, 2)):
            yield "entropy", (f"thought entropy has collapsed ({entropy:.3f} nats) at accuracy "
                              f"{self.latest['accuracy']:.2f}: nothing new is tried; try a larger "
                              "strategy.entropy or rollout.epsilon")
        if self.explores and poor and self.flat >= 10:
            yield "flat", ("in nearly all groups all rewards are equal, so they teach nothing; try "
                           "more rollout.samples, rollout.epsilon or a finer reward")
        own = metrics.get("necessity/own")
        if own is None:
            return
        others = max(metrics[f"necessity/{name}"] for name in ("shuffled", "random", "dropped"))
        if self.vocabulary and own > 0.2 and others > own - 0.02:
            yield "needless", (f"nobody needs the thoughts: accuracy {own:.2f} with own ones, "
                               f"{others:.2f} with others{self.advice}")
        if metrics.get("thought/repetition", 0.0) > 0.9 and metrics["thought/length"] > 3:
            share = metrics["thought/repetition"]
            yield "repetition", (f"{share:.0%} of thought tokens repeat the one before; try "
                                 "reward.repetition=-0.1 or a higher temperature")
