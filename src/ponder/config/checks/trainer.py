"""What keys of the loop ask of the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ponder.config.errors import shown
from ponder.config.spine import Config


def trainer_contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    yield from _rounds_need(config)
    if config.trainer.engine == "trl":
        yield from _trl_needs(config)
    if config.trainer.compile and config.model.kind == "hf" and config.task.name != "text":
        yield (f"trainer.compile=true: found model=hf with task={config.task.name}, whose texts "
               "are of any length; legal: false, or task=text")
    if config.trainer.data_parallel == "shard":
        yield from _shards_need(config)


def _rounds_need(config: Config) -> Iterator[str]:
    """What hints and worked examples ask of task and strategy."""
    trainer, task, strategy = config.trainer, config.task, config.strategy
    if trainer.rationalise and task.name in ("add", "text", "corpus"):
        yield f"trainer.rationalise=true: found task={task.name}, which has no hints; legal: false"
    if trainer.rationalise and (config.thinker.tokens == 0
                                or getattr(strategy, "keep", "") != "correct"):
        yield ("trainer.rationalise=true: found nothing that keeps right thoughts; legal: with "
               "thoughts, strategy=star and strategy.keep=correct, or false")
    if trainer.rehearse and task.name != "addition":
        yield (f"trainer.rehearse={trainer.rehearse}: found task={task.name}, which has no worked "
               "examples; legal: 0, or task=addition")
    if trainer.rehearse and config.thinker.tokens and strategy.name not in ("star", "sft"):
        yield (f"trainer.rehearse={trainer.rehearse}: found strategy={strategy.name}, which learns "
               "from groups; legal: 0, or strategy=star or sft")


def _trl_needs(config: Config) -> Iterator[str]:
    """What TRL's trainers do not do."""
    strategy = config.strategy
    if config.trainer.optimizer != "adamw":
        yield (f"trainer.optimizer={config.trainer.optimizer}: found trainer.engine=trl, which "
               "steps by AdamW; legal: adamw, or trainer.engine=ponder")
    if config.task.name == "corpus":
        yield ("trainer.engine=trl: found task=corpus, whose continuations TRL is not handed; "
               "legal: ponder")
    if config.model.kind != "hf" or strategy.name not in ("dpo", "grpo"):
        yield (f"trainer.engine=trl: found model={config.model.kind} with strategy="
               f"{strategy.name}; legal: model=hf with strategy=dpo or grpo")
    for key, legal in {"entropy": 0, "tokens_per_rollout": 0, "smoothing": 0, "kl": 0,
                       "kl_stop": None, "skip_flat": False, "baseline": "group_mean",
                       "ratio": "token"}.items():
        value = getattr(strategy, key, legal)
        if value != legal:
            yield (f"strategy.{key}={shown(value)}: found trainer.engine=trl, which is not handed "
                   f"that; legal: {shown(legal)}")


def _shards_need(config: Config) -> Iterator[str]:
    """What is made for whole weights."""
    if config.trainer.engine == "trl":
        yield ("trainer.data_parallel=shard: found trainer.engine=trl, which is handed whole "
               "weights; legal: replicate, or trainer.engine=ponder")
    if config.trainer.optimizer == "muon":
        yield ("trainer.data_parallel=shard: found trainer.optimizer=muon, which needs whole "
               "matrices; legal: replicate, or trainer.optimizer=adamw")
    if config.task.name == "text" and (config.thinker.tokens or config.task.ahead > 1):
        yield ("trainer.data_parallel=shard: found thoughts or task.ahead on task=text, whose "
               "small heads are whole; legal: replicate")
    if config.trainer.compile:
        yield ("trainer.data_parallel=shard: found trainer.compile=true, which compiles networks "
               "as a whole; legal: replicate, or trainer.compile=false")
