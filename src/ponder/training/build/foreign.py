"""The roof over texts that a Hugging Face model continues: its words, who writes, who judges."""

from __future__ import annotations

from dataclasses import replace

from ponder.config.players import HfConfig, SamplerConfig
from ponder.config.spine import Config, writes
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_text_model
from ponder.models.policies.question import Rules
from ponder.models.policies.text_continuation import TextAuthor
from ponder.rollouts.cache import Store
from ponder.rollouts.written import Written
from ponder.tasks.text.corpus import ModelCorpus
from ponder.tokenizers.vocabulary import TextVocabulary
from ponder.training.build.text import (
    CACHE,
    build_rules,
    has_leash,
    must_hold,
    text_critic,
    text_reference,
    thinking_model,
    thinking_words,
    words_of_reference,
    words_of_text,
)


def build_words(config: Config) -> TextVocabulary:
    """The words of the model, and behind them thought tokens where the thinker may write them."""
    if writes(config) != "both":
        return words_of_text(config.model)
    return thinking_words(config)


def build_text_author(config: Config, task: ModelCorpus) -> TextAuthor:
    """The model that continues texts, with critic and reference where asked for. Raises
    `UserError` for texts longer than it reads.
    """
    words, model = task.vocabulary, _model(config)
    net = _limited(load_text_model(model, len(words)), config, words)
    net.entropy_learns = config.strategy.entropy not in (0, 0.0)
    must_hold(net, config, "thinker.tokens", config.thinker.tokens, task.question_length)
    if "plausibility" in config.reward:  # then that name is of who judges, and of no leash
        model = replace(model, ref_name=None)
    leashed = has_leash(config) and (config.action != "evaluate" or model.ref_name is not None)
    reference = text_reference(model, net, len(words)) if leashed else None
    if reference is not None:
        _limited(reference, config, words)
    return TextAuthor(net, words, build_rules(config), text_critic(config, net), reference, leashed)


def _model(config: Config) -> HfConfig:
    return thinking_model(config) if writes(config) == "both" else config.model


def _limited(net: Model, config: Config, words: TextVocabulary) -> Model:
    """The model, which writes no other words than it may."""
    net.words = len(words) if writes(config) == "both" else words.plain
    net.barred = None if config.thinker.stops else words.end
    return net


def text_judge(config: Config, task: ModelCorpus) -> TextAuthor:
    """The model `model.ref_name`, which knows no thought tokens. Raises `UserError` where it cuts
    text into other tokens than the thinker.
    """
    words = words_of_reference(config, task.vocabulary)
    net = load_text_model(replace(config.model, thought_tokens=0), len(words), "model.ref_name")
    net.words = words.plain
    return TextAuthor(net, words, Rules(0, False))


def corpus_writer(config: Config, sampler: SamplerConfig) -> Written:
    """What writes continuations, as many side by side as `model.rows_at_once` says."""
    rows = config.model.rows_at_once
    return Written(sampler, max(rows // sampler.samples, 1), rows, Store(CACHE), config.model.name)
