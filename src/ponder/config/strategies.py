"""Keys of how thoughts are learnt: one dataclass a strategy."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.config.fields import option, schedule


@dataclass
class StrategyConfig:
    """What every strategy has."""

    name: str = option("", "name of the strategy")
    entropy: int | float | str = schedule(0.0, "weight of the thought-entropy bonus")


@dataclass
class Reinforce(StrategyConfig):
    """REINFORCE (Williams 1992)."""

    name: str = option("reinforce", "REINFORCE", legal=("reinforce",))
    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
    baseline: str = option("group_mean", "subtracted from the reward",
                           legal=("none", "group_mean", "leave_one_out", "running_mean"))
    scale: str = option("none", "divide advantages by the standard deviation of the group, of the "
                        "batch, or not", legal=("none", "group", "batch"))
    discount: float = option(1.0, "reward of token t times discount^(tokens left)", low=0, high=1)
    decay: float = option(0.95, "decay of the running-mean baseline", low=0, high=0.9999)


@dataclass
class Grpo(StrategyConfig):
    """Group-relative policy optimisation (Shao et al. 2024)."""

    name: str = option("grpo", "GRPO", legal=("grpo",))
    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
    scale: str = option("group", "divide advantages by the standard deviation of the group, of the "
                        "batch, or not (Dr. GRPO)", legal=("none", "group", "batch"))
    clip: float = option(0.2, "probability ratios are clipped to 1 - clip .. 1 + clip", low=0)


@dataclass
class Star(StrategyConfig):
    """Keep good rollouts, learn them by likelihood (Zelikman et al. 2022)."""

    name: str = option("star", "STaR", legal=("star",))
    keep: str = option("best", "of each group: the best one, or all that answer right",
                       legal=("best", "correct"))


@dataclass
class Sft(StrategyConfig):
    """Supervised: learn the task's gold thoughts (or those of a search) by likelihood."""

    name: str = option("sft", "supervised fine-tuning", legal=("sft",))
