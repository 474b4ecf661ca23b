"""Replayed steps equal ordinary ones. On a processor the recorder is PyTorch's tracer: like a CUDA
graph, what it records knows operations and addresses alone, and no Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ponder.config.players import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.core.types import Rollouts, Scores
from ponder.models.policies.base import Policy
from ponder.rollouts.sampler import Sampler
from ponder.training.build import build_device, build_policy, build_task, build_trainer
from ponder.training.graph import Graphs, Replay
from ponder.training.trainer import Trainer
from support.players import Parity, trainer_of
from support.runs import config_of

STEPS = 6
REPLAYED = ["reinforce", "grpo, kl in the reward", "rloo", "ppo, mean", "star"]


class Traced:
    """Records by tracing. Tracing executes, which a GPU's recording does not, so what it changed is
    put back: `kept` gives those tensors.
    """

    def __init__(self) -> None:
        self.kept: Callable[[], list[Tensor]] = list
        self.count = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, Replay]:
        self.count += 1
        before = [(value, value.detach().clone()) for value in self.kept()]
        form: list[Any] = []

        def values() -> list[Tensor]:
            leaves, shape = pytree.tree_flatten(function())
            form[:] = [leaves, shape]
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        graph = make_fx(values)()
        with torch.no_grad():
            for value, was in before:
                value.copy_(was)
        leaves, shape = form
        result = [torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf
                  for leaf in leaves]

        @torch.no_grad()
        def replay() -> None:
            tensors = [value for value in result if isinstance(value, Tensor)]
            for value, new in zip(tensors, graph(), strict=True):
                value.copy_(new)

        return pytree.tree_unflatten(result, shape), replay


def traced(trainer: Trainer, traces: Traced) -> Trainer:
    """The trainer, whose recorder knows what its steps change."""
    learner = trainer.learner

    def changed() -> list[Tensor]:
        moments = [value for state in learner.optimizer.state.values()  # type: ignore[union-attr]
                   for value in state.values()]
        return [*trainer.policy.parameters(), *moments, learner.skipped,
                *trainer.source.tensors()]  # type: ignore[attr-defined]

    traces.kept = changed
    return trainer


def trained(trainer: Trainer, steps: int = STEPS) -> tuple[list[dict[str, float]], list[Tensor]]:
    """The numbers of each step, and the weights afterwards."""
    numbers = []
    for _ in range(steps):
        trainer.step([trainer.collect()])
        numbers.append({name: float(value) for name, value in trainer.recent.items()})
    return numbers, [value.detach().clone() for value in trainer.policy.parameters()]


def agree(first: tuple[Any, list[Tensor]], second: tuple[Any, list[Tensor]]) -> None:
    for one, other in zip(first[0], second[0], strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_steps_equal_ordinary_ones(name: str) -> None:
    changes: dict[str, Any] = {"stops": False, "max_steps": STEPS, "warmup": 99, "lr": 0.1}
    expected = trained(trainer_of(name, **changes))
    notes: list[str] = []
    traces = Traced()
    trainer = traced(trainer_of(name, graphs=Graphs(traces, notes.append), **changes), traces)
    agree(expected, trained(trainer))
    assert traces.count == 2 and notes == []  # one for rounds and one for steps


@pytest.mark.slow
def test_the_search_of_the_default_run_is_replayed() -> None:
    """Codes are dealt between replays, and the second position begins under a key of its own."""
    words = ["task.max=20", "rollout.balanced.every=4", "rollout.balanced.measure=2",
             "rollout.balanced.next_known=0", "rollout.balanced.next_change=9"]
    found, positions, traces = [], [], Traced()
    for graphs in (None, Graphs(traces)):
        config = config_of(*words)
        torch.manual_seed(0)
        task = build_task(config)
        policy = build_policy(config, task)
        trainer = build_trainer(config, task, policy, build_device(config))
        if graphs is not None:
            trainer.learner.graphs = trainer.collector.graphs = graphs
            trainer.learner._make_replayable()
            traced(trainer, traces)
        found.append(trained(trainer, 24))
        positions.append(trainer.source.active)  # type: ignore[attr-defined]
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert positions == [2, 2] and traces.count >= 4


class Broken(Parity):
    """Infinite rewards where the third question's number asks for them."""

    def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
        found = super().__call__(policy, rollouts)
        assert found.reward is not None
        found.reward[(rollouts.problems.question.sum() % 3 == 0).expand(len(rollouts))] = math.inf
        return found


class Counts(Sampler):
    """Notes the thoughts of each step that was taken."""

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__(config)
        self.seen = torch.zeros(())

    def observe(self, policy: Policy, rollouts: Rollouts, scores: Scores) -> None:
        self.seen.add_(rollouts.thought.sum())

    def tensors(self) -> list[Tensor]:
        return [self.seen]


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing() -> None:
    changes: dict[str, Any] = {"stops": False, "max_steps": 30, "warmup": 1}
    plain, traces = trainer_of("reinforce", **changes), Traced()
    replayed = traced(trainer_of("reinforce", graphs=Graphs(traces), **changes), traces)
    skipped = []
    for trainer in (plain, replayed):
        trainer.collector.reward = Broken()
        trainer.source = trainer.collector.source = Counts(SamplerConfig(samples=4))
        in_a_row = []
        for _ in range(20):
            before = [value.detach().clone() for value in trainer.policy.parameters()]
            trainer.step([trainer.collect()])
            same = all(map(torch.equal, before, trainer.policy.parameters()))
            in_a_row.append(int(trainer.learner.skipped))
            assert same == (in_a_row[-1] > 0)
        skipped.append(in_a_row)
    assert float(plain.source.seen) == float(replayed.source.seen) > 0  # type: ignore
    assert skipped[0] == skipped[1] and 2 <= sum(count > 0 for count in skipped[0]) <= 18
    agree(trained(plain, 2), trained(replayed, 2))


@pytest.mark.slow
def test_what_changes_all_the_time_is_not_replayed() -> None:
    changes: dict[str, Any] = {"stops": False, "max_steps": 99, "lr": 0.01}
    notes: list[str] = []
    traces, found = Traced(), []
    for graphs in (None, Graphs(traces, notes.append)):
        trainer = trainer_of("reinforce", graphs=graphs, **changes)
        trainer.learner.entropy = lambda step: 0.1 / (step + 1)
        if graphs:
            traced(trainer, traces)
        found.append(trained(trainer, 45))
    agree(*found)
    assert len(notes) == 1 and "a schedule" in notes[0]


@pytest.mark.slow
def test_a_value_that_is_read_ends_the_replays() -> None:
    """The recorder refuses, one line says so, and training goes on."""
    notes: list[str] = []
    changes: dict[str, Any] = {"stops": False, "max_steps": STEPS}
    expected = trainer_of("reinforce", **changes)
    traces = Traced()
    trainer = traced(trainer_of("reinforce", graphs=Graphs(traces, notes.append), **changes),
                     traces)

    class Reads(Parity):
        def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
            assert float(rollouts.thought.sum()) > 0
            return super().__call__(policy, rollouts)

    for one in (expected, trainer):
        one.collector.reward = Reads()
    agree(trained(expected), trained(trainer))
    assert len(notes) == 1 and notes[0].startswith("trainer.graph: operations are started one by")
    for one in (expected, trainer):  # a checkpoint goes on anywhere
        (group,) = one.learner.state()["optimizer"]["param_groups"]
        assert group["lr"] == one.learner.rate and not group["capturable"]
        assert not isinstance(group["lr"], Tensor)


def test_defaults_are_those_of_the_configuration() -> None:
    assert TrainerConfig().graph == "auto" and not Graphs().on
