"""What continuing a text asks of the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ponder.config.errors import shown
from ponder.config.spine import Config, variants, writes
from ponder.config.texts import TEXT_REWARDS

REWARDS = (*TEXT_REWARDS, "repetition", "length")
STRATEGIES = ("reinforce", "grpo", "ppo", "star")  # rloo is grpo by its keys
PARAMETERS = {"wanted": "wanted", "unwanted": "unwanted", "pattern": "pattern",
              "matches": "pattern", "words": "words"}  # reward -> the key that says what it means


def corpus_contradictions(config: Config) -> Iterator[str]:
    """Each combination of legal values that means nothing, as the line that says why."""
    if config.task.name == "corpus":
        yield from _texts_need(config)
        yield from _rewards_need(config)
        return
    if writes(config) != "thoughts":
        yield (f"thinker.writes={config.thinker.writes}: found task={config.task.name}, which asks "
               "for no text; legal: thoughts, or task=corpus")
    for name in config.reward:
        if name in TEXT_REWARDS:
            yield (f"reward={name}: found task={config.task.name}, which asks for no text; legal: "
                   "with task=corpus")


def _texts_need(config: Config) -> Iterator[str]:
    """Nothing but the continuation is there to learn from."""
    thinker, strategy = config.thinker, config.strategy
    if thinker.tokens == 0:
        yield ("thinker.tokens=0: found task=corpus, where a thought is all that is written; "
               "legal: with think, as in variant=[think]")
    if writes(config) == "thoughts":
        yield ("thinker.writes=thoughts: found task=corpus, which asks for a text; legal: text, "
               "both")
    senseless = [flag for flag in variants(config) if flag not in ("think", "fixed")]
    if senseless:
        yield (f"variant=[{','.join(variants(config))}]: found task=corpus, which has no answer "
               f"for {','.join(senseless)}; legal: [think], [think,fixed]")
    if strategy.name not in STRATEGIES or getattr(strategy, "keep", "best") != "best":
        yield (f"strategy={strategy.name}: found task=corpus, where nothing is right or wrong and "
               "not every text can be tried; legal: reinforce, grpo, rloo, ppo, or star with "
               "strategy.keep=best")
    yield from prompts_need(config)


def prompts_need(config: Config) -> Iterator[str]:
    """What says which tokens prompts are cut into."""
    if config.model.kind == "hf":
        yield from config.model.contradictions()
        yield from own_tokens(config)
        yield from thought_tokens_need(config)
    elif config.task.data is None and config.model.name is None:
        yield ("task.data=null: found model.name=null, so nothing says what text is cut into; "
               "legal: task.data=<file>, or model.name=<checkpoint directory>")


def own_tokens(config: Config) -> Iterator[str]:
    """A Hugging Face model reads text in no other tokens than its own."""
    if config.task.tokens != "chars":
        yield (f"task.tokens={config.task.tokens}: found model=hf, which reads its own tokens; "
               "legal: no word about it")


def thought_tokens_need(config: Config) -> Iterator[str]:
    """Those of a text are the thinker's, and an end of thoughts."""
    typed, known = config.model.thought_tokens, config.thinker.vocabulary + 1
    if typed and writes(config) == "text":
        yield (f"model.thought_tokens={typed}: found thinker.writes=text, of which none is part; "
               "legal: 0, or thinker.writes=both")
    elif typed not in (0, known):
        yield (f"model.thought_tokens={typed}: found thinker.vocabulary={known - 1}, whose tokens "
               f"and an end of thoughts are added anyway; legal: 0, {known}")


def _rewards_need(config: Config) -> Iterator[str]:
    """Rewards of a text, and what these are told."""
    task = config.task
    for name in config.reward:
        key = PARAMETERS.get(name)
        if name not in REWARDS:
            yield (f"reward={name}: found task=corpus, which has no answer; legal: "
                   f"{', '.join(REWARDS)}")
        elif key and not getattr(task, key):
            yield (f"task.{key}={shown(getattr(task, key))}: found reward={name}, which is not "
                   f"told what counts; legal: with task.{key}=<what counts>")
    if "plausibility" in config.reward and config.model.ref_name is None:
        yield ("reward=plausibility: found model.ref_name=null; legal: with "
               "model.ref_name=<checkpoint directory>")
    if "plausibility" in config.reward and task.unit:
        yield ("task.unit=true: found reward=plausibility, a logarithm, of which nothing is left "
               "between 0 and 1; legal: false")
