"""What thoughts that gradients flow through ask of the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ponder.config.spine import Config


def latent_contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    thinker = config.thinker
    if thinker.kind == "tokens" and thinker.stage_steps:
        yield (f"thinker.stage_steps={thinker.stage_steps}: found thinker.kind=tokens; legal: 0, "
               "or thinker.kind=continuous or gumbel")
    if thinker.kind != "tokens" and thinker.tokens == 0:
        yield (f"thinker.kind={thinker.kind}: found thinker.tokens=0; legal: together with think, "
               "as in think=true")
    if thinker.flows and config.task.name in ("text", "corpus"):
        yield (f"thinker.kind={thinker.kind}: found task={config.task.name}, whose thoughts are "
               "sampled; legal: tokens")
    elif thinker.flows:
        kind = f"found thinker.kind={thinker.kind}"
        yield from _learns_from_the_answer(config, kind)
        yield from _networks_must_fit(config, kind)
        yield from _stages_must_end(config)


def _learns_from_the_answer(config: Config, kind: str) -> Iterator[str]:
    """Nothing else than log p(answer) has a gradient through the thought."""
    if config.rollout.kind == "search":
        yield (f"rollout=search: {kind}, which is not searched but learnt through the answer; "
               "legal: rollout=sample, as in think=true blind=true")
    if config.strategy.name != "reinforce":
        yield (f"strategy={config.strategy.name}: {kind}, which learns through the answer and not "
               "from rewards; legal: reinforce (the default), of which nothing but the entropy "
               "bonus is left")
    if config.reward != {"log_likelihood": 1.0}:
        yield (f"reward=[{','.join(config.reward)}]: {kind}, which learns through the answer and "
               "not from rewards; legal: log_likelihood, with weight 1")
    if config.answerer.learns_from == "gold":
        yield (f"variant=super: {kind}, which learns through the answer; legal: without super; "
               "with thinker.stage_steps=<steps> thoughts begin as gold ones")


def _networks_must_fit(config: Config, kind: str) -> Iterator[str]:
    if config.model.kind == "hf":
        yield f"model=hf: {kind}; legal: a GPT-2 of our own, such as model=tiny or small"
    if config.answerer.model == "frozen":
        yield (f"answerer.model=frozen: {kind}, which nobody scores; legal: shared, separate")
    if config.trainer.data_parallel == "shard":
        yield (f"trainer.data_parallel=shard: {kind}, for which a network is computed several "
               "times a step; legal: replicate")


def _stages_must_end(config: Config) -> Iterator[str]:
    thinker, steps = config.thinker, config.trainer.max_steps
    if config.trainer.learns and thinker.stage_steps * thinker.tokens >= steps:
        most = (steps - 1) // thinker.tokens
        yield (f"thinker.stage_steps={thinker.stage_steps}: found trainer.max_steps={steps}, in "
               f"which not all of {thinker.tokens} gold tokens are taken away; legal: at most "
               f"{most}")
