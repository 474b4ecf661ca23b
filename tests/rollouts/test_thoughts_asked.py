"""Several questions about one thought, and thoughts that are as long as their question says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ponder.core.math import Sampling
from ponder.core.types import Problems
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rollouts import given
from ponder.rollouts.sampler import sample
from ponder.rollouts.search.grow import every_step
from ponder.tasks.toy.half import Half
from support.small import generator

LARGE = Init(0.3, 0.3, 1.0, 0.3, 0.3)


def players(sees_question: bool = False, from_end: bool = True, asks: int = 3, pace: int = 1,
            ) -> tuple[Half, QuestionPolicy]:
    torch.manual_seed(0)
    task = Half(steps=5, min_steps=1, thoughts=4, asks=asks)
    positions = task.question_length + 6 * pace + task.asked_length + task.answer_length
    nets = [Transformer(Shape(len(task.vocabulary), positions, 16), LARGE).double() for _ in "ab"]
    for net in nets:
        net.counts_padding = True
    return task, QuestionPolicy(nets[0], nets[1], task.vocabulary, Rules(
        5 * pace, False, sees_question, from_end=from_end, pace=pace))


def ragged(task: Half, problems: Problems) -> torch.Tensor:
    """(P, 6): thoughts of random tokens, one for each move, and their end."""
    assert problems.moves is not None
    column = torch.arange(6)
    words = torch.randint(task.vocabulary.first_thought, len(task.vocabulary), (len(problems), 6))
    thought = words.where(column < problems.moves[:, None], problems.pad)
    return thought.masked_fill(column == problems.moves[:, None], task.vocabulary.end)


def alone(task: Half, policy: QuestionPolicy, problems: Problems, row: int, thought: list[int],
          question: list[int]) -> torch.Tensor:
    """Log-probabilities of all words after one thought and one question about it, read in one row
    by itself, at positions that are put together here."""
    net, rules = policy.answerer, policy.rules
    assert isinstance(net, Transformer)
    asked = [token for token in problems.question[row].tolist() if token != problems.pad]
    tokens = [*(asked if rules.sees_question else []), *thought, *question]
    first = problems.question.shape[1] if rules.sees_question else 0
    first += rules.tokens + 1 - len(thought) if rules.from_end else 0
    places = [*(range(len(asked)) if rules.sees_question else []),
              *range(first, first + len(thought) + len(question))]
    shift = net.wpe(torch.tensor(places)) - net.wpe(torch.arange(len(places)))
    hidden = net((net.wte(torch.tensor(tokens)) + shift)[None])[0][0, -1]
    return net.logits(hidden, task.vocabulary.predicted).detach().log_softmax(0)


@pytest.mark.parametrize("sees_question", [False, True])
@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("asks", [1, 3])
def test_each_question_about_a_thought_is_read_alone(sees_question: bool, from_end: bool,
                                                     asks: int) -> None:
    task, policy = players(sees_question, from_end, asks)
    problems = task.sample(6, generator())
    assert problems.asked is not None and problems.asked_answer is not None
    thought = ragged(task, problems)
    logprob, right = policy.answer(problems, thought)
    for row in range(6):
        own = [token for token in thought[row].tolist() if token != problems.pad]
        told = [alone(task, policy, problems, row, own, question)
                for question in problems.asked[row].tolist()]
        answers = problems.asked_answer[row, :, 0].tolist()
        wanted = sum(one[answer].item() for one, answer in zip(told, answers, strict=True)) / asks
        correct = sum(int(one.argmax()) == answer
                      for one, answer in zip(told, answers, strict=True)) / asks
        assert logprob[row].item() == pytest.approx(wanted, abs=1e-6)
        assert float(right[row]) == pytest.approx(correct)


@pytest.mark.parametrize("sees_question", [False, True])
@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("length", [0, 3])
def test_steps_are_scored_by_all_questions(sees_question: bool, from_end: bool,
                                           length: int) -> None:
    task, policy = players(sees_question, from_end)
    problems = task.sample(4, generator())
    begun = torch.randint(task.vocabulary.first_thought, len(task.vocabulary), (4, length))
    steps = every_step(policy, 1, torch.device("cpu"))
    found = policy.answers_after(problems, begun, steps)
    for column, step in enumerate(steps):
        thought = torch.cat([begun, step.expand(4, -1), torch.full((4, 1), task.vocabulary.end)], 1)
        torch.testing.assert_close(found[:, column], policy.answer(problems, thought)[0])


def test_questions_teach_the_answerer_through_one_reading() -> None:
    """The gradient of a thought asked three questions is the mean of those asked one each."""
    task, policy = players()
    problems = task.sample(5, generator())
    thought = ragged(task, problems)
    policy.answer(problems, thought)[0].sum().backward()
    together = [weight.grad for weight in policy.answerer.parameters() if weight.grad is not None]
    policy.zero_grad()
    assert problems.asked is not None and problems.asked_answer is not None
    for k in range(3):
        one = replace(problems, asked=problems.asked[:, k:k + 1],
                      asked_answer=problems.asked_answer[:, k:k + 1])
        (policy.answer(one, thought)[0].sum() / 3).backward()
    apart = [weight.grad for weight in policy.answerer.parameters() if weight.grad is not None]
    for mine, other in zip(together, apart, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("pace, samples", [(1, 1), (2, 3)])
def test_a_paced_thought_has_the_length_of_its_question(pace: int, samples: int) -> None:
    task, policy = players(pace=pace)
    problems = task.sample(8, generator())
    assert problems.moves is not None and len(problems.moves.unique()) > 2
    rollouts = policy.annotate(sample(policy, problems, samples, Sampling(), generator()),
                               Sampling())
    lengths = problems.moves.repeat_interleave(samples) * pace
    assert rollouts.lengths.equal(lengths) and rollouts.thought.shape[1] == 5 * pace + 1
    assert rollouts.chosen.sum(1).equal(lengths) and rollouts.learn.equal(rollouts.chosen)
    scored = policy.score(rollouts, Sampling())
    torch.testing.assert_close(scored.logprobs.detach(), rollouts.logprobs)
    assert (scored.logprobs[~rollouts.chosen] == 0).all()
    assert (scored.entropy[~rollouts.chosen] == 0).all()


def test_the_end_of_a_given_paced_thought_is_not_learnt() -> None:
    task, policy = players()
    problems = task.sample(8, generator())
    rollouts = policy.annotate(given(problems, ragged(task, problems)), Sampling())
    assert problems.moves is not None and rollouts.learn.sum(1).equal(problems.moves)
