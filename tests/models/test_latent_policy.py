"""Thoughts that gradients flow through: continuous ones, and tokens by Gumbel-softmax."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ponder.config.players import SamplerConfig, ThinkerConfig
from ponder.config.running import TrainerConfig
from ponder.core.math import Sampling, straight_through
from ponder.core.metrics import known
from ponder.core.types import Rollouts
from ponder.evaluation.question import dimensions, evaluate_latent, latent_replacements
from ponder.models.policies.question import ContinuousPolicy, DifferentiablePolicy
from ponder.rewards.answers import Reward
from ponder.rollouts.latent import LatentSource, latent_rollouts
from ponder.strategies.exact import Pathwise
from ponder.tasks.toy.add import Add
from ponder.training.learner import Learner
from ponder.training.trainer import Trainer
from support.latent import BLIND, KINDS, SEEING, make_flowing
from support.players import gradients, padded_left
from support.small import Door, generator, make_task


def begun(policy: DifferentiablePolicy, task: Add, count: int = 5, samples: int = 1) -> Rollouts:
    rollouts = latent_rollouts(policy, task.sample(count, generator()), samples, generator(1))
    assert rollouts.noise is not None
    return replace(rollouts, noise=rollouts.noise.double())


def source(kind: str, policy: DifferentiablePolicy, stage_steps: int = 0, samples: int = 4,
           ) -> LatentSource:
    return LatentSource(SamplerConfig(samples=samples), ThinkerConfig(
        policy.rules.tokens, kind=kind, stage_steps=stage_steps))


# --- the mathematics -----------------------------------------------------------------------------

def test_a_straight_through_token_is_one_hot_and_its_gradient_the_soft_one() -> None:
    r"""d soft_i / d x_j = soft_i (1[i=j] - soft_j) / tau, at x = log p + g."""
    logprobs = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).double().log().requires_grad_()
    uniform = torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.5]]).double()
    said = straight_through(logprobs, uniform, 0.5)
    assert said.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]  # 0.2 / 0.105 > 0.3 / 0.693
    noisy = logprobs.detach() - (-uniform.log()).log()
    soft = (noisy / 0.5).softmax(-1)
    weight = torch.tensor([1.0, 2.0, -1.0]).double()
    (said * weight).sum().backward()
    wanted = soft * (weight - (soft * weight).sum(-1, keepdim=True)) / 0.5
    assert logprobs.grad is not None and torch.allclose(logprobs.grad, wanted, atol=1e-12)
    assert logprobs.grad.abs().min() > 1e-3


def test_tokens_are_drawn_from_their_distribution_whatever_the_temperature() -> None:
    logprobs = torch.tensor([0.2, 0.5, 0.3]).log().expand(20_000, 3)
    uniform = torch.rand(20_000, 3, generator=generator())
    share = straight_through(logprobs, uniform, 0.1).mean(0)
    assert torch.allclose(share, torch.tensor([0.2, 0.5, 0.3]), atol=0.012)  # 3.5 errors
    assert torch.equal(share, straight_through(logprobs, uniform, 5.0).mean(0))


def test_noise_at_its_ends_is_finite() -> None:
    uniform = torch.tensor([[0.0, 1 - 2**-24, 0.5]])
    logprobs = torch.zeros(1, 3, requires_grad=True)
    said = straight_through(logprobs, uniform, 1.0)
    said.square().sum().backward()
    assert said.tolist() == [[0.0, 1.0, 0.0]] and torch.isfinite(logprobs.grad).all()  # type: ignore[arg-type]


# --- the thought ---------------------------------------------------------------------------------

def by_hand(policy: DifferentiablePolicy, rollouts: Rollouts, row: int) -> tuple[Tensor, Tensor]:
    """(continuous thoughts (K, D), log p(answer)) of one row: whole sequences again and again."""
    net, reader, problems = policy.thinker, policy.answerer, rollouts.problems
    real = problems.question[row] != problems.pad
    question, answer = problems.question[row][real], problems.answer[row]
    x = net.wte(question)
    for _ in range(policy.rules.tokens):
        x = torch.cat([x, net(x[None])[0][0, -1:]])
    thought = x[len(question):]
    seen = [reader.wte(question)] if policy.rules.sees_question else []
    after = torch.tensor([policy.vocabulary.end, *answer.tolist()])
    hidden = reader(torch.cat([*seen, thought, reader.wte(after)])[None])[0][0]
    logits = reader.logits(hidden[-len(answer) - 1:-1], slice(0, policy.vocabulary.end))
    return thought, logits.log_softmax(-1).gather(1, answer[:, None]).sum()


@pytest.mark.parametrize("sees", [BLIND, SEEING])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_cached_thought_is_that_of_the_whole_sequence(sees: tuple[str, ...], shared: bool,
                                                        padded: bool) -> None:
    task = make_task(answer="digits")
    policy = make_flowing(task, sees=sees, shared=shared)
    rollouts = begun(policy, task)
    if padded:
        rollouts = replace(rollouts, problems=padded_left(rollouts.problems, 3))
    _, said = policy.unroll(rollouts, Sampling())
    scores = policy.score(rollouts, Sampling())
    hand = [by_hand(policy, rollouts, row) for row in range(len(rollouts))]
    assert torch.allclose(said, torch.stack([thought for thought, _ in hand]), atol=1e-10)
    assert torch.allclose(scores.answer, torch.stack([answer for _, answer in hand]), atol=1e-10)
    assert (scores.logprobs == 0).all() and (scores.entropy == 0).all()
    own = torch.autograd.grad(scores.answer.sum(), policy.thinker.blocks[0].mlp.c_fc.weight)
    wanted = torch.autograd.grad(sum(answer for _, answer in hand),  # type: ignore[arg-type]
                                 policy.thinker.blocks[0].mlp.c_fc.weight)
    assert torch.allclose(own[0], wanted[0], atol=1e-10) and own[0].abs().max() > 1e-3


@pytest.mark.parametrize("sees", [BLIND, SEEING])
def test_the_gradient_through_a_continuous_thought_is_that_of_finite_differences(
        sees: tuple[str, ...]) -> None:
    task = make_task()
    policy = make_flowing(task, sees=sees)
    rollouts, step = begun(policy, task), 1e-6
    policy.score(rollouts, Sampling()).answer.sum().backward()
    for weight, at in ((policy.thinker.wte.weight, (int(rollouts.problems.question[0, 0]), 3)),
                       (policy.thinker.wpe.weight, (task.question_length + 1, 5)),
                       (policy.thinker.blocks[1].attn.c_attn.weight, (2, 7)),
                       (policy.answerer.blocks[0].mlp.c_fc.weight, (1, 4))):
        found, ends = weight.grad[at], []  # type: ignore[index]
        for change in (step, -step):
            with torch.no_grad():
                weight[at] += change
                ends.append(policy.score(rollouts, Sampling()).answer.sum())
                weight[at] -= change
        assert float(found.abs()) > 1e-4
        assert float(found) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("sees", [BLIND, SEEING])
def test_a_gumbel_thought_reads_as_its_tokens_do(sees: tuple[str, ...]) -> None:
    task = make_task(answer="digits")
    policy = make_flowing(task, "gumbel", sees=sees)
    rollouts = begun(policy, task, samples=4)
    _, said = policy.unroll(rollouts, Sampling())
    tokens = torch.nn.functional.pad(policy.words(said), (0, 1), value=policy.vocabulary.end)
    scores = policy.score(rollouts, Sampling(0.3))
    written = replace(rollouts, thought=tokens)
    logprobs, spread, full = policy.think(written, Sampling())
    answer, _ = policy.answer(rollouts.problems, tokens, 4)
    for own, wanted in ((scores.answer, answer), (scores.logprobs, logprobs),
                        (scores.entropy, spread), (scores.distribution, full)):
        assert torch.allclose(own, wanted, atol=1e-10)
    assert len(tokens[:, :-1].unique()) > 4 and (tokens[:, :-1] >= policy.allowed.start).all()


def test_the_gradient_of_a_gumbel_thought_is_the_soft_one() -> None:
    """One token, drawn by a head of its own: the chain rule by hand."""
    task = make_task()
    policy = make_flowing(task, "gumbel", tokens=1)
    rollouts, tau = begun(policy, task), 0.7
    policy.score(rollouts, Sampling(tau)).answer.sum().backward()
    found = policy.thinker.head.grad[policy.allowed]  # type: ignore[index]
    states, said = (x.detach() for x in policy.unroll(rollouts, Sampling(tau)))
    weights = said.clone().requires_grad_()
    answer, _ = policy.answer(rollouts.problems, policy.hear(policy.answerer, weights))
    (slope,) = torch.autograd.grad(answer.sum(), weights)
    logits = policy.thinker.logits(states, policy.allowed).detach().requires_grad_()
    noise = rollouts.noise
    assert noise is not None
    soft = ((logits.log_softmax(-1) - (-noise.log()).log()) / tau).softmax(-1)
    (wanted,) = torch.autograd.grad(soft, logits, slope)
    assert torch.allclose(found, torch.einsum("pkv,pkd->vd", wanted, states), atol=1e-10)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sees", [BLIND, SEEING])
def test_given_tokens_stand_in_the_place_of_what_is_said(kind: str, sees: tuple[str, ...]) -> None:
    """With gold tokens alone, scores are those of any thought; with some, what follows is said."""
    task = make_task(answer="digits", gold="digits")
    policy = make_flowing(task, kind, tokens=2, sees=sees)
    rollouts = begun(policy, task)
    gold = rollouts.problems.thought
    assert gold is not None
    rollouts = replace(rollouts, thought=gold)
    scores = policy.score(rollouts, Sampling())
    assert torch.allclose(scores.logprobs, policy.think(rollouts, Sampling())[0], atol=1e-12)
    assert torch.allclose(scores.answer, policy.answer(rollouts.problems, gold)[0], atol=1e-12)
    rollouts = replace(rollouts,
                       thought=torch.where(torch.arange(3) == 0, rollouts.problems.pad, gold))
    mixed = policy.score(rollouts, Sampling())
    assert not torch.allclose(mixed.logprobs[:, 1], scores.logprobs[:, 1], atol=1e-3)
    assert not torch.allclose(mixed.answer, scores.answer, atol=1e-3)
    later = policy.thinker.wte.weight
    (slope,) = torch.autograd.grad(mixed.logprobs[:, 1].sum(), later)
    assert slope[rollouts.problems.question[0, 0]].abs().max() > 1e-3  # through what was said


# --- the source and the curriculum ---------------------------------------------------------------

@pytest.mark.parametrize(("step", "said"), [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (99, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_curriculum_takes_gold_tokens_away_from_the_front(kind: str, step: int,
                                                            said: int) -> None:
    task = make_task(gold="digits")
    policy = make_flowing(task, kind, tokens=2)
    begin = source(kind, policy, stage_steps=10)
    rollouts = begin.collect(policy, task.sample(6, generator()), step, generator())
    samples = 4 if kind == "gumbel" else 1
    gold = rollouts.problems.thought
    assert gold is not None and rollouts.samples == samples
    gold = gold.repeat_interleave(samples, 0)
    assert (rollouts.thought[:, :said] == rollouts.problems.pad).all()
    assert torch.equal(rollouts.thought[:, said:], gold[:, said:])
    draws = [kind == "gumbel"] * said
    assert rollouts.chosen[0].tolist() == [*draws, *[False] * (2 - said)]
    assert rollouts.learn[0].tolist() == [*draws, *[True] * (2 - said)]
    credit = Pathwise().credit(rollouts).credit
    assert credit is not None and credit[0].tolist() == [*[0.0] * said, *[1.0] * (2 - said)]
    assert begin.metrics() == {"thought/said": said}


def test_without_a_curriculum_everything_is_said_at_once() -> None:
    task = make_task()
    policy = make_flowing(task)
    rollouts = source("continuous", policy).collect(policy, task.sample(6, generator()), 0)
    assert (rollouts.thought[:, :-1] == rollouts.problems.pad).all()
    assert not rollouts.learn.any() and not rollouts.chosen.any()


# --- learning ------------------------------------------------------------------------------------

def trainer(kind: str, stage_steps: int = 0, tokens: int = 2) -> Trainer:
    task = make_task(max=10, gold="digits", answer="digits")
    torch.manual_seed(0)
    policy = make_flowing(task, kind, tokens=tokens)
    config = TrainerConfig(max_steps=3, train_batch_size=16, warmup=1)
    learner = Learner(config, policy, Pathwise(), lambda step: 0.1, False, torch.device("cpu"))
    return Trainer(config, task, source(kind, policy, stage_steps), Reward({}), learner, 100, 0,
                   generator())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [0, 1])
def test_micro_batches_do_not_change_the_gradient(kind: str, stage: int) -> None:
    loop = trainer(kind, stage_steps=stage, tokens=1)
    rollouts = loop.collect()
    assert rollouts.noise is not None
    rollouts = replace(rollouts, noise=rollouts.noise.double())
    whole = gradients(loop, [rollouts])
    parts = gradients(loop, [rollouts[torch.arange(0, 5)], rollouts[torch.arange(5, 16)]])
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-12)
    assert any(name.startswith("thinker") and value.abs().max() > 1e-3
               for name, value in whole.items())


def test_a_blind_answerer_teaches_the_thinker_where_sampled_tokens_could_not() -> None:
    """Every weight of the thinker that a question passes has a gradient, from answers alone."""
    loop = trainer("continuous")
    found = gradients(loop, [loop.collect()])
    assert all(found[f"thinker.transformer.h.{layer}.{name}"].abs().max() > 1e-6
               for layer in range(2) for name in ("attn.c_attn.weight", "mlp.c_fc.weight"))
    first = loop.policy.vocabulary.first_thought
    assert found["thinker.transformer.wte.weight"][first:].abs().max() == 0  # no token was read


# --- evaluation ----------------------------------------------------------------------------------

def test_replacements_of_vectors() -> None:
    own = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]], [[4.0, 1.0]]]).repeat(2000, 2, 1)
    own[:, 1] += 10
    found = latent_replacements(own, generator())
    assert torch.equal(found["shuffled"].sum(0), own.sum(0))
    assert not torch.equal(found["shuffled"], own)
    assert torch.allclose(found["constant"][7], torch.tensor([[2.0, 1.0], [12.0, 11.0]]))
    assert torch.equal(found["constant"][0], found["constant"][1])
    assert found["dropped"].shape == (6000, 0, 2)
    mean, std = found["random"].mean(0), found["random"].std(0)
    assert torch.allclose(mean, found["constant"][0], atol=0.1)
    assert std[:, 0].tolist() == pytest.approx([math.sqrt(8 / 3)] * 2, rel=0.05)
    assert (std[:, 1] < 1e-6).all()


def test_dimensions_counts_directions() -> None:
    corners = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    line = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, 1, 1], [-1, -1, -1]])
    assert dimensions(corners[:, None]) == pytest.approx(2)
    assert dimensions(torch.stack([corners, line], 1)) == pytest.approx(1.5)
    assert dimensions(torch.ones(4, 1, 3)) == 0
    residue = torch.tensor([[1.1, 3.3], [1.1, 3.3000002], [1.1000001, 3.3]])  # of equal ones
    assert dimensions(residue[:, None]) == 0
    assert dimensions((residue + torch.arange(3.0)[:, None])[:, None]) == pytest.approx(1)


@pytest.mark.parametrize("sees", [BLIND, SEEING])
def test_the_necessity_table_of_vectors(sees: tuple[str, ...]) -> None:
    """A thought that is dropped leaves end-of-thought alone; a shuffled one is another's."""
    task = make_task(max=10, test_questions=20)
    policy = make_flowing(task, tokens=2, sees=sees)
    assert isinstance(policy, ContinuousPolicy)
    problems = task.test()
    found = evaluate_latent(policy, problems)
    empty = problems.answer.new_full((len(problems), 1), policy.vocabulary.end)
    right = policy.answer(problems, empty)[1]
    assert found.necessity["dropped"] == float(right.float().mean())
    assert found.metrics["accuracy"] == found.necessity["own"]
    assert found.metrics["necessity/truncated/0"] == found.necessity["dropped"]
    assert found.metrics["necessity/truncated/2"] == found.necessity["own"]
    assert {"necessity/replaced/t2", "necessity/truncated/1"} < {*found.metrics}
    assert found.metrics["thought/length"] == 2
    row = found.rows[0]
    assert row["thought"].count("<t") == 2 and row["thought"].endswith("</think>")
    assert len(row["numbers"].split(" | ")) == 2 and len(row["numbers"].split()) == 7


# --- through the door ----------------------------------------------------------------------------

SMALL = ["think=true", "blind=true", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=4", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


@pytest.mark.parametrize("words", [
    "thinker.kind=continuous", "thinker.kind=gumbel rollout.samples=2 rollout.epsilon=0.1",
    "thinker.filler=true thinker.tokens=4 blind=false",
    *(pytest.param(words, marks=pytest.mark.slow) for words in (
        "thinker.kind=continuous blind=false answerer.model=shared task.answer=digits",
        "thinker.kind=gumbel blind=false fixed=true answerer.model=shared rollout.top_k=3",
        "thinker.kind=continuous thinker.stage_steps=2 task.max=100",
        "thinker.kind=gumbel thinker.stage_steps=2 thinker.tokens=1"))])
def test_a_run_and_the_evaluation_of_its_checkpoint(words: str, door: Door) -> None:
    assert door(*SMALL, *words.split(), "trainer.max_steps=6")[0] == 0
    assert all(known(name) for line in Path("run/metrics.jsonl").read_text().splitlines()
               for name in json.loads(line))
    ran = json.loads(Path("run/summary.json").read_text())
    (saved,) = (path.parent for path in Path("run").glob("checkpoint_*/manifest.json")
                if json.loads(path.read_text())["step"] == 6)
    assert door("action=evaluate", f"model.name={saved}", "hydra.run.dir=again")[0] == 0
    again = json.loads(Path("again/summary.json").read_text())
    assert again["necessity"] == ran["necessity"] and again["language"] == ran["language"]
    assert again["weights_sha256"] == ran["weights_sha256"]


@pytest.mark.parametrize("words", [
    "thinker.kind=continuous", "thinker.kind=gumbel trainer.gen_batch_size=8",
    pytest.param("thinker.kind=continuous thinker.stage_steps=4 trainer.gen_batch_size=12",
                 marks=pytest.mark.slow)])
def test_a_run_goes_on_as_if_it_had_never_stopped(words: str, door: Door) -> None:
    line = [*SMALL, *words.split(), "trainer.lr_decay=constant"]
    assert door(*line, "trainer.max_steps=10")[0] == 0
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    logged = Path("run/metrics.jsonl").read_text().count("\n")
    for path in Path("run").glob("checkpoint_*/manifest.json"):
        if json.loads(path.read_text())["step"] == 10:
            shutil.rmtree(path.parent)
    Path("run/summary.json").unlink()
    code, out, _ = door(*line, "trainer.max_steps=10")
    assert code == 0 and "going on from step 8" in out
    assert json.loads(Path("run/summary.json").read_text())["weights_sha256"] == whole
    assert Path("run/metrics.jsonl").read_text().count("\n") == logged
