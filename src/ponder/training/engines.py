"""Who learns from rollouts: `trainer.engine` names a training loop, each registered here.

A loop is a subclass of `Trainer`, which loads torch; so what is registered is a function that
returns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ponder.config.errors import shown
from ponder.config.registry import engine

if TYPE_CHECKING:
    from ponder.config.spine import Config
    from ponder.training.trainer import Trainer

# Keys of strategies that TRL's trainers are not handed, and what they do instead.
FIXED = {"entropy": 0, "tokens_per_rollout": 0, "smoothing": 0, "kl": 0, "kl_stop": None,
         "skip_flat": False, "baseline": "group_mean", "ratio": "token"}

# Keys of sampling that TRL's GRPOTrainer does not score by; its DPOTrainer scores by none.
UNSCORED = {"top_k": 0, "top_p": 1.0, "epsilon": 0}


@engine("ponder")
def ponder() -> type[Trainer]:
    """Our own loop."""
    from ponder.training.trainer import Trainer

    return Trainer


def _trl_refuses(config: Config) -> Iterator[str]:
    """What TRL's trainers do not do."""
    trainer = config.trainer
    if trainer.optimizer != "adamw":
        yield (f"trainer.optimizer={trainer.optimizer}: found trainer.engine=trl, which "
               "steps by AdamW; legal: adamw, or trainer.engine=ponder")
    if trainer.data_parallel == "shard":
        yield ("trainer.data_parallel=shard: found trainer.engine=trl, which is handed whole "
               "weights; legal: replicate, or trainer.engine=ponder")
    for key, legal in UNSCORED.items() if config.strategy.name == "grpo" else ():
        value = getattr(config.rollout, key, legal)
        if value != legal:
            yield (f"rollout.{key}={shown(value)}: found trainer.engine=trl, whose GRPOTrainer "
                   f"learns by the temperature alone; legal: {shown(legal)}, or "
                   "trainer.engine=ponder")
    for key, legal in FIXED.items():
        value = getattr(config.strategy, key, legal)
        if value != legal:
            yield (f"strategy.{key}={shown(value)}: found trainer.engine=trl, which is not handed "
                   f"that; legal: {shown(legal)}")


@engine("trl", requires={"questions", "hf_model", "trl"}, refuses=_trl_refuses)
def trl() -> type[Trainer]:
    """TRL's DPOTrainer or GRPOTrainer, in place of our loop."""
    from ponder.training.trl import TrlTrainer

    return TrlTrainer
