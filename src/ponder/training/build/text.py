"""The roof over written thoughts: tasks in text, language models, what writes and judges."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ponder.config.errors import UserError
from ponder.config.players import HfConfig
from ponder.config.registry import STRATEGIES, TASKS
from ponder.config.spine import Config, writes
from ponder.core.math import matmul_dtype
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.choice import evaluate_text
from ponder.evaluation.question import Evaluation
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.choice import TextPolicy
from ponder.models.policies.question import Rules
from ponder.models.value_head import Critic
from ponder.rollouts.cache import Store
from ponder.rollouts.recorded import Preloaded, read_generated
from ponder.rollouts.sampler import Source
from ponder.rollouts.written import Written
from ponder.tasks.choice.qa import Qa
from ponder.tokenizers.pieces import HfPieces, identity
from ponder.tokenizers.vocabulary import TextVocabulary

CACHE = Path("scratch") / "generated"


def build_text_task(config: Config) -> Qa:
    """Questions in the tokens of the model."""
    return TASKS[config.task.name].target(config.task, load_vocabulary(config.model))


def thinking_model(config: Config) -> HfConfig:
    """The model of a thinker on text: with its thought tokens, and one more in front of them, which
    ends a thought.
    """
    return replace(config.model, thought_tokens=config.thinker.vocabulary + 1)


def words_of_text(model: HfConfig) -> TextVocabulary:
    """The words of a model, which cut a text. Raises `UserError` where nothing ends one."""
    vocabulary = load_vocabulary(model)
    if vocabulary.end is None:
        raise UserError(f"model.name={model.name}: found a tokenizer without an "
                        "end-of-sequence token, which stands between documents; legal: one "
                        "with it, as model.chat_name=<model>")
    return vocabulary


def thinking_words(config: Config) -> TextVocabulary:
    """The same, with thought tokens among them. Raises `UserError` where the model has others."""
    known = words_of_text(replace(config.model, thought_tokens=0)).thoughts
    if known not in (0, config.thinker.vocabulary + 1):
        raise UserError(f"thinker.vocabulary={config.thinker.vocabulary}: found model.name="
                        f"{config.model.name}, which has {known - 1} thought tokens and their end; "
                        f"legal: {known - 1}")
    return load_vocabulary(thinking_model(config), closes=True)


def words_of_reference(config: Config, words: TextVocabulary) -> TextVocabulary:
    """Those of `model.ref_name`. Raises `UserError` where it cuts text otherwise than the thinker.
    """
    key = "model.ref_name"
    known = load_vocabulary(replace(config.model, thought_tokens=0), key)
    if identity(HfPieces(known.tokenizer)) != identity(HfPieces(words.tokenizer)):
        raise UserError(f"{key}={config.model.ref_name}: found other tokens than those of the "
                        "thinker; legal: a model that cuts text into the same, such as the one it "
                        "began as")
    return known


def must_hold(net: Model, config: Config, key: str, tokens: int, others: int = 0) -> None:
    """Raise `UserError` where `tokens`, which `key` asks for beside others, are more than a model
    reads.
    """
    limit = getattr(net.network.config, "max_position_embeddings", None)
    if limit is not None and tokens + others > limit:
        raise UserError(f"{key}={tokens}: found model.name={config.model.name}, which reads "
                        f"{limit} tokens at most; legal: at most {limit - others}")


def build_text_policy(config: Config, task: Qa) -> TextPolicy:
    """The language model as thinker and answerer, with critic and reference where asked for."""
    vocabulary = task.vocabulary
    net = load_text_model(config.model, len(vocabulary))
    net.entropy_learns = config.strategy.entropy not in (0, 0.0)
    leashed = has_leash(config)
    return TextPolicy(net, vocabulary, build_rules(config), config.task.answer,
                      text_critic(config, net),
                      text_reference(config.model, net, len(vocabulary)) if leashed else None,
                      leashed)


def build_rules(config: Config) -> Rules:
    """How thoughts end, and what the answerer sees; of any policy."""
    sees = config.answerer.sees
    thinker = config.thinker
    return Rules(thinker.tokens, thinker.stops and not thinker.flows, "question" in sees,
                 "thought" in sees, writes(config))


def has_leash(config: Config) -> bool:
    """Whether the strategy compares the thinker with a reference; with any policy."""
    return STRATEGIES[config.strategy.name].target.of(config.strategy).needs_reference


def text_critic(config: Config, net: Model) -> Critic | None:
    """The value head that the strategy asks for; a network of its own begins as the thinker does.
    """
    kind = getattr(config.strategy, "value", "none")
    if kind == "none" or config.thinker.tokens == 0:
        return None
    trunk = copy.deepcopy(net) if kind == "separate" else None
    critic = Critic(net.width, config.strategy.value_reads,
                    trunk)  # type: ignore[arg-type]
    return critic.to(net.dtype)


def text_reference(model: HfConfig, net: Model, words: int) -> Model | None:
    """A model of its own; None where the adapters can be switched off instead."""
    if model.ref_name is not None:
        return load_text_model(model, words, "model.ref_name")
    return None if net.adapted else copy.deepcopy(net).requires_grad_(False)


def build_writer(config: Config) -> Written:
    """What writes the thoughts of a round."""
    return Written(config.rollout, config.trainer.gen_batch_size or 32, config.model.rows_at_once,
                   Store(CACHE), config.model.name)


def build_text_evaluation(config: Config, policy: TextPolicy, task: Qa, test: Problems,
                          follow: Callable[[Source], None]) -> Callable[[], Evaluation]:
    """Evaluation with one greedy thought a question, or `trainer.val_samples` sampled ones; a batch
    has as many rows as one of training.
    """
    count = config.trainer.val_samples
    sampler = replace(config.rollout, samples=count,
                      temperature=config.rollout.temperature if count > 1 else 1.0)
    rows = (config.trainer.gen_batch_size or 32) * config.rollout.samples
    writer = Written(sampler, max(rows // count, 1), config.model.rows_at_once, Store(CACHE),
                     config.model.name)
    writer.greedy = count == 1
    follow(writer)
    writer.finished = lambda batch: None  # the whole table is written at the end

    def evaluation() -> Evaluation:
        with matmul_dtype(config.trainer.dtype, policy.net.device):
            return evaluate_text(policy, task, test, writer, config.seed)

    return evaluation


def preloaded(config: Config, policy: TextPolicy, task: Qa, source: Source) -> Source:
    """The source of thoughts, whose first round is `preload_data_for_training` where that is set.
    """
    path = config.trainer.preload_data_for_training
    if path is None or config.trainer.max_epochs == 0:
        return source
    first = read_generated(Path(path), "trainer.preload_data_for_training", task, policy,
                           config.rollout.samples)
    return Preloaded(first, source)


def val_rollouts(config: Config, policy: TextPolicy, task: Qa) -> Rollouts | None:
    """The rollouts of `preload_data_for_val`: those of held-out questions, if there are any."""
    path, key = config.trainer.preload_data_for_val, "trainer.preload_data_for_val"
    if path is None or not config.trainer.do_eval:
        return None
    found = read_generated(Path(path), key, task, policy, config.rollout.samples)
    assert found.problems.index is not None
    held_out = (found.problems.index >= task.epoch_size).nonzero()[:, 0]
    return found[held_out] if len(held_out) else None
