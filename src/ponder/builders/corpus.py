"""The roof over continued texts: prompts, what judges continuations, what looks at them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ponder.builders.reading import unthinking_network
from ponder.config import Config, writes
from ponder.evaluate import Evaluation
from ponder.evaluate.corpus import evaluate_corpus
from ponder.models.author import Author
from ponder.models.policy import Rules
from ponder.rewards import Reward
from ponder.tasks.corpus import Corpus
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
    """The model `model.ref_name`, which knows no thought tokens."""
    net, vocabulary = unthinking_network(config, task)
    return Author(net.requires_grad_(False), None, vocabulary, Rules(0, False))


def corpus_evaluation(config: Config, policy: Author, task: Corpus, test: Problems,
                      ) -> Callable[[], Evaluation]:
    """What looks at continuations of held-out prompts."""
    reward = corpus_reward(config, task, test.question.device)
    return lambda: evaluate_corpus(policy, test, reward, config.task.enough, config.seed)
