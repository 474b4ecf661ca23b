"""Keys of how thoughts are made: sampled or searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ponder.config.option import option, schedule
from ponder.config.registry import SEARCHES

if TYPE_CHECKING:
    from ponder.config.spine import Config


@dataclass
class SamplerConfig:
    """How thoughts are drawn; every number may be a schedule."""

    kind: str = option("sample", "thoughts are sampled", legal=("sample",))
    samples: int = option(8, "rollouts per question (G)", low=1)
    temperature: int | float | str = schedule(1.0, "softmax temperature; of "
                                                 "thinker.kind=gumbel, whose tokens are drawn at "
                                                 "1, that of the gradient", low=1e-3)
    top_k: int = option(0, "keep the k likeliest tokens; 0: all", low=0)
    top_p: float = option(1.0, "keep the smallest set with this probability", low=1e-6, high=1.0)
    epsilon: int | float | str = schedule(0.0, "share of uniform exploration mixed in", low=0.0,
                                          high=1.0)


@dataclass
class BalancedConfig:
    """Balanced self-labelling: answers are dealt out to codes the thinker finds easy."""

    every: int = option(20, "steps between assignments", low=1)
    measure: int = option(20, "questions of each answer looked at before a position starts", low=1)
    decay: float = option(0.5, "share of the table that is kept at each assignment", low=0, high=1)
    bonus: float = option(0.3, "first bonus for the token an answer has now, in standard "
                          "deviations of the table; a thermostat regulates it", low=0)
    change: float = option(0.3, "share of the labels of unlearnt answers that may move", low=0)
    half_life: float = option(400, "steps in which that share halves once a position is learnt",
                              low=1)
    next_known: float = option(0.9, "the next position starts at this training accuracy ...", low=0)
    next_change: float = option(0.03, "... when no more of the labels moved", low=0)
    first_known: float = option(0.0, "the first token must be learnt this well ...", low=0, high=1)
    patience: int = option(900, "... within so many steps, or the thinker starts anew from other "
                           "weights", low=1)
    frozen_known: float = option(0.95, "labels are frozen at this training accuracy ...", low=0)
    frozen_change: float = option(0.005, "... when no more of them moved", low=0)
    settled_known: float = option(0.93, "the language has settled when every position reaches this",
                                  low=0, high=1)
    freeze_after: int = option(250, "steps after that at which all labels are frozen", low=0)


@dataclass
class TreeConfig:
    """Monte-Carlo tree search over thoughts."""

    simulations: int = option(32, "simulations per question", low=1)
    exploration: float = option(1.0, "PUCT exploration constant", low=0)
    value: str = option("answerer", "leaf value: the answerer's, or a learnt value model's",
                        legal=("answerer", "model"))
    value_lr: float = option(1e-3, "learning rate of the value model", low=0)


@dataclass
class SearchConfig(SamplerConfig):
    """Thoughts are found by search; its endpoints are the group."""

    kind: str = option("search", "thoughts are found by search", legal=("search",))
    samples: int = option(1, "endpoints kept per question (G)", low=1)
    method: str = option("auto", "auto: balanced where the answers are few enough for a table and "
                         "the answerer learns from own thoughts, else exhaustive or beam",
                         legal=lambda: ("auto", *SEARCHES.names()))
    limit: int = option(20_000, "largest thought space that is searched exhaustively", low=2)
    width: int = option(8, "beams kept (beam)", low=1)
    balance: bool = option(True, "exhaustive: no thought may be claimed by many answers")
    noise: int | float | str = schedule("linear(0.5, 0, 1000)", "exhaustive: Gumbel noise on the "
                                        "scores", low=0)
    balanced: BalancedConfig = field(default_factory=BalancedConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.method == "balanced" and (
                config.answerer.learns_from == "gold" or "gold_thought" in config.reward):
            yield ("rollout.method=balanced: found super or clean, but it invents a language of "
                   "its own; legal: auto, exhaustive, beam, tree")
