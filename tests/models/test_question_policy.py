"""The invariants rollouts and training rest on."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from ponder.config.players import SamplerConfig
from ponder.core.math import Sampling, left_justify
from ponder.core.types import Rollouts
from ponder.evaluation.question import evaluate
from ponder.models.gpt2 import layers
from ponder.models.policies.base import Rules
from ponder.models.policies.question import FillerPolicy
from ponder.rollouts import given
from ponder.rollouts import sampler as rollout_module
from ponder.rollouts.recorded import pairs_of
from ponder.rollouts.sampler import Filler, greedy, sample
from ponder.rollouts.search.exhaustive import EveryThought
from ponder.strategies.dpo import DPO
from support.players import padded_left
from support.small import generator, make_policy, make_task

SAMPLINGS = [Sampling(), Sampling(0.7), Sampling(1.3, top_k=4), Sampling(0.9, top_p=0.7),
             Sampling(1.0, epsilon=0.3), Sampling(0.8, top_k=6, top_p=0.9, epsilon=0.1)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("stops", [True, False])
def test_sampled_logprobs_equal_recomputed_ones(sampling: Sampling, stops: bool) -> None:
    task = make_task()
    policy = make_policy(task, tokens=4, stops=stops)
    problems = task.sample(6, generator())
    rollouts = sample(policy, problems, 5, sampling, generator())
    again, _, _ = policy.think(rollouts, sampling)
    assert torch.allclose(again, rollouts.logprobs, atol=1e-5)
    assert rollouts.logprobs.abs().sum() > 1


def test_fillers_are_learnt_from_the_answer_alone() -> None:
    """Thoughts are <t0> <t0> <t0>; the answer after them has a gradient to all that reads them."""
    task = make_task(max=10, test_questions=20)
    net = make_policy(task, shared=True).thinker
    policy = FillerPolicy(net, None, task.vocabulary, Rules(3, False, filler=True))
    problems = task.sample(6, generator())
    rollouts = Filler().collect(policy, problems, 0)
    first, end = task.vocabulary.first_thought, task.vocabulary.end
    assert rollouts.thought.tolist() == [[first, first, first, end]] * 6
    assert not (rollouts.learn | rollouts.chosen).any()
    scores = policy.score(rollouts, Sampling())
    assert scores.logprobs.tolist() == scores.entropy.tolist() == [[0.0] * 3] * 6
    hidden, _ = net.read(torch.cat([problems.question, rollouts.thought], 1), last=1)
    logits = net.logits(hidden[:, 0], task.vocabulary.predicted)
    by_hand = logits.log_softmax(-1).gather(1, problems.answer)[:, 0]
    assert torch.allclose(scores.answer, by_hand, atol=1e-5)
    scores.answer.sum().backward()
    taught = net.embeddings.grad
    assert taught is not None and taught[first].any() and taught[problems.question].any()
    found = evaluate(policy, task.test())
    table = found.necessity
    assert table["own"] == table["shuffled"] == table["constant"]
    assert {row["thought"] for row in found.rows} == {"<t0><t0><t0></think>"}


@pytest.mark.parametrize("sees", [("question", "thought"), ("thought",)])
@pytest.mark.parametrize("stops", [True, False])
def test_left_padding_changes_nothing(sees: tuple[str, ...], stops: bool) -> None:
    task = make_task(answer="digits")
    policy = make_policy(task, stops=stops, sees=sees)
    problems = task.sample(6, generator())
    rollouts = sample(policy, problems, 4, Sampling(), generator())
    wide = replace(rollouts, problems=padded_left(problems, 3))
    for samples in (4, 1):
        rows = rollouts if samples == 4 else _single(rollouts)
        padded = wide if samples == 4 else _single(wide)
        assert torch.allclose(policy.think(rows, Sampling())[0],
                              policy.think(padded, Sampling())[0], atol=1e-5)
        assert torch.allclose(policy.answer(rows.problems, rows.thought, samples)[0],
                              policy.answer(padded.problems, padded.thought, samples)[0],
                              atol=1e-5)


def test_left_padding_changes_no_sample() -> None:
    task = make_task()
    policy = make_policy(task)
    problems = task.sample(6, generator())
    plain = sample(policy, problems, 4, Sampling(), generator(3))
    padded = sample(policy, padded_left(problems, 3), 4, Sampling(), generator(3))
    assert torch.equal(plain.thought, padded.thought)
    assert torch.allclose(plain.logprobs, padded.logprobs, atol=1e-5)


def test_right_padding_of_thoughts_changes_nothing() -> None:
    task = make_task(answer="digits")
    policy = make_policy(task, tokens=3)
    wider = make_policy(task, tokens=3)
    wider.load_state_dict(policy.state_dict())
    problems = task.sample(6, generator())
    rollouts = sample(policy, problems, 4, Sampling(), generator())
    thought = torch.nn.functional.pad(rollouts.thought, (0, 2), value=problems.pad)
    wide = given(problems, thought, 4)
    assert torch.allclose(policy.think(rollouts, Sampling())[0],
                          wider.think(wide, Sampling())[0][:, :3], atol=1e-5)
    assert torch.allclose(policy.answer(problems, rollouts.thought, 4)[0],
                          wider.answer(problems, thought, 4)[0], atol=1e-5)


def _single(rollouts):
    """The same rows as groups of one: every question repeated instead of shared."""
    rows = torch.arange(len(rollouts.problems)).repeat_interleave(rollouts.samples)
    return replace(rollouts, problems=rollouts.problems[rows], samples=1)


@pytest.mark.parametrize("sees", [("question", "thought"), ("thought",)])
@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_grouped_gradient_equals_plain_one(sees: tuple[str, ...], stops: bool,
                                           shared: bool) -> None:
    task = make_task(answer="digits")
    policy = make_policy(task, stops=stops, sees=sees, shared=shared)
    problems = task.sample(5, generator())
    rollouts = sample(policy, problems, 6, Sampling(), generator())
    credit = torch.randn(rollouts.logprobs.shape)
    gradients = []
    for rows in (rollouts, _single(rollouts)):
        policy.zero_grad()
        scores = policy.score(rows, Sampling())
        ((credit * scores.logprobs).sum() + scores.answer.sum() + scores.entropy.sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in policy.named_parameters()
                          if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-5 * float(value.abs().max() + 1))


def test_dpo_compares_policy_and_reference_under_one_distribution() -> None:
    """That which thoughts are sampled from, each by its own logits: worked from the logits."""
    task, under = make_task(), Sampling(temperature=0.5, top_k=3)
    policy = make_policy(task, tokens=4, stops=False)
    policy.reference = make_policy(task, tokens=4, stops=False).thinker
    with torch.no_grad():
        for weight in policy.thinker.parameters():
            weight.mul_(1.2)
    rollouts = sample(policy, task.sample(3, generator()), 2, under, generator())
    rollouts = policy.annotate(rollouts, under)
    sides = []
    for net in (policy.thinker, policy.reference):
        logits = policy.decisions(rollouts.problems, rollouts.thought, 2, net) / 0.5
        token = rollouts.thought[:, :-1, None] - policy.allowed.start
        cut = logits.masked_fill(logits < logits.topk(3, -1).values[..., -1:], -torch.inf)
        cut = cut.scatter(-1, token, logits.gather(-1, token))  # what was sampled stays
        sides.append(cut.log_softmax(-1).gather(-1, token)[..., 0])
    own = policy.score(rollouts, under).logprobs
    torch.testing.assert_close(own, sides[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(rollouts.reference, sides[1], atol=1e-5, rtol=0)
    reward = 0.1 * (sides[0] - sides[1]).sum(1)
    paid = replace(rollouts, learn=rollouts.chosen, weight=torch.ones(6))
    loss = DPO(beta=0.1).loss(policy.score(paid, under), paid, torch.tensor(3.0))["thinker_loss"]
    expected = -torch.nn.functional.logsigmoid(reward[0::2] - reward[1::2]).mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    with pytest.raises(AssertionError, match="another distribution"):
        policy.score(rollouts, Sampling())
    with pytest.raises(AssertionError, match="another distribution"):
        pairs_of(rollouts)
    told = asdict(rollouts)
    assert Rollouts.from_dict(told).under == under


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("stops", [True, False])
def test_samples_side_by_side_equal_samples_behind_a_repeated_past(
        padded: bool, stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(answer="digits")
    policy = make_policy(task, tokens=4, stops=stops)
    problems = task.sample(5, generator())
    problems = padded_left(problems, 2) if padded else problems
    found = []
    for columns in (layers.SIDE_BY_SIDE, 0):
        monkeypatch.setattr(layers, "SIDE_BY_SIDE", columns)
        monkeypatch.setattr(rollout_module, "SIDE_BY_SIDE", columns)
        rollouts = sample(policy, problems, 6, Sampling(), generator(1))
        policy.zero_grad()
        scores = policy.score(rollouts, Sampling())
        (scores.logprobs.square().sum() + scores.answer.sum()).backward()
        found.append((rollouts.thought, rollouts.logprobs, scores.logprobs, scores.answer,
                      *(p.grad.clone() for p in policy.parameters() if p.grad is not None)))
    assert torch.equal(found[0][0], found[1][0])
    for together, apart in zip(*found, strict=True):
        assert torch.allclose(together, apart, atol=1e-5 * float(apart.detach().abs().max() + 1))


def test_blind_answerer_cannot_see_the_question() -> None:
    task = make_task()
    policy = make_policy(task, sees=("thought",))
    problems = task.sample(6, generator())
    other = replace(problems, question=problems.question.flip(0))
    thought = greedy(policy, problems).thought
    assert torch.equal(policy.answer(problems, thought)[0], policy.answer(other, thought)[0])
    seeing = make_policy(task)
    assert not torch.allclose(seeing.answer(problems, thought)[0], seeing.answer(other, thought)[0])


def test_blind_positions_restart_at_zero() -> None:
    task = make_task()
    policy = make_policy(task, sees=("thought",), stops=False)
    problems = task.sample(4, generator())
    thought = sample(policy, problems, 1, Sampling(), generator()).thought
    hidden, _ = policy.answerer(thought)
    words = policy.answerer.logits(hidden[:, -1:], slice(0, task.vocabulary.end))
    assert torch.allclose(policy.answer_logits(problems, thought, 1), words, atol=1e-6)


def test_fixed_thoughts_have_exactly_their_length() -> None:
    task = make_task()
    policy = make_policy(task, tokens=3, stops=False)
    rollouts = sample(policy, task.sample(20, generator()), 4, Sampling(), generator())
    assert (rollouts.lengths == 3).all()
    assert (rollouts.thought[:, -1] == task.vocabulary.end).all()
    assert (rollouts.thought[:, :-1] >= task.vocabulary.first_thought).all()


def test_stopping_thoughts_end_once_and_are_padded_behind() -> None:
    task = make_task()
    policy = make_policy(task, tokens=5)
    rollouts = sample(policy, task.sample(50, generator()), 4, Sampling(), generator())
    thought, end = rollouts.thought, task.vocabulary.end
    assert ((thought == end).sum(1) == 1).all()
    after = (thought == end).cumsum(1) - (thought == end).long() > 0
    assert (thought[after] == task.vocabulary.pad).all()
    assert len(rollouts.lengths.unique()) > 2
    forced = rollouts.lengths == 5
    assert forced.any()
    assert (rollouts.chosen.sum(1) == torch.where(forced, 5, rollouts.lengths + 1)).all()


def test_greedy_reply_is_right_exactly_where_teacher_forcing_says_so() -> None:
    task = make_task(answer="digits", max=10)
    policy = make_policy(task)
    problems = task.test()
    thought = greedy(policy, problems).thought
    problems.answer[::2] = policy.reply(problems, thought)[::2]
    reply = policy.reply(problems, thought)
    right = policy.answer(problems, thought)[1]
    assert torch.equal((reply == problems.answer).all(1), right)
    assert right.any() and not right.all()


def test_frozen_judge_moves_only_when_refreshed() -> None:
    task = make_task()
    policy = make_policy(task, shared=True, frozen=True)
    problems = task.sample(4, generator())
    thought = greedy(policy, problems).thought
    before = policy.answer(problems, thought, net=policy.judge)[0]
    with torch.no_grad():
        policy.answerer.wte.weight.mul_(2)
    assert torch.equal(policy.answer(problems, thought, net=policy.judge)[0], before)
    policy.refresh()
    assert not torch.allclose(policy.answer(problems, thought, net=policy.judge)[0], before)


def test_left_justify() -> None:
    rows = torch.tensor([[5, 0, 0, 7], [0, 1, 2, 0]])
    assert left_justify(rows, 0).tolist() == [[5, 7, 0, 0], [1, 2, 0, 0]]


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("tokens", [1, 3])
def test_thoughts_that_begin_alike_score_as_if_each_stood_alone(tokens: int, stops: bool) -> None:
    task = make_task(thoughts=3)
    policy = make_policy(task, tokens=tokens, stops=stops, dtype=torch.float64)
    census = EveryThought(SamplerConfig()).collect(policy, task.sample(4, generator()), 0)
    alone = replace(census, same_thoughts=False)
    assert census.same_thoughts
    parts = census[torch.tensor([2, 0])]
    unlike = replace(parts, same_thoughts=False)
    assert torch.allclose(policy.think(parts, Sampling())[0],
                          policy.think(unlike, Sampling())[0], atol=1e-12)
    for rollouts in (census, alone):
        policy.zero_grad()
        logprobs, spread, _ = policy.think(rollouts, Sampling())
        (logprobs * (1 + spread)).sum().backward()
        rollouts.parts["gradient"] = torch.cat([p.grad.flatten() for p in
                                                policy.thinker.parameters() if p.grad is not None])
        assert torch.allclose(logprobs.sum(1).exp().view(4, -1).sum(1), torch.ones(4).double())
    assert torch.allclose(census.parts["gradient"], alone.parts["gradient"], atol=1e-10)
