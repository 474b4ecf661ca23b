"""Keys of how thoughts are learnt: one dataclass a strategy."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.config.option import option, schedule

UNSOLVED = ("the answerer learns from groups without a right answer too, or it would never begin; "
            "null: unless thoughts are text")
NORMALISE = ("tokens", "sequences", "constant")


@dataclass
class StrategyConfig:
    """What every strategy has."""

    name: str = option("", "name of the strategy")
    entropy: int | float | str = schedule(0.0, "weight of the thought-entropy bonus")
    tokens_per_rollout: int = option(0, "learn from so many random tokens of each thought, as "
                                     "neighbours teach nearly the same; 0: from all", low=0)


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
    kl: int | float | str = schedule(0.0, "weight of the KL to the reference policy (as of ppo), "
                                     "which every thought pays out of its reward", low=0)
    normalise: str = option("tokens", "mean over all tokens, over each sequence and then over "
                            "sequences, or over the longest there may be", legal=NORMALISE)


@dataclass
class Ratio(StrategyConfig):
    """What strategies with probability ratios share."""

    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
    clip: int | float | str = schedule(0.2, "probability ratios are clipped to 1 - clip .. "
                                       "1 + clip", low=0)
    clip_high: float | None = option(None, "upper clip, if another (DAPO)", low=0)
    normalise: str = option("tokens", "mean over all tokens (DAPO), over each sequence and then "
                            "over sequences, or over the longest there may be (Dr. GRPO)",
                            legal=NORMALISE)
    kl: int | float | str = schedule(0.0, "weight of the KL to the reference policy, which is the "
                                     "thinker as it began or model.ref_name", low=0)
    kl_place: str = option("loss", "where the KL is taken off", legal=("loss", "reward"))
    kl_estimator: str = option("auto", "of the KL, from sampled tokens; auto: the one whose "
                               "gradient is right there, k3 in the loss and k1 in the reward",
                               legal=("auto", "k1", "k3"))
    kl_stop: float | None = option(None, "learn no more from a round once the KL to the policy "
                                   "that sampled it exceeds this", low=0)

    @property
    def estimator(self) -> str:
        """That of the KL: k1 or k3."""
        chosen = {"loss": "k3", "reward": "k1"}[self.kl_place]
        return chosen if self.kl_estimator == "auto" else self.kl_estimator


@dataclass
class Grpo(Ratio):
    """Group-relative policy optimisation (Shao et al. 2024), and its family."""

    name: str = option("grpo", "GRPO", legal=("grpo",))
    baseline: str = option("group_mean", "subtracted from the reward",
                           legal=("none", "group_mean", "leave_one_out"))
    scale: str = option("group", "divide advantages by the standard deviation of the group, of the "
                        "batch, or not (Dr. GRPO)", legal=("none", "group", "batch"))
    ratio: str = option("token", "ratios of single tokens or of whole thoughts",
                        legal=("token", "sequence"))
    skip_flat: bool = option(False, "leave groups whose rewards are all equal out of the "
                             "denominators (DAPO)")


@dataclass
class Ppo(Ratio):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    name: str = option("ppo", "PPO", legal=("ppo",))
    kl_place: str = option("reward", "where the KL is taken off", legal=("loss", "reward"))
    value: str = option("separate", "value head: none, on the thinker's trunk, or a network of its "
                        "own", legal=("none", "shared", "separate"))
    value_reads: str = option("token", "one value for every token; or one a question, read at its "
                              "last token or averaged over its tokens",
                              legal=("token", "last", "mean"))
    value_weight: float = option(0.5, "weight of the value loss", low=0)
    value_clip: float | None = option(0.2, "values move at most so far from those of the round; "
                                      "null: no clipping", low=0)
    discount: float = option(1.0, "gamma of the returns", low=0, high=1)
    trace: float = option(0.95, "lambda of generalised advantage estimation", low=0, high=1)
    whiten: str = option("batch", "advantages get mean 0 and deviation 1 over this",
                         legal=("none", "sequence", "group", "batch"))


@dataclass
class Dpo(StrategyConfig):
    """Direct preference optimisation on right and wrong rollouts (Rafailov et al. 2023)."""

    name: str = option("dpo", "DPO", legal=("dpo",))
    beta: float = option(0.1, "strength of the leash to the reference", low=1e-6)
    objective: str = option("dpo", "logistic loss, or the squared one of IPO",
                            legal=("dpo", "ipo"))
    smoothing: float = option(0.0, "share of pairs whose label is taken to be wrong", low=0,
                              high=0.5)
    likelihood: float = option(0.0, "weight of the winner's likelihood per token (IRPO)", low=0)
    unsolved: bool | None = option(None, UNSOLVED)


@dataclass
class Star(StrategyConfig):
    """Keep good rollouts, learn them by likelihood (Zelikman et al. 2022)."""

    name: str = option("star", "STaR", legal=("star",))
    keep: str = option("best", "of each group: the best one, or all that answer right",
                       legal=("best", "correct"))
    unsolved: bool | None = option(None, UNSOLVED)


@dataclass
class Sft(StrategyConfig):
    """Supervised: learn the task's gold thoughts (or those of a search) by likelihood."""

    name: str = option("sft", "supervised fine-tuning", legal=("sft",))


@dataclass
class Exact(StrategyConfig):
    """The exact gradient, over every thought there is: the upper bound."""

    name: str = option("exact", "exact policy gradient", legal=("exact",))
    entropy: int | float | str = schedule(0.01, "weight of the thought-entropy bonus")
