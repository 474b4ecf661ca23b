"""What a run says about itself: warnings while it runs, its verdict and summary at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ponder.config.spine import Config, config_hash
from ponder.core.metrics import wilson_interval
from ponder.evaluation.question import Evaluation
from ponder.models.policies.base import Policy
from ponder.training import checkpoint
from ponder.training.run_directory import code_revision

GOOD = 0.9  # above this accuracy a thinker may be sure of its thoughts
ASKED = {"asked in training": "asked/accuracy", "never asked": "unasked/accuracy"}
PATIENCE = 300  # optimizer steps after which an accuracy at chance is worth a warning


@dataclass
class RunWarnings:
    """Checks the metrics for signs of a failing run; calls `note` once for each kind.

    vocabulary: number of thought tokens, 0 without thoughts or with fillers. explores: thoughts are
    sampled and learnt from (not found by a search, nor given). chance: accuracy of guessing, where
    it is known. advice: what may help where answers do not depend on the thoughts.
    """

    vocabulary: int
    explores: bool
    note: Callable[[str], None]
    advice: str = "; try variant blind, or reward=gain"
    chance: float | None = None
    given: dict[str, str] = field(default_factory=dict)  # what was said, by its kind
    latest: dict[str, float] = field(default_factory=dict)
    flat_steps: int = 0

    def update(self, metrics: dict[str, float], step: int = 0) -> None:
        """Check the numbers of an optimizer step or of an evaluation."""
        self.latest.update(metrics)
        if "flat_groups" in metrics:
            self.flat_steps = self.flat_steps + 1 if metrics["flat_groups"] > 0.98 else 0
        for check in (self._exploration, self._chance, self._necessity):
            for name, warning in check(metrics, step):
                self.say(name, warning)

    def say(self, name: str, warning: str) -> None:
        """Show a warning, and keep it for the summary; once for each name."""
        if name not in self.given:
            self.given[name] = warning
            self.note(f"warning: {warning}")

    def empty(self, strategy: str, rollouts: int) -> None:
        """Of a round of so many rollouts nothing can be learnt."""
        self.say("empty", f"nothing can be learnt from a round of {rollouts:,} rollouts: none has "
                 f"what strategy={strategy} learns from, such as a right answer (and for pairs a "
                 "wrong one); try more rollout.samples, easier questions, or a larger "
                 "thinker.tokens")

    def in_vain(self, rounds: int, step: int) -> None:
        """A run without a last round ends, as so many in a row taught nothing."""
        self.say("in_vain", f"the run ends at step {step}: {rounds} rounds in a row had nothing to "
                 "learn from, and the next ones would be like them (trainer.max_epochs=null)")

    def _exploration(self, metrics: dict[str, float], step: int) -> Iterator[tuple[str, str]]:
        """Thoughts that no longer vary, or whose rewards do not, teach nothing."""
        if not self.explores or self.latest.get("accuracy", 1.0) >= GOOD:
            return
        entropy = self.latest.get("thought_entropy", math.inf)
        if entropy < 0.02 * math.log(max(self.vocabulary, 2)):
            yield "entropy", (f"thought entropy has collapsed ({entropy:.3f} nats) at accuracy "
                              f"{self.latest['accuracy']:.2f}: nothing new is tried; try a larger "
                              "strategy.entropy or rollout.epsilon")
        if self.flat_steps >= 10:
            yield "flat", ("in nearly all groups all rewards are equal, so they teach nothing; try "
                           "more rollout.samples, rollout.epsilon or a finer reward")

    def _chance(self, metrics: dict[str, float], step: int) -> Iterator[tuple[str, str]]:
        """An accuracy no better than guessing, within two standard errors, after many steps."""
        chance, accuracy = metrics.get("chance", self.chance), metrics.get("accuracy")
        if chance is None or accuracy is None or step < PATIENCE:
            return
        if accuracy <= chance + 2 * metrics.get("accuracy_stderr", 0.0):
            yield "chance", (f"accuracy {accuracy:.3f} is no better than guessing ({chance:.3f}) "
                             f"after {step} steps; try an easier task first (fewer digits, a "
                             "smaller task.max), rollout=search, super=true (gold thoughts), or "
                             "more rollout.samples")

    def _necessity(self, metrics: dict[str, float], step: int) -> Iterator[tuple[str, str]]:
        """Answers that do not depend on the thoughts, and thoughts that repeat themselves."""
        own = metrics.get("necessity/own")
        if own is None or not self.vocabulary:
            return
        others = max(metrics[f"necessity/{name}"] for name in ("shuffled", "random", "dropped"))
        if own > 0.2 and others > own - 0.02:
            yield "needless", (f"answers do not need the thoughts: accuracy {own:.2f} with "
                               f"own ones, {others:.2f} with others{self.advice}")
        if metrics.get("thought/repetition", 0.0) > 0.9 and metrics["thought/length"] > 3:
            share = metrics["thought/repetition"]
            yield "repetition", (f"{share:.0%} of thought tokens repeat the one before; try "
                                 "reward.repetition=-0.1 or a higher temperature")


def summarise(config: Config, directory: Path, policy: Policy, found: Evaluation,
              weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """The keys of summary.json that every action writes; their names are stable."""
    return {"accuracy": found.metrics.get("accuracy"), "necessity": found.necessity,
            "metrics": found.metrics, "language": found.language, "seed": config.seed,
            "run_name": "/".join(directory.parts[-2:]), "git_revision": code_revision(),
            "config_hash": config_hash(config),
            "weights_sha256": checkpoint.weights_sha256(policy, weights), "status": "done"}


def verdict(found: Evaluation) -> str:
    """The accuracy with its standard error; above it how much the answers need the thoughts, where
    there are any, and how many other questions about them are answered rightly; before it the loss
    of running text, or the reward of continued text.

    A standard error of 0 says nothing, so none or all right show their 95 % Wilson interval.
    """
    metrics = found.metrics
    if "accuracy" not in metrics:
        return "not evaluated"
    lines = [f"accuracy {metrics['accuracy']:.4f}"]
    if metrics.get("accuracy_stderr"):
        lines[0] += f" ± {metrics['accuracy_stderr']:.4f}"
    elif found.rows:
        low, high = wilson_interval(metrics["accuracy"], len(found.rows))
        lines[0] += f" (95 % interval {low:.4f} to {high:.4f})"
    if "val/reward" in metrics:
        lines[0] = (f"reward {metrics['val/reward']:.4f} ± {metrics['val/reward_stderr']:.4f}, "
                    f"{lines[0]}")
    if "val/bits_per_byte" in metrics:
        lines[0] = (f"held-out loss {metrics['val/loss']:.4f} nats a token, "
                    f"{metrics['val/bits_per_byte']:.4f} bits per byte, {lines[0]}")
    if found.necessity and metrics.get("thought/length") != 0:
        table = "  ".join(f"{name} {value:.3f}" for name, value in found.necessity.items()
                          if not math.isnan(value))
        lines.insert(0, f"accuracy with thoughts {table}")
    asked = [f"{name} {metrics[key]:.3f}" for name, key in ASKED.items() if key in metrics]
    if asked:
        lines.insert(-1, f"other questions about the same thoughts {'  '.join(asked)}")
    return "\n".join(lines)
