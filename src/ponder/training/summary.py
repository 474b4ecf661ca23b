"""What a run says of itself when it is done."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from ponder.config.spine import Config, config_hash
from ponder.core.metrics import wilson_interval
from ponder.evaluation.question import Evaluation
from ponder.models.policies.question import Policy
from ponder.training import checkpoint
from ponder.training.code_snapshot import revision


def summarise(config: Config, directory: Path, policy: Policy, found: Evaluation,
              weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """The stable keys of summary.json that every action shares."""
    return {"accuracy": found.metrics.get("accuracy"), "necessity": found.necessity,
            "metrics": found.metrics, "seed": config.seed,
            "run_name": "/".join(directory.parts[-2:]), "git_revision": revision(),
            "config_hash": config_hash(config),
            "weights_sha256": checkpoint.weights_sha256(policy, weights), "status": "done"}


def verdict(found: Evaluation) -> str:
    """The accuracy with its standard error; above it how much the answers need the thoughts, where
    there are any; before it the loss of running text, or the reward of continued text.

    A standard error of 0 says nothing, so none or all right show their 95 % Wilson interval.
    """
    told = found.metrics
    if "accuracy" not in told:
        return "not evaluated"
    lines = [f"accuracy {told['accuracy']:.4f}"]
    if told.get("accuracy_stderr"):
        lines[0] += f" ± {told['accuracy_stderr']:.4f}"
    elif found.rows:
        low, high = wilson_interval(told["accuracy"], len(found.rows))
        lines[0] += f" (95 % interval {low:.4f} to {high:.4f})"
    if "val/reward" in told:
        lines[0] = f"reward {told['val/reward']:.4f} ± {told['val/reward_stderr']:.4f}, {lines[0]}"
    if "val/bits_per_byte" in told:
        lines[0] = (f"held-out loss {told['val/loss']:.4f} nats a token, "
                    f"{told['val/bits_per_byte']:.4f} bits per byte, {lines[0]}")
    if found.necessity and told.get("thought/length") != 0:
        table = "  ".join(f"{name} {value:.3f}" for name, value in found.necessity.items()
                          if not math.isnan(value))
        lines.insert(0, f"accuracy with thoughts {table}")
    return "\n".join(lines)
