"""What running text asks of the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ponder.config.checks.corpus import own_tokens, thought_tokens_need
from ponder.config.errors import shown
from ponder.config.spine import Config

WITH_PLACES = ("reinforce", "grpo", "ppo", "star")


def text_contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    if config.task.name != "text":
        return
    if config.model.kind == "hf":
        yield from _foreign_need(config)
    if config.task.ahead >= config.task.length:
        yield (f"task.ahead={config.task.ahead}: found no place of a passage with so many next "
               f"tokens; legal: below task.length={config.task.length}")
    if config.thinker.tokens:
        yield from _places_need(config)


def _foreign_need(config: Config) -> Iterator[str]:
    """What only networks of our own do with a text."""
    if config.thinker.tokens:
        yield from thought_tokens_need(config)
    yield from own_tokens(config)
    if config.task.ahead > 1 and not config.thinker.tokens:
        yield (f"task.ahead={config.task.ahead}: found model=hf, which foresees the next token; "
               "legal: 1, or a model such as nano, small")


def _places_need(config: Config) -> Iterator[str]:
    """What thoughts behind the places of a passage ask for."""
    answerer, strategy = config.answerer, config.strategy
    if answerer.model != "shared":
        yield (f"answerer.model={answerer.model}: found task=text, where one network thinks and "
               "foresees; legal: shared")
    if set(answerer.sees) != {"question", "thought"}:
        yield (f"answerer.sees={shown(answerer.sees)}: found task=text, where a thought is read "
               "behind its passage; legal: [question,thought]")
    if config.rollout.kind != "sample":
        yield (f"rollout={config.rollout.kind}: found task=text, whose thoughts are sampled; "
               "legal: sample")
    if strategy.name not in WITH_PLACES:
        yield (f"strategy={strategy.name}: found thoughts behind places of a text; legal: "
               f"{', '.join(WITH_PLACES)}")
    if getattr(strategy, "value", "none") != "none":
        yield (f"strategy.value={strategy.value}: found task=text, where no value head reads "
               "places; legal: none")
    if getattr(strategy, "kl", 0) not in (0, 0.0):
        yield (f"strategy.kl={shown(strategy.kl)}: found task=text, whose thoughts have no "
               "reference; legal: 0")
    if "interim" in config.reward:
        yield "reward=interim: found task=text, which judges whole thoughts; legal: gain"
