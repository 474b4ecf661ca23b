"""The best of a few random thoughts."""

from ponder import option, search
from ponder.core.lazy_imports import torch
from ponder.rollouts.search.base import best, leaf_values
from ponder.rollouts.search.exhaustive import every_thought
from ponder.rollouts.source import Source, given


@search("luck")
class Luck(Source):
    """The best of a few random thoughts of each question."""
    tries: int = option(8, "thoughts that are tried", low=1)

    def __init__(self, config):
        self.config = config

    def collect(self, policy, problems, step, generator=None):
        codes, samples = every_thought(policy, problems.question.device), self.config.samples
        tried = codes[torch.randint(len(codes), (len(problems), self.config.luck.tries),
                                    generator=generator)]
        values = leaf_values(policy, problems, tried)
        return given(problems, best(problems, tried, values, samples, policy.end), samples)
