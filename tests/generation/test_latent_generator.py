"""Generation from policies whose thoughts are vectors, or tokens drawn by Gumbel-softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ponder.config.running import GenerateConfig
from ponder.core.math import Sampling
from ponder.evaluation.question import evaluate_latent
from ponder.generation.decoding import ordinary_text, thought_text
from ponder.generation.generators import QuestionGenerator
from ponder.models.policies.question import ContinuousPolicy, GumbelPolicy
from ponder.rollouts.latent import latent_rollouts, vectors
from ponder.tasks.toy.add import Add
from support.latent import BLIND, SEEING, make_flowing
from support.small import generator, make_task

GREEDILY = GenerateConfig(temperature=0.0)
NO_GENERATOR = torch.Generator()


# --- vectors ------------------------------------------------------------------------------------


def latent_generator(sees: tuple[str, ...] = BLIND, shared: bool = False,
                     ) -> tuple[QuestionGenerator, Add]:
    task = make_task(4, answer="digits", max=100)
    policy = make_flowing(task, tokens=3, sees=sees, shared=shared).requires_grad_(False)
    assert isinstance(policy, ContinuousPolicy)
    return QuestionGenerator(policy, task.encode_question), task


NETWORKS = pytest.mark.parametrize("sees, shared", [
    (BLIND, False), (BLIND, True), (SEEING, False), (SEEING, True)])


@NETWORKS
def test_log_probabilities_of_answers_are_those_of_the_policy(sees: tuple[str, ...],
                                                                 shared: bool) -> None:
    """Of every answer without padding, which has no likelihood there; and question after question,
    as nothing may be left of the one before.
    """
    model, task = latent_generator(sees, shared)
    policy, end = model.policy, model.policy.vocabulary.end
    assert isinstance(policy, ContinuousPolicy)
    answers = torch.cartesian_prod(*[torch.arange(1, end)] * task.answer_length)
    for text in ("31+84=", "07+99="):
        prompt = model.prompt(text)
        problems = task.encode(torch.tensor([[int(text[:2]), int(text[3:5])]]))
        many = replace(problems[torch.zeros(len(answers), dtype=torch.long)], answer=answers)
        learnt = policy.score(latent_rollouts(policy, many), Sampling()).answer
        found = model.search(prompt, GenerateConfig(beams=200, samples=200))
        found = [one for one in found if policy.vocabulary.pad not in one.tokens]
        assert len(found) > 100
        place = {tuple(row): number for number, row in enumerate(answers.tolist())}
        for one in found:
            answer = model.scored_tokens(one.tokens)
            assert one.logprob == pytest.approx(float(learnt[place[tuple(answer)]]), abs=1e-5)
            assert one.score == pytest.approx(one.logprob / len(answer))
        assert found[0].logprob == pytest.approx(float(learnt.max()), abs=1e-5)


@NETWORKS
def test_a_question_gets_the_thought_and_answer_of_its_evaluation(sees: tuple[str, ...],
                                                                  shared: bool) -> None:
    model, task = latent_generator(sees, shared)
    policy, problems = model.policy, task.test()[:5]
    assert isinstance(policy, ContinuousPolicy)
    rows = evaluate_latent(policy, problems).rows
    replies = policy.reply(problems, vectors(policy, problems)[0])
    for row, reply in zip(rows, replies.tolist(), strict=True):
        prompt = model.prompt(row["question"])
        found, = model.sample(prompt, GREEDILY, NO_GENERATOR)
        streamed = [token for token, _ in model.stream(prompt, GREEDILY, NO_GENERATOR)]
        best, = model.search(prompt, GenerateConfig(beams=1))
        assert found.tokens == streamed == best.tokens
        assert model.scored_tokens(found.tokens) == reply
        parts = model.decoder(prompt).all(found.tokens)
        numbers = [part.text[1:-1] for part in parts if part.kind == "number"]
        assert [thought_text(parts) + "</think>", " | ".join(numbers)] == [
            row["thought"], row["numbers"]]
        assert ordinary_text(parts) == row["answer"]


@pytest.mark.slow
def test_samples_share_their_thought() -> None:
    model, _ = latent_generator()
    prompt = model.prompt("31+84=")
    many = model.sample(prompt, GenerateConfig(samples=50), generator())
    assert len({tuple(text.tokens[:4]) for text in many}) == 1
    assert len({tuple(text.tokens[4:]) for text in many}) > 10
    few = model.sample(prompt, GenerateConfig(samples=50, top_k=1), generator())
    greedy, = model.sample(prompt, GREEDILY, NO_GENERATOR)
    assert {tuple(text.tokens) for text in few} == {tuple(greedy.tokens)}
    with_seed, = model.sample(prompt, GenerateConfig(), generator(3))
    streamed = list(model.stream(prompt, GenerateConfig(), generator(3)))
    assert [token for token, _ in streamed] == with_seed.tokens
    assert sum(logprob for _, logprob in streamed) == pytest.approx(with_seed.logprob)


@pytest.mark.slow
def test_gumbel_thoughts_are_sampled_as_tokens() -> None:
    """Greedily they are those of an evaluation, which takes the likeliest token without noise."""
    from ponder.rollouts.sampler import greedy

    task = make_task(4, answer="digits", max=100)
    policy = make_flowing(task, "gumbel", tokens=3).requires_grad_(False)
    assert isinstance(policy, GumbelPolicy)
    model = QuestionGenerator(policy, task.encode_question)
    problems = task.test()[:5]
    rollouts = greedy(policy, problems)
    answers = policy.reply(problems, rollouts.thought)
    logprob = rollouts.logprobs.sum(1) + policy.answer(
        replace(problems, answer=answers), rollouts.thought)[0]
    for row in range(5):
        prompt = model.prompt(task.vocabulary.text(problems.question[row].tolist()))
        found, = model.sample(prompt, GREEDILY, NO_GENERATOR)
        assert found.tokens == [*rollouts.thought[row].tolist(), *answers[row].tolist()]
        assert found.logprob == pytest.approx(float(logprob[row]), abs=1e-5)
    prompt = model.prompt("31+84=")
    many = model.sample(prompt, GenerateConfig(samples=40), generator())
    assert len({tuple(text.tokens[:3]) for text in many}) > 5
