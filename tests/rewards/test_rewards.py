"""Every reward against a direct computation."""

from __future__ import annotations

import pytest
import torch

from ponder.core.math import Sampling
from ponder.core.types import Rollouts
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts import given
from ponder.rollouts.sampler import sample
from support.small import generator, make_policy, make_task


def rolled(samples: int = 4, **changes) -> tuple[Policy, Rollouts]:
    task = make_task(max=10, **changes)
    policy = make_policy(task, tokens=3, sees=("thought",))
    return policy, sample(policy, task.sample(5, generator()), samples, Sampling(), generator())


def one(name: str, policy: Policy, rollouts: Rollouts, reference: Policy | None = None):
    return Reward({name: 1.0}, reference)(policy, rollouts).reward


def test_likelihood_rewards_agree_with_a_row_by_row_answerer() -> None:
    policy, rollouts = rolled()
    logprobs = []
    for row in range(len(rollouts)):
        thought = rollouts.thought[row][rollouts.mask[row]][None]
        hidden, _ = policy.answerer(thought)
        words = policy.answerer.logits(hidden[:, -1], slice(0, policy.vocabulary.end))
        gold = rollouts.problems.answer[row // 4, 0]
        logprobs.append(words.log_softmax(-1)[0, gold])
    expected = torch.stack(logprobs)
    assert torch.allclose(one("log_likelihood", policy, rollouts), expected, atol=1e-5)
    assert torch.allclose(one("probability", policy, rollouts), expected.exp(), atol=1e-5)
    groups = expected.view(5, 4)
    assert torch.allclose(one("softmax", policy, rollouts).view(5, 4), groups.softmax(1), atol=1e-5)
    spread = (groups.exp() - groups.exp().mean(1, keepdim=True)) ** 2
    assert torch.allclose(one("variance", policy, rollouts).view(5, 4), spread, atol=1e-5)


def test_gain_is_relative_to_an_empty_thought() -> None:
    policy, rollouts = rolled()
    hidden, _ = policy.answerer(torch.tensor([[policy.vocabulary.end]]))
    empty = policy.answerer.logits(hidden[0, -1], slice(0, policy.vocabulary.end)).log_softmax(-1)
    gold = rollouts.problems.answer[:, 0].repeat_interleave(4)
    expected = one("log_likelihood", policy, rollouts) - empty[gold]
    assert torch.allclose(one("gain", policy, rollouts), expected, atol=1e-5)


def test_reference_sees_the_question_and_no_thought() -> None:
    policy, rollouts = rolled()
    plain = make_task(thoughts=0, max=10)
    reference = make_policy(plain, tokens=0, shared=True)
    reference = QuestionPolicy(reference.thinker, None, plain.vocabulary, Rules(0, False))
    ours = one("reference", policy, rollouts, reference)
    own = one("log_likelihood", policy, rollouts)
    row = torch.cat([rollouts.problems.question[2], torch.tensor([plain.vocabulary.end])])[None]
    hidden, _ = reference.thinker(row)
    words = reference.thinker.logits(hidden[0, -1], slice(0, plain.vocabulary.end)).log_softmax(-1)
    expected = own[8] - words[rollouts.problems.answer[2, 0]]
    assert float(ours[8]) == pytest.approx(expected.item(), abs=1e-5)


def test_gold_and_shape_rewards_by_hand() -> None:
    task = make_task(max=100)
    policy = make_policy(task, tokens=3)
    problems = task.encode(torch.tensor([[31, 84]]))  # 15: gold thought <t1><t5>
    t, end, pad = task.vocabulary.first_thought, task.vocabulary.end, task.vocabulary.pad
    rows = torch.tensor([[t + 1, t + 5, end, pad], [t + 1, end, pad, pad],
                         [t + 1, t + 5, t + 5, end], [t + 4, t + 5, end, pad]])
    rollouts = given(problems, rows, 4)
    assert one("gold_thought", policy, rollouts).tolist() == [1, 0, 0, 0]
    assert one("gold_tokens", policy, rollouts).tolist() == pytest.approx([1, 0.5, 2 / 3, 2 / 3])
    assert one("length", policy, rollouts).tolist() == pytest.approx([2 / 3, 1 / 3, 1, 2 / 3])
    assert one("repetition", policy, rollouts).tolist() == pytest.approx([0, 0, 1 / 3, 0])


def test_weights_add_up_and_parts_stay_unweighted() -> None:
    policy, rollouts = rolled()
    both = Reward({"probability": 2.0, "length": -0.5})(policy, rollouts)
    assert both.reward is not None
    assert torch.allclose(both.reward, 2 * both.parts["probability"] - 0.5 * both.parts["length"])
    assert (both.parts["length"] >= 0).all()


def test_interim_rewards_add_up_to_what_the_thought_is_worth() -> None:
    """Token by token against answers to thoughts cut by hand."""
    task = make_task(max=10)
    policy = make_policy(task, tokens=3)
    problems = task.sample(3, generator())
    rollouts = sample(policy, problems, 4, Sampling(), generator(1))
    rewarded = Reward({"interim": 2.0})(policy, rollouts)
    found, whole = rewarded.token_reward, rewarded.reward
    assert found is not None and whole is not None and bool((whole == 0).all())
    end, pad = policy.vocabulary.end, problems.pad
    for row, thought in enumerate(rollouts.thought.tolist()):
        words = thought[:thought.index(end)]
        cut = torch.tensor([[*words[:n], end, *[pad] * (3 - n)] for n in range(len(words) + 1)])
        one = problems[torch.full((len(cut),), row // 4)]
        worth = policy.answer(one, cut, 1, ragged=True)[0]
        expected = [*(2 * worth.diff()).tolist(), *[0.0] * (3 - len(words))]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)
