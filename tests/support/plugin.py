"""A plugin: a reward, a strategy and a search of one's own, in one file outside of the package."""

from __future__ import annotations

from pathlib import Path

TEXT = '''
from dataclasses import replace

from ponder.config.option import option
from ponder.config.registry import reward, search, strategy
from ponder.core.lazy_imports import torch
from ponder.rollouts.search.exhaustive import Beam
from ponder.strategies.base import Strategy


@reward(weight=0.5, requires={"answers"})
def half(judged):
    """Half of p(answer | thought)."""
    return judged.logprob.exp() / 2


@strategy("plain")
class Plain(Strategy):
    """Policy gradient without a baseline."""

    scaled: float = option(1.0, "factor of the credit", low=0)

    def credit(self, rollouts, step=0):
        credit = self.scaled * rollouts.total_reward[:, None] * rollouts.learn
        return replace(rollouts, credit=credit, weight=torch.ones_like(rollouts.total_reward))

    def loss(self, scores, rollouts, denominator, step=0):
        return {"thinker_loss": -(rollouts.credit * scores.logprobs).sum() / denominator}


@search("wide")
class Wide(Beam):
    """Beam search with a key of its own."""

    much: int = option(3, "how much", low=1)
'''


def write_plugin(folder: Path) -> None:
    """Write it as `my_parts.py`."""
    (folder / "my_parts.py").write_text(TEXT)
