"""What a run says of itself when it is done."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from torch import Tensor

from ponder import checkpoint
from ponder.config import Config, config_hash
from ponder.evaluate import Evaluation
from ponder.models.policy import Policy


def summarise(config: Config, directory: Path, policy: Policy, found: Evaluation,
              weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """The stable keys of summary.json that every action shares."""
    return {"accuracy": found.metrics.get("accuracy"), "necessity": found.necessity,
            "metrics": found.metrics, "seed": config.seed,
            "run_name": "/".join(directory.parts[-2:]), "git_revision": git_revision(),
            "config_hash": config_hash(config),
            "weights_sha256": checkpoint.weights_sha256(policy, weights), "status": "done"}


def verdict(found: Evaluation) -> str:
    """How much the answers need the thoughts, in one line, and the accuracy in another."""
    if "accuracy" not in found.metrics:
        return "not evaluated"
    table = "  ".join(f"{name} {value:.3f}" for name, value in found.necessity.items())
    return f"accuracy with thoughts {table}\naccuracy {found.metrics['accuracy']:.4f}"


def git_revision() -> str | None:
    """Commit of the code, with + where files have changed; None outside a repository."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
