"""Generators of reasoning-gym: its questions and scores, for language models and toy networks."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from ponder.tasks.choice.gym import Gym, GymKeys
from ponder.tasks.toy.gym_toy import GymToy
from support.questions import WORDS
from support.small import Door

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("reasoning_gym") is None,
                                                   reason="no package reasoning-gym")]
FIVE = ["countdown", "leg_counting", "chain_sum", "simple_equations", "number_sorting"]
ASK = ["task=gym", "variant=[think]", "model=hf", "model.name=model", "rollout=sample",
       "reward=score", "trainer=text"]


def gym(**changes: Any) -> Gym:
    keys = GymKeys(dataset=FIVE, train_questions=100, test_questions=100, seed=3)  # type: ignore[arg-type]
    return Gym(replace(keys, **changes), WORDS)


def test_questions_are_those_of_the_library_and_none_is_on_both_sides() -> None:
    import reasoning_gym

    task, again = gym(), gym()
    assert task.list == again.list != gym(seed=4).list
    train, test = task.list[:task.epoch_size], task.list[task.epoch_size:]
    assert len(train) == len(test) == 100
    assert {one.question for one in train}.isdisjoint(one.question for one in test)
    assert [one.subject for one in train[::20]] == FIVE
    for one in (train[::20] + test[::20]):  # the first of each generator
        source, _ = task._entries[one.id]
        fresh = reasoning_gym.create_dataset(one.subject, seed=source.seed)[0]
        assert (fresh["question"], fresh["answer"]) == (one.question, task.gold(one))


def test_scores_are_the_librarys_own_on_two_hundred_answers() -> None:
    """Right ones, those of other questions, and broken ones, as they stand between the tags."""
    import reasoning_gym

    task = gym()
    problems, scores = task.encode(range(len(task.list))), []
    said = []
    for i, one in enumerate(task.list):
        gold = task.gold(one)
        said.append([gold, gold[::-1], task.gold(task.list[i - 1]), f"{gold} or so"][i % 4])
        library = reasoning_gym.create_dataset(one.subject)
        scores.append(float(library.score_answer(said[-1], task._entries[one.id][1])))
    texts = [f"Let me see. <answer>{text}</answer>" for text in said]
    found = task.judge(problems, texts, [False] * len(texts))
    assert len(texts) == 200 and found[:, 0].tolist() == pytest.approx(scores)
    assert found[::4, 0].eq(1).all() and len({*scores}) > 2  # some are between
    assert ((found[:, 1] == 0) == (found[:, 0] == 1)).all()


def test_what_the_library_fails_at_is_wrong() -> None:
    task = gym(dataset="prime_factorization", train_questions=1, test_questions=1)
    assert [task.score(task.list[0], text) for text in (task.gold(task.list[0]), "zz")] == [
        1, 0]


@pytest.mark.parametrize("words, line", [
    (["task.dataset=countdwn"], "task.dataset=countdwn: found no such generator (did you mean "
     "countdown?); legal: ab, acre, "),
    (["task.options={nubmers: 3}"], "task.options.nubmers: found no such option of countdown"),
    (["task.options={min_numbers: 9}"], "task.dataset=countdown: cannot be drawn from with "
     "task.options={'min_numbers': 9} (AssertionError: "),
    (["task.dataset=[]"], "task.dataset=[]: found no generator; legal: one or more of"),
    (["task.data=x.csv"], "task.data=x.csv: found ")])
def test_bad_keys_get_one_line(words: list[str], line: str, door: Door) -> None:
    code, _, err = door(*ASK, *words)
    assert code == 2 and err.startswith(f"error: {line}") and err.count("\n") == 1


def test_short_questions_as_characters() -> None:
    task = GymToy(dataset="basic_arithmetic", options={"max_terms": 2}, longest=40, held_out=0.2,
                  test_questions=50, data=None, check="off")
    one = next(problem for side, problem in task.problems() if side == "test")
    tokens = task.test().question[0].tolist()
    assert task.vocabulary.text([token for token in tokens if token]) == one.question
    assert len(tokens) == 40 and len(task.problems()) == 100
    sides = {split: {p.question for side, p in task.problems() if side == split}
             for split in ("train", "test")}
    assert sides["train"].isdisjoint(sides["test"])


def test_long_questions_are_refused_with_their_length(door: Door) -> None:
    code, _, err = door("task=gym_toy", "task.dataset=countdown", "variant=[think]")
    assert code == 2 and err.startswith("error: task.dataset=countdown: found questions of 3")
    assert "legal: at most 80, as of another generator" in err and err.count("\n") == 1
