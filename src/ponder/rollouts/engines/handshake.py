"""Whether an engine writes with the weights, the tokens and the distribution that we think it does:
some of its rows are computed again by our own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ponder.config.errors import EngineFailed
from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Rollouts
from ponder.models.policies.base import Policy


@dataclass
class Handshake:
    r"""Compares about `rows` rows each time the weights are new, and refuses a mean above `gap`.

    .. math:: \frac{1}{N} \sum_t |\log p_\mathrm{engine}(z_t) - \log p(z_t)|

    version: of the weights that were compared last. numbers: mean and largest difference then, in
    nats, for the log.
    """

    name: str
    gap: float = 0.05
    rows: int = 16
    version: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    def compare(self, policy: Policy, rollouts: Rollouts, sampling: Sampling, version: str) -> None:
        """Raises `EngineFailed` for what cannot be texts of the thinker. Greedy texts are compared
        under the distribution at temperature 1, of which their log-probabilities are.
        """
        if self.version == version:
            return
        problems = len(rollouts.problems)
        some = torch.linspace(0, problems - 1, min(problems, -(-self.rows // rollouts.samples)))
        part = replace(rollouts[some.long().to(rollouts.thought.device)], under=None)
        own = policy.logprobs(part, Sampling() if sampling == GREEDY else sampling)
        apart = (own - part.logprobs)[part.chosen].abs().double()
        mean, most = float(apart.mean()), float(apart.max())
        self.numbers = {"engine/logprob_gap": mean, "engine/logprob_gap_max": most}
        if not mean <= self.gap:
            raise EngineFailed(
                f"engine.gap={self.gap:g}: found log-probabilities of rollout.engine={self.name} "
                f"that are {mean:.3g} nats from those of the thinker on average (at most {most:.3g}"
                f"), over {len(apart)} tokens: other weights, another data type or another "
                "distribution; legal: an engine with the same ones, or a larger engine.gap")
        self.version = version
