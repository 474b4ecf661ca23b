"""Strategies: what a rollout's tokens earn (credit) and how that becomes a loss.

Each is one small file; the trainer knows none of their names.
"""

from __future__ import annotations

from ponder.strategies.dpo import DPO
from ponder.strategies.exact import Exact
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.strategies.star import SFT, STaR

STRATEGIES: dict[str, type] = {"reinforce": REINFORCE, "grpo": GRPO, "ppo": PPO, "dpo": DPO,
                               "star": STaR, "sft": SFT, "exact": Exact}

