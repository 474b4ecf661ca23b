"""The roof over running text: language models with and without thoughts behind their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ponder.config.errors import UserError
from ponder.config.spine import Config
from ponder.core.math import matmul_dtype
from ponder.core.types import Problems
from ponder.evaluation.next_token import evaluate_reading
from ponder.evaluation.question import Evaluation
from ponder.models.gpt2.model import Transformer, resized
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_text_model
from ponder.models.policies.next_token import Reader
from ponder.models.policies.positions import PassageThinker
from ponder.models.policies.question import Rules
from ponder.models.policies.text_next_token import TextReader
from ponder.models.policies.text_positions import TextPassageThinker
from ponder.tasks.text.corpus import Corpus
from ponder.tasks.text.passages import ModelText, Text
from ponder.tokenizers.pieces import PieceVocabulary, identity, load_pieces
from ponder.tokenizers.vocabulary import ThinkingVocabulary
from ponder.training.build.text import (
    build_rules,
    must_hold,
    thinking_model,
    thinking_words,
    words_of_reference,
    words_of_text,
)
from ponder.training.checkpoint import load_attached, load_model

Thinker = TypeVar("Thinker", bound=PassageThinker)


def build_running_text(config: Config) -> Text:
    """Passages in the tokens of a Hugging Face model, of the checkpoint a model begins with, or in
    those that the text is to be cut into.
    """
    if config.model.kind == "hf":
        words = words_of_text(config.model)
        if config.thinker.tokens:
            words = ThinkingVocabulary(thinking_words(config).tokenizer)
        return ModelText(config.task, words)
    start = None if config.model.name is None else load_pieces(Path(config.model.name))
    if start is not None and config.task.tokens not in ("chars", start.state()["kind"]):
        raise UserError(f"task.tokens={config.task.tokens}: found model.name={config.model.name}, "
                        f"which reads {start.state()['kind']}; legal: no word about it")
    return Text(config.task, config.thinker.vocabulary if config.thinker.tokens else 0, start)


def build_text_reader(config: Config, task: ModelText) -> TextReader | TextPassageThinker:
    """A Hugging Face model that learns text, with thoughts or without. Raises `UserError` for
    passages longer than it reads.
    """
    words, rules = task.vocabulary, build_rules(config)
    model = thinking_model(config) if rules.tokens else config.model
    net = load_text_model(model, len(words))
    room = rules.tokens + task.config.ahead if rules.tokens else 0
    must_hold(net, config, "task.length", task.config.length, room)
    if not isinstance(words, ThinkingVocabulary):
        return TextReader(net, words, rules)
    norm = None if config.model.ref_name is None else _text_reference(config, words)
    policy = TextPassageThinker(net, words, rules, task.config.ahead, task.config.mix, norm)
    load_attached(policy, Path(config.model.name or ""))
    return policy


def _text_reference(config: Config, words: ThinkingVocabulary) -> TextReader:
    """The reference model, which foresees without thoughts."""
    known = words_of_reference(config, words)
    net = load_text_model(replace(config.model, thought_tokens=0), len(known), "model.ref_name")
    return TextReader(net, known, Rules(0, False))


def build_reader(config: Config, task: Text, net: Transformer) -> Reader:
    """A language model, or one that thinks behind places; hard places are those of a reference."""
    rules, text = build_rules(config), task.config
    if rules.tokens:
        norm = None if config.model.ref_name is None else unthinking_reader(config, task)
        policy = PassageThinker(net, task.vocabulary, rules, text.ahead, text.mix, norm)
    else:
        policy = Reader(net, task.vocabulary, rules, text.ahead)
    if config.model.name is not None:
        load_attached(policy, Path(config.model.name))
    return policy


def place_thinker(config: Config, net: Transformer, vocabulary: PieceVocabulary) -> PassageThinker:
    """The checkpoint `model.name` as it thinks behind places, without its text. Raises `UserError`
    where it has not learnt to, or its positions leave no room for text.
    """
    _must_think(config, vocabulary.thoughts, net.shape.positions)
    policy = PassageThinker(net, vocabulary, build_rules(config), config.task.ahead,
                            config.task.mix)
    return _with_its_mixer(config, policy)


def text_place_thinker(config: Config) -> TextPassageThinker:
    """The same of a Hugging Face model."""
    known = words_of_text(replace(config.model, thought_tokens=0)).thoughts
    words = ThinkingVocabulary(thinking_words(config).tokenizer)
    net = load_text_model(thinking_model(config), len(words))
    _must_think(config, known, getattr(net.network.config, "max_position_embeddings", None))
    return _with_its_mixer(config, TextPassageThinker(
        net, words, build_rules(config), config.task.ahead, config.task.mix))


def _must_think(config: Config, thoughts: int, positions: int | None) -> None:
    """Raise `UserError` for a checkpoint without thought tokens, or room for text beside them."""
    asked = f"thinker.tokens={config.thinker.tokens}: found model.name={config.model.name}"
    if thoughts == 0:
        raise UserError(f"{asked}, which knows no thought tokens; legal: 0, or a checkpoint of "
                        "experiment=supervised_rollout_think")
    if positions is not None and config.thinker.tokens > positions - 2:
        raise UserError(f"{asked}, which has {positions} positions; legal: at most {positions - 2}")


def _with_its_mixer(config: Config, policy: Thinker) -> Thinker:
    """The policy with the small modules of its checkpoint. Raises `UserError` without them."""
    path = Path(config.model.name or "")
    for name in policy.attached:
        if not (path / f"{name}.safetensors").is_file():
            raise UserError(f"model.name={path}: found no {name}.safetensors, which mixes what is "
                            "foreseen with and without a thought; legal: with it, or "
                            "task.mix=false")
    load_attached(policy, path)
    return policy


def unthinking_reader(config: Config, task: Text) -> PassageThinker:
    """The reference model, which foresees without thoughts."""
    net, vocabulary = unthinking_network(config, task)
    return PassageThinker(net, vocabulary, Rules(0, False), task.config.ahead, False)


def unthinking_network(config: Config, task: Text | Corpus) -> tuple[Transformer, PieceVocabulary]:
    """The network of `model.ref_name`, which knows no thought tokens, and its vocabulary. Raises
    `UserError` where it cuts text into other pieces than the thinker.
    """
    path, key = Path(config.model.ref_name or ""), "model.ref_name"
    pieces = load_pieces(path, key)
    if identity(pieces) != identity(task.vocabulary.pieces):
        raise UserError(f"{key}={path}: found other tokens than those of the thinker; legal: a "
                        "model that cuts text into the same, such as the one it began as")
    vocabulary = PieceVocabulary(pieces, 0)
    positions = task.question_length + config.thinker.tokens + 1
    return resized(load_model(path, key), len(vocabulary), positions), vocabulary


def reading_evaluation(config: Config, policy: Reader | TextReader, task: Text, test: Problems,
                       ) -> Callable[[], Evaluation]:
    """What looks at held-out passages; a Hugging Face model in the precision that it learns in."""
    dtype = config.trainer.dtype if isinstance(policy.thinker, Model) else "float32"

    def evaluation() -> Evaluation:
        with matmul_dtype(dtype, test.question.device):
            return evaluate_reading(policy, test, task.text.bytes_per_token, config.seed)

    return evaluation
