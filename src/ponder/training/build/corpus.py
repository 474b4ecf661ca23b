"""The roof over continued texts: prompts, what judges continuations, what looks at them."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

from ponder.config.players import SamplerConfig
from ponder.config.spine import Config, writes
from ponder.core.math import matmul_dtype
from ponder.core.types import Problems
from ponder.evaluation.continuation import Writer, evaluate_corpus
from ponder.evaluation.question import Evaluation
from ponder.models.policies.continuation import Author
from ponder.models.policies.question import Policy, Rules
from ponder.rewards.answers import Reward
from ponder.rollouts.sampler import Sampler, Source
from ponder.tasks.text.corpus import Corpus, ModelCorpus
from ponder.training.build.foreign import build_words, corpus_writer, text_judge
from ponder.training.build.reading import unthinking_network

ONE = SamplerConfig(samples=1)  # by the model's own distribution, whatever it is trained at
_rewards: WeakKeyDictionary[Corpus, Reward] = WeakKeyDictionary()  # a reference is loaded once


def build_corpus(config: Config) -> Corpus:
    """The prompts, with thought tokens in the vocabulary where the thinker may write them."""
    if config.model.kind == "hf":
        return ModelCorpus(config.task, build_words(config))
    thoughts = config.thinker.vocabulary if writes(config) == "both" else 0
    return Corpus(config.task, thoughts, config.model.name)


def corpus_reward(config: Config, task: Corpus, device: torch.device) -> Reward:
    """The weighted sum of rewards of texts, with the reference that finds them plausible."""
    if task not in _rewards:
        judge = _judge(config, task).to(device) if "plausibility" in config.reward else None
        _rewards[task] = Reward(dict(config.reward), judge, config.task)
    return _rewards[task]


def _judge(config: Config, task: Corpus) -> Policy:
    """The model `model.ref_name`, which knows no thought tokens."""
    if isinstance(task, ModelCorpus):
        return text_judge(config, task)
    net, vocabulary = unthinking_network(config, task)
    return Author(net.requires_grad_(False), None, vocabulary, Rules(0, False))


def corpus_evaluation(config: Config, policy: Writer, task: Corpus, test: Problems,
                      follow: Callable[[Source], None]) -> Callable[[], Evaluation]:
    """What looks at continuations of held-out prompts."""
    reward = corpus_reward(config, task, test.question.device)
    source: Source = Sampler(ONE)
    if isinstance(task, ModelCorpus):
        source = corpus_writer(config, ONE)
        follow(source)
    dtype = config.trainer.dtype if isinstance(task, ModelCorpus) else "float32"

    def evaluation() -> Evaluation:
        with matmul_dtype(dtype, test.question.device):
            return evaluate_corpus(policy, test, source, reward, config.task.enough, config.seed)

    return evaluation
