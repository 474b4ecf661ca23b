"""The roof over continued texts: prompts, what judges continuations, what looks at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ponder.checkpoint import load_model
from ponder.config import Config, writes
from ponder.errors import UserError
from ponder.evaluate import Evaluation
from ponder.evaluate_corpus import evaluate_corpus
from ponder.models.author import Author
from ponder.models.policy import Rules
from ponder.models.widen import widened
from ponder.rewards import Reward
from ponder.tasks.corpus import Corpus
from ponder.tokens.pieces import PieceVocabulary, load_pieces
from ponder.types import Problems


def build_corpus(config: Config) -> Corpus:
    """The prompts, with thought tokens in the vocabulary where the thinker may write them."""
    thoughts = config.thinker.vocabulary if writes(config) == "both" else 0
    return Corpus(config.task, thoughts, config.model.name)


def corpus_reward(config: Config, task: Corpus, device: torch.device) -> Reward:
    """The weighted sum of rewards of texts, with the reference that finds them plausible."""
    reader = _reader(config, task).to(device) if "plausibility" in config.reward else None
    return Reward(dict(config.reward), reader, config.task)


def _reader(config: Config, task: Corpus) -> Author:
    """The model `model.ref_name`, which knows no thought tokens. Raises `UserError` where it cuts
    text into other pieces than the thinker.
    """
    path, key = Path(config.model.ref_name or ""), "model.ref_name"
    pieces = load_pieces(path, key)
    if pieces.state() != task.vocabulary.pieces.state():
        raise UserError(f"{key}={path}: found other tokens than those of the thinker; legal: a "
                        "model that cuts text into the same, such as the one it began as")
    vocabulary = PieceVocabulary(pieces, 0)
    positions = task.question_length + config.thinker.tokens + 1
    net = widened(load_model(path, key), len(vocabulary), positions).requires_grad_(False)
    return Author(net, None, vocabulary, Rules(0, False))


def corpus_evaluation(config: Config, policy: Author, task: Corpus, test: Problems,
                      ) -> Callable[[], Evaluation]:
    """What looks at continuations of held-out prompts."""
    reward = corpus_reward(config, task, test.question.device)
    return lambda: evaluate_corpus(policy, test, reward, config.task.enough, config.seed)
