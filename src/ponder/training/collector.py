"""One round: questions, thoughts, rewards, credit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from ponder.config.errors import EngineFailed
from ponder.config.running import TrainerConfig
from ponder.core.credit import flat_groups, some_tokens
from ponder.core.distributed import (
    full_parameters,
    is_distributed,
    largest_local_count,
    local_range,
)
from ponder.core.math import Sampling, matmul_dtype
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.rewards.answers import Reward
from ponder.rollouts import PreparedSource, Source, given
from ponder.rollouts.sampler import Gold
from ponder.strategies.base import Strategy
from ponder.strategies.star import SFT
from ponder.tasks.base import Task
from ponder.training.curriculum import Curriculum
from ponder.training.graph import Graphs


class StopRequested(Exception):
    """A stop was requested while rollouts were sampled or scored; nothing was learnt from them."""


@dataclass
class Collector:
    """Collects the rollouts of a round: questions, thoughts, rewards, credit.

    metrics: numbers of the last round for the log, each 0-dim. single: the one batch of questions
    of `trainer.single_batch`. under: the distribution that rollouts of a step are scored under, by
    default the one that they are sampled from. curriculum: which questions are asked, where
    `trainer.curriculum` says so. graphs: replays what can be.
    """

    config: TrainerConfig
    task: Task
    source: Source
    reward: Reward
    policy: Policy
    strategy: Strategy
    tokens_per_rollout: int
    generator: torch.Generator
    under: Callable[[int], Sampling] | None = None
    curriculum: Curriculum = field(default_factory=Curriculum)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    single: Problems | None = None
    graphs: Graphs = field(default_factory=Graphs)

    def collect(self, step: int) -> tuple[Rollouts, int]:
        """(rollouts with credit, how many were sampled).

        `StopRequested` or `EngineFailed` on the way leaves the generator as it was, so that the
        same round can be collected later.
        """
        random, single = self.generator.get_state(), self.single
        learnt = self.curriculum.state()
        try:
            with full_parameters(self.policy):
                return self._collect(step)
        except (StopRequested, EngineFailed):
            self.generator.set_state(random)
            self.single = single
            self.curriculum.load(learnt)
            self.source.withdraw()
            raise

    def _collect(self, step: int) -> tuple[Rollouts, int]:
        config = self.config
        if self.graphs.on:
            rollouts = self._replayed(step)
            return rollouts, len(rollouts)
        with matmul_dtype(self.config.dtype, self._device):
            rollouts = self.rewarded(self.source.collect(self.policy, self._questions(step), step,
                                                         self.generator))
            count = len(rollouts)
            if config.rationalise:
                rollouts = self._rationalised(rollouts, step)
        rollouts = self.credited(rollouts, step)
        learn = some_tokens(rollouts.learn, self.tokens_per_rollout, self.generator)
        rollouts = replace(rollouts, learn=learn)
        if self.task.epoch_size is not None:
            rollouts = rollouts.learnable(self.strategy.rows_alone)
        return (rollouts.concatenate(self._rehearsed()) if config.rehearse else rollouts), count

    def _replayed(self, step: int) -> Rollouts:
        """The same from one recorded pass, for sources and strategies that can be replayed."""
        source, problems = cast(PreparedSource, self.source), self._questions(step)
        with matmul_dtype(self.config.dtype, self._device):
            drawn = source.prepare(self.policy, problems, step, self.generator)

        def collect(problems: Problems, drawn: Tensor | None) -> tuple[Rollouts, dict[str, Tensor]]:
            with matmul_dtype(self.config.dtype, self._device):
                rollouts = self.rewarded(source.make(self.policy, problems, step, drawn))
            return self.credited(rollouts, step), self.metrics

        known = source.constants(self.policy, step), self.strategy.constants(step)
        rollouts, self.metrics = self.graphs(collect, problems, drawn,
                                             constants=None if None in known else known)
        return rollouts

    def _rehearsed(self) -> Rollouts:
        """Rollouts of worked examples, with credit as in supervised learning. Half of them have a
        hint where questions may get one.
        """
        problems = self.task.examples(self.config.rehearse, self.generator).to(self._device)
        if self.config.rationalise:
            question = self.task.hinted(problems).question
            question[::2] = problems.question[::2]
            problems = replace(problems, question=question)
        return SFT().credit(Gold().collect(self.policy, problems, 0))

    def credited(self, rollouts: Rollouts, step: int) -> Rollouts:
        """Rewarded rollouts with credit, and with value and reference log-probabilities."""
        weight, sampling = None, (self.under or self.source.sampling)(step)
        with matmul_dtype(self.config.dtype, self._device):
            rollouts = self.policy.annotate(rollouts, sampling)
            if self.strategy.corrects and rollouts.thought.shape[1] > 1:
                own = self.policy.logprobs(rollouts, sampling)
                rollouts, weight, noted = self.strategy.corrected(rollouts, own)
                self.metrics = {**self.metrics, **noted}
        rollouts = self.strategy.credit(rollouts, step)
        if weight is not None and rollouts.credit is not None:
            rollouts = replace(rollouts, credit=rollouts.credit * weight)
        self.metrics = {**self.metrics, **self.policy.remarks(rollouts)}
        return rollouts

    @property
    def _device(self) -> torch.device:
        return next(self.policy.parameters()).device

    def _questions(self, step: int) -> Problems:
        """The questions of a round: a whole data set, else `gen_batch_size` or those of one step;
        with a curriculum those of a level.
        """
        if self.single is not None:
            return self.single
        config = self.config
        count = config.gen_batch_size or config.per_step
        if self.task.epoch_size is not None and not config.single_batch:
            count = self.task.epoch_size
        if config.curriculum == "none":
            problems = self.task.sample(count, self.generator)
        else:
            self.curriculum.look(config, self.policy, self.task, step, self.generator)
            problems = self.curriculum.questions(self.task, count, self.generator,
                                                 config.curriculum_share)
        problems = problems.to(self._device)
        if config.single_batch:
            self.single = problems
        return problems

    def rewarded(self, rollouts: Rollouts) -> Rollouts:
        """The rollouts with rewards, where the strategy needs any."""
        if self.strategy.needs_reward(rollouts.group_size):
            rollouts = self.reward(self.policy, rollouts)
            flat = flat_groups(rollouts.total_reward, rollouts.group_size)
            self.metrics = {"reward": rollouts.total_reward.mean(),
                          "flat_groups": flat.float().mean()}
        return rollouts

    def _rationalised(self, rollouts: Rollouts, step: int) -> Rollouts:
        """Sample groups without a right answer again, with the answer as a hint in the question.

        This is STaR's rationalisation (Zelikman et al. 2022). The hint is removed afterwards, so
        the new thoughts count as given: none of their tokens was chosen by the policy.
        """
        failed = (~_right(rollouts)).nonzero()[:, 0]
        self.metrics["failed"] = (~_right(rollouts)).float().mean()
        if len(failed) == 0:
            return rollouts
        problems = rollouts.problems[failed]
        found = self.source.collect(self.policy, self.task.hinted(problems), step, self.generator)
        again = self.reward(self.policy, given(problems, found.thought, rollouts.samples))
        self.metrics["rationalised"] = _right(again).float().mean()
        return rollouts.replace_groups(failed, again)


def _right(rollouts: Rollouts) -> Tensor:
    """(P,): whether any rollout of a problem has the right answer."""
    return (rollouts.parts["exact_match"].view(-1, rollouts.samples) > 0).any(1)


def teaches(rollouts: Rollouts, policy: Policy) -> bool:
    """Whether anything can be learnt from rollouts with credit: by the thinker from a token, or by
    the answerer from a row, unless answers are in the texts themselves.
    """
    assert rollouts.credit is not None and rollouts.weight is not None
    answers = policy.answer_mode != "generated" and bool((rollouts.weight > 0).any())
    return answers or bool((rollouts.learn & (rollouts.credit != 0)).any())


def minibatches(rollouts: Rollouts, config: TrainerConfig, generator: torch.Generator,
                ) -> Iterator[list[Rollouts]]:
    """The micro-batches of each optimizer step of a round, in whole groups.

    They are those of this process; placeholders make them as many in every process.
    """
    count, size = len(rollouts.problems), config.train_batch_size
    per_step = config.per_step
    for _ in range(config.internal_epochs):
        single = 0 < count <= size  # one micro-batch, so the order does not matter
        if single and not is_distributed():
            yield [rollouts]
            continue
        order = torch.arange(count) if single else torch.randperm(count, generator=generator)
        order = order.to(rollouts.thought.device)
        for start in range(0, count, per_step):
            groups = order[start:start + per_step]
            part = local_range(len(groups))
            local = groups[part.start:part.stop].split(size) if part else ()
            missing = -(-largest_local_count(len(groups)) // size) - len(local)
            yield [*(rollouts[some] for some in local),
                   *[replace(rollouts[groups[:1]], placeholder=True)] * missing]
