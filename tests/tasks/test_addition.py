"""Sums in columns, and STaR's loop on them: what is kept, what is forgotten, what is rehearsed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ponder.config.errors import UserError
from ponder.config.running import TrainerConfig
from ponder.core.metrics import known
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.question import evaluate
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts import Source, given
from ponder.strategies.star import STaR
from ponder.tasks.toy.addition import Addition
from ponder.training.collector import Collector
from support.small import Door, generator


def task_of(thoughts: int = 20, **changes) -> Addition:
    digits = changes.get("digits", 3)
    return Addition(thoughts=thoughts, **{
        "digits": digits, "thought_length": digits, "worked": 30, "test_questions": 90,
        "epoch_size": 60, **changes})


def policy_of(task: Addition) -> Policy:
    positions = task.question_length + 2 * task.answer_length + 1
    net = Transformer(Shape(len(task.vocabulary), positions, 16, 2, 2), Init(*[0.3] * 5))
    rules = Rules(task.config.digits, True, sees_question=False)
    return QuestionPolicy(net, None, task.vocabulary, rules)


def shown(task: Addition, row: Tensor) -> str:
    return task.vocabulary.text(row.tolist())


def numbers_of(task: Addition, problems: Problems) -> list[tuple[str, str]]:
    """The two numbers of each question, read from its text."""
    texts = [shown(task, row).partition(":")[2].strip("=") for row in problems.question]
    return [(a[::-1].strip("_"), b[::-1].strip("_")) for a, b in (t.split("+") for t in texts)]


# --- questions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("pair", "question", "thought", "answer", "hinted"), [
    ((23, 58), "____:32_+85_=", "<t11><t8></think>", "081", "180_:32_+85_="),
    ((99, 99), "____:99_+99_=", "<t18><t19></think>", "198", "891_:99_+99_="),
    ((5, 0), "____:5__+0__=", "<t5></think>", "05", "50__:5__+0__="),
    ((500, 505), "____:005+505=", "<t5><t0><t10></think>", "1005", "5001:005+505="),
])
def test_a_sum_by_hand(pair: tuple[int, int], question: str, thought: str, answer: str,
                       hinted: str) -> None:
    task = task_of()
    problems = task.encode(torch.tensor([pair]), generator())
    with_hint = task.hinted(problems)
    assert problems.thought is not None
    assert shown(task, problems.question[0]).lstrip("_") == question.lstrip("_")
    assert shown(task, problems.thought[0]) == thought
    assert shown(task, problems.answer[0]) == answer
    assert shown(task, with_hint.question[0]).lstrip("_") == hinted
    assert torch.equal(with_hint.answer, problems.answer)


def test_short_sums_begin_anywhere_and_padding_says_where() -> None:
    task = task_of()
    problems = task.encode(torch.tensor([[7, 8]]).expand(200, 2), generator())
    mask = problems.mask
    assert mask is not None and problems.question.shape[1] == task.question_length
    assert set((~mask).sum(1).tolist()) == {0, 1, 2}  # so many places earlier than the latest
    longest = task.encode(torch.tensor([[700, 800]]).expand(9, 2), generator())
    assert longest.mask is not None and set((~longest.mask).sum(1).tolist()) == {2}


def test_training_questions_are_never_tested_whatever_their_order() -> None:
    task = task_of(held_out=0.3)
    tested = {tuple(sorted(pair)) for pair in numbers_of(task, task.test())}
    trained = numbers_of(task, task.sample(3000, generator()))
    assert not tested & {tuple(sorted(pair)) for pair in trained}
    assert {len(a) for a, _ in trained} == {1, 2, 3} and all(len(a) == len(b) for a, b in trained)


def test_worked_examples_are_few_short_and_of_the_training_side() -> None:
    task = task_of()
    found = numbers_of(task, task.examples(500, generator()))
    tested = {tuple(sorted(pair)) for pair in numbers_of(task, task.test())}
    assert len(set(found)) <= 30 and {len(a) for a, _ in found} == {1, 2}
    assert not tested & {tuple(sorted(pair)) for pair in found}
    assert sorted(set(found)) == sorted(set(numbers_of(task, task.examples(500, generator(1)))))


def test_a_share_that_holds_out_nothing_of_some_length_is_refused(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.tasks.toy.addition.TRIES", 1)
    with pytest.raises(UserError, match="found no held-out question of 1 digits"):
        task_of(held_out=0.01)


def test_problems_as_text() -> None:
    split, problem = task_of().problems()[0]
    a, b = problem.question.removesuffix("=").split("+")
    assert (split, problem.answer) == ("train", str(int(a) + int(b)))
    assert problem.thought is not None and problem.thought.count("<t") == len(a)


def test_accuracy_is_told_apart_by_number_of_digits() -> None:
    task = task_of()
    problems = task.test()
    evaluation = evaluate(policy_of(task), problems)
    found = evaluation.metrics
    lengths = torch.tensor([len(a) for a, _ in numbers_of(task, problems)])
    right = sum(found[f"accuracy/{n}_digits"] * int((lengths == n).sum()) for n in (1, 2, 3))
    assert right / len(problems) == pytest.approx(found["accuracy"])
    assert [int(members.sum()) for members in problems.groups.values()] == [
        int((lengths == n).sum()) for n in (1, 2, 3)]
    assert all(len(row["answer"]) == len(row["gold"]) for row in evaluation.rows)


# --- a round ----------------------------------------------------------------------------------


class Scribe(Source):
    """Right thoughts about questions with a hint, and about every third one without; else none."""

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        assert problems.thought is not None
        known = hint_of(problems).any(1) | (problems.answer.sum(1) % 3 == 0)
        nothing = torch.full_like(problems.thought, problems.pad)
        nothing[:, 0] = policy.vocabulary.end
        return given(problems, problems.thought.where(known[:, None], nothing))


class Gold(Reward):
    """Right is who thinks the gold thought."""

    def __call__(self, policy: Policy, rollouts: Rollouts) -> Rollouts:
        assert rollouts.problems.thought is not None
        right = (rollouts.thought == rollouts.problems.thought).all(1).float()
        return replace(rollouts, reward=right, parts={"exact_match": right})


def hint_of(problems: Problems) -> Tensor:
    """(P, D + 1): whether there are digits in the field in front, for D = 3."""
    field = problems.question[:, 2:6]
    return (field > 0) & (field <= 10)


def collected(**changes) -> Rollouts:
    task = task_of()
    policy = policy_of(task)
    config = TrainerConfig(**changes)
    return Collector(config, task, Scribe(), Gold({}), policy, STaR(keep="correct"), 0,
                     generator()).collect(0)[0]


def test_without_hints_only_right_thoughts_are_learnt() -> None:
    rollouts = collected()
    gold = rollouts.problems.thought
    assert gold is not None and rollouts.credit is not None and rollouts.weight is not None
    right = (rollouts.thought == gold).all(1)
    assert 0 < int(right.sum()) < 60 == len(rollouts)  # the answerer reads the others too
    assert torch.equal(rollouts.learn.any(1), right)
    assert torch.equal(rollouts.credit.any(1), right)


def test_rationalised_thoughts_are_learnt_without_the_hint() -> None:
    rollouts = collected(rationalise=True)
    gold = rollouts.problems.thought
    assert gold is not None and torch.equal(rollouts.thought, gold)
    assert len(rollouts) == 60 and rollouts.learn.any(1).all()
    assert not hint_of(rollouts.problems).any()
    assert not rollouts.chosen.any()


def test_worked_examples_are_rehearsed_half_of_them_with_a_hint() -> None:
    plain, both = collected(rehearse=40), collected(rehearse=40, rationalise=True)
    for rollouts, hints in ((plain, 0), (both, 20)):
        rehearsed = rollouts[torch.arange(60, 100)]
        assert rehearsed.credit is not None and rehearsed.problems.thought is not None
        assert torch.equal(rehearsed.thought, rehearsed.problems.thought)
        assert rehearsed.credit.any(1).all()
        assert int(hint_of(rehearsed.problems).any(1).sum()) == hints
        assert not hint_of(rollouts[torch.arange(60)].problems).any()


# --- the whole loop ---------------------------------------------------------------------------

TINY = ["experiment=star_addition", "task.digits=2", "task.epoch_size=40", "task.test_questions=60",
        "model.d_model=16", "trainer.rehearse=40", "trainer.max_epochs=2", "trainer.threads=1"]


@pytest.mark.parametrize("words", [
    [], ["trainer.rationalise=false", "rollout.samples=3"],
    ["think=false", "trainer.rationalise=false"]])
def test_rounds_are_looked_at_and_their_numbers_are_known(words: list[str], door: Door) -> None:
    assert door(*TINY, *words, "hydra.run.dir=run")[0] == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "accuracy" in line] == [0, 1, 2]
    assert not [name for line in lines for name in line if not known(name)]


def test_a_checkpoint_evaluates_as_it_was_trained(door: Door) -> None:
    assert door(*TINY, "hydra.run.dir=run")[0] == 0
    assert door("action=evaluate", "model.name=run/checkpoint_2", "hydra.run.dir=again")[0] == 0
    first, second = (json.loads((Path(name) / "summary.json").read_text())
                     for name in ("run", "again"))
    assert first["necessity"] == second["necessity"]


@pytest.mark.slow
def test_a_longer_run_goes_on_with_the_shorter_one(door: Door) -> None:
    assert door(*TINY, "hydra.run.dir=whole")[0] == 0
    for rounds in (1, 2):
        assert door(*TINY, f"trainer.max_epochs={rounds}", "hydra.run.dir=parts")[0] == 0
    whole, parts = (json.loads(Path(name, "summary.json").read_text())
                    for name in ("whole", "parts"))
    assert whole["weights_sha256"] == parts["weights_sha256"]
