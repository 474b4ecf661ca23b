"""Several questions about a rationale that was written about their passage alone."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ponder.config.errors import UserError
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.tasks.choice.passage import Passage, PassageKeys
from support.questions import WORDS, language_model, save_language_model
from support.small import Door, generator

THINGS = ("box", "cup", "jar", "pot")


def file_of(path: Path, passages: int = 10, **changes: str) -> Path:
    """Four questions about each passage, the last of which has three options."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, ["passage", "question", "A", "B", "C", "answer"])
        rows.writeheader()
        for number in range(passages):
            for place, thing in enumerate(THINGS):
                rows.writerow({"passage": f"Passage {number}.", "question": f"The {thing}?",
                               "A": "one", "B": "three", "C": "no" * (place == 3),
                               "answer": "AB"[(number + place) % 2], **changes})
    return path


def made(path: Path, **keys: Any) -> Passage:
    return Passage(replace(PassageKeys(seed=0, asked=3, test_questions=8), data=str(path), **keys),
                   WORDS)


def policy_of(task: Passage, sees_question: bool = False) -> ChoicePolicy:
    net = Model(language_model(), len(WORDS))
    return ChoicePolicy(net, WORDS, Rules(5, True, sees_question), task.config.answer)


@pytest.mark.parametrize("answer", ["cloze", "letter"])
def test_the_prompt_is_the_passage_and_questions_come_after(answer: str, tmp_path: Path) -> None:
    task = made(file_of(tmp_path / "p.csv"), answer=answer)
    problems = task.test()
    asked = task.questions(problems)
    assert problems.answer_prefix is not None and problems.also is None
    for row, question in enumerate(asked):
        prompt = WORDS.text([t for t in problems.question[row].tolist() if t != WORDS.pad])
        bridge = WORDS.text([t for t in problems.answer_prefix[row].tolist() if t != WORDS.pad])
        assert prompt.strip().endswith(f"Text: {question.passage}") and "?" not in prompt
        options = "\nA. one\nB. three" + "\nC. no" * (question.question == "The pot?")
        assert bridge == f"\nQuestion: {question.question}" + options * (
            answer == "letter") + "\nAnswer:"


def test_a_passage_is_held_out_with_all_its_questions(tmp_path: Path) -> None:
    task = made(file_of(tmp_path / "p.csv", 40), test_questions=1000)
    train, test = ({one.passage for one in part} for part in (
        task.list[:task.epoch_size], task.list[task.epoch_size:]))
    assert len(train | test) == 40 and not train & test and 2 < len(test) < 20


def test_others_are_about_the_same_passage(tmp_path: Path) -> None:
    task = made(file_of(tmp_path / "p.csv"))
    pairs: Counter[tuple[str, ...]] = Counter()
    for seed in range(60):
        problems = task.sample(5, generator(seed))
        own, groups = task.questions(problems), [
            task.questions(one) for one in problems.alternatives()]
        assert len(groups) == 2
        for question, *others in zip(own, *groups, strict=True):
            assert {one.passage for one in others} == {question.passage}
            asked = [one.question for one in (question, *others)]
            assert len({*asked}) == 3
            pairs[tuple(asked[1:])] += 1
    assert len(pairs) == 12  # drawn anew, in any order


@pytest.mark.parametrize("answer", ["cloze", "letter"])
@pytest.mark.parametrize("sees_question", [True, False])
def test_a_rationale_is_judged_by_all_its_questions(answer: str, sees_question: bool,
                                                    tmp_path: Path) -> None:
    """The mean of what each question says by itself."""
    task = made(file_of(tmp_path / "p.csv"), answer=answer)
    policy = policy_of(task, sees_question)
    problems = task.sample(4, generator(1))
    thought = torch.randint(3, len(WORDS), (8, 6))
    thought[:, 4] = WORDS.end
    thought[:, 5] = WORDS.pad
    found = policy.judge_thoughts(problems, thought, 2)
    alone = torch.stack([policy.judge_thoughts(task.encode(one.index.tolist()), thought, 2)
                         for one in (replace(problems, also=None), *problems.alternatives())
                         if one.index is not None])
    torch.testing.assert_close(found[:, :2], alone[..., :2].mean(0))
    assert found[:, 2].equal(alone[0, :, 2]) and 0 < found[:, 1].max() <= 1
    assert len({round(float(x), 3) for x in found[:, 1]} - {0.0, 1.0}) > 0  # shares of questions
    other = replace(problems, question=problems.question.flip(0))
    blind = policy.judge_thoughts(other, thought, 2)
    assert torch.allclose(blind, found) is not sees_question


@pytest.mark.parametrize("changes, keys, said", [
    ({"passage": ""}, {}, "found no passage of question 1"),
    ({"passage": "One."}, {}, "found no question to"),  # all on one side
])
def test_bad_files(changes: dict, keys: dict, said: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / "p.csv", **changes)
    with pytest.raises(UserError, match=said):
        Passage.listed(replace(PassageKeys(seed=0, asked=3, data=str(path)), **keys))


def test_a_part_of_the_questions_has_whole_passages(tmp_path: Path) -> None:
    task = made(file_of(tmp_path / "p.csv"), train_questions=8, test_questions=4)
    assert sorted(Counter(one.passage for one in task.list).values()) == [4, 4, 4]
    assert task.list == Passage.listed(task.config)


def test_passages_on_both_sides_are_told(tmp_path: Path) -> None:
    text = file_of(tmp_path / "p.csv").read_text().splitlines()
    rows = [f"{line},{'test' if i % 4 == 1 else 'train'}" for i, line in enumerate(text)]
    (tmp_path / "p.csv").write_text("\n".join([f"{text[0]},split", *rows[1:]]) + "\n")
    assert "8 of" in made(tmp_path / "p.csv").remarks[0]
    assert made(file_of(tmp_path / "q.csv")).remarks == ()


def test_a_table_of_the_problems_can_be_read_again(tmp_path: Path) -> None:
    task = made(file_of(tmp_path / "p.csv"), test_questions=1000)
    rows = [{"question": one.question, "answer": one.answer, "split": split, **one.metadata}
            for split, one in task.problems()]
    with (tmp_path / "again.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]])
        table.writeheader()
        table.writerows(rows)
    again = made(tmp_path / "again.csv", test_questions=1000)
    assert [(one.passage, one.question, one.choices) for one in again.list] == [
        (one.passage, one.question, one.choices) for one in task.list]


def test_more_than_a_passage_has_cannot_be_asked(door: Door) -> None:
    """In training; an evaluation asks a question by itself."""
    file_of(Path("p.csv"))
    words = ["task=passage", "task.data=p.csv", "model=hf", "model.name=model", "variant=[think]",
             "strategy=star", "rollout=sample", "reward=log_likelihood", "trainer=text",
             "thinker.asked=5"]
    code, _, err = door(*words)
    assert code == 2 and err.startswith("error: thinker.asked=5: found task.data=p.csv with 4 "
                                        "training questions about a passage at most; legal: at "
                                        "most 4")
    assert "thinker.asked" not in door(*words, "action=evaluate")[2]


def test_questions_are_typed_below_their_passage() -> None:
    typed = Passage.typed("The cup\nis blue.\nQuestion: Which colour?\nA. red\nB. blue")
    assert (typed.passage, typed.question) == ("The cup\nis blue.", "Which colour?")
    assert typed.choices == ("red", "blue")
    with pytest.raises(UserError, match="legal: the passage, a line Question"):
        Passage.typed("Which colour?\nA. red\nB. blue")


def test_without_thoughts_nothing_can_be_asked_about_them(door: Door) -> None:
    file_of(Path("p.csv"))
    code, _, err = door("task=passage", "task.data=p.csv", "model=hf", "model.name=model",
                        "variant=[]", "thinker.asked=2")
    assert code == 2 and err.startswith("error: thinker.asked=2: found no thoughts; legal: 0, or "
                                        "with think, as in think=true")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["strategy=grpo thinker.asked=3", "strategy=star thinker.asked=2",
                                   "strategy=dpo task.answer=letter variant=[think]"])
def test_they_train(words: str, door: Door) -> None:
    save_language_model(Path("model"))
    file_of(Path("p.csv"))
    code, _, err = door(
        "task=passage", "task.data=p.csv", "task.test_questions=4", "model=hf", "model.name=model",
        "trainer=text", "rollout=sample", "rollout.samples=3", "reward=log_likelihood",
        "thinker.tokens=4", "trainer.gen_batch_size=8", "hydra.run.dir=run", *words.split())
    assert code == 0 and not err, err
