"""A recorded round comes first, and again where it was interrupted."""

from __future__ import annotations

from dataclasses import replace

import torch

from ponder.config.players import SamplerConfig
from ponder.rollouts import given
from ponder.rollouts.recorded import Preloaded
from ponder.rollouts.sampler import Sampler
from support.small import generator, make_policy, make_task


def test_an_interrupted_recorded_round_is_provided_again() -> None:
    task = make_task()
    policy = make_policy(task, tokens=2, stops=False)
    problems = replace(task.sample(3, generator()), index=torch.tensor([4, 5, 6]))
    thought = torch.full((3, 3), policy.end)
    source = Preloaded(given(problems, thought), Sampler(SamplerConfig(samples=2)))
    asked = problems[torch.tensor([0, 2])]
    first = source.collect(policy, asked, 0, generator())
    assert torch.equal(first.thought, thought[:2]) and len(first) == 2
    source.withdraw()
    assert source.state()["used"] is False
    again = source.collect(policy, asked, 0, generator())
    assert torch.equal(again.thought, first.thought)
    assert len(source.collect(policy, asked, 1, generator())) == 4  # sampled, two for each question
    source.withdraw()  # of a sampled round: the recorded one stays used
    assert source.state()["used"] is True
