"""Free answers: files in the format of GSM8K and MATH, verifiers, and what evaluations report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ponder.config.registry import VERIFIERS
from ponder.core.types import Problems
from ponder.evaluation.choice import evaluate_text
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rewards.answers import Judged
from ponder.rollouts import sampled
from ponder.tasks.choice.free import Free, free_questions
from ponder.tasks.choice.questions import Question
from support.questions import WORDS, free, language_model, stories_file
from support.small import Door

ASK = ["task=free", "variant=[think]", "model=hf", "model.name=model", "rollout=sample",
       "reward=exact_match", "trainer=text"]


def rows(path: Path, *given: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def thoughts(*texts: str, room: int = 60) -> torch.Tensor:
    """The tokens of written texts (B, room + 1), with their ends."""
    tokens = [[*WORDS.encode(text), WORDS.end] for text in texts]
    return torch.tensor([row[:room + 1] + [WORDS.pad] * (room + 1 - len(row)) for row in tokens])


def policy_of(task: Free, room: int = 60) -> ChoicePolicy:
    return ChoicePolicy(Model(language_model(), len(WORDS)), WORDS, Rules(room, True), "generated",
                        reads=task.judge)


# --- files --------------------------------------------------------------------------------------


def test_a_hundred_questions_in_the_format_of_gsm8k(tmp_path: Path) -> None:
    task = free(stories_file(tmp_path / "x.jsonl"), verify="number")
    assert len(task.list) == 100 and len({one.question for one in task.list}) == 100
    first = next(one for one in task.list if one.id == "0")
    assert first == Question(
        "0", "Ama has 3 boxes with 7 pens each and gives 2 away. How many pens are left?", ("19",),
        0, rationale="There are 3 * 7 = <<3*7=21>>21 pens.\n21 - 2 = 19 are left.")
    for one in task.list:  # each is solved again from the numbers of its question
        a, b, c = map(int, re.findall(r"\d+", one.question))  # in the order of its words
        known = {"boxes": a * b - c, "ticket": a * b + c, "walks": a * b + c, "colder": a - b * c}
        right = next(value for word, value in known.items() if word in one.question)
        assert int(task.gold(one).replace(",", "")) == right
        texts = [f"{one.rationale}\n#### {task.gold(one)}", f"The answer is {right + 1}.", "Hm."]
        assert task.judge(task.encode([task.list.index(one)]), texts, [False] * 3).tolist() == [
            [1, 0], [0, 2], [0, -1]]


def test_other_columns(tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", {"problem": "1+1?", "solution": r"So \boxed{2}.", "level": 1},
                {"problem": "Half?", "solution": r"It is \boxed{\frac{1}{2}}", "level": 5})
    assert [one.choices for one in free(path, held_out=0.5, seed=3).data()] == [
        ("2",), (r"\frac{1}{2}",)]
    found = free_questions("x", [("x, line 2", {"Question": "Red?", "Answer": 7, "Thought": "So.",
                                                "split": "test", "id": "q"})])
    assert found == [Question("q", "Red?", ("7",), 0, split="test", rationale="So.")]


@pytest.mark.parametrize("row, line", [
    ({"question": "Q"}, ": found columns question, but not answer; legal: question, answer"),
    ({"question": "Q", "problem": "P", "answer": "1"},
     ": found columns question and problem; legal: one of them"),
    ({"question": "Q", "answer": ""}, ", line 1: found no answer; legal: text"),
    ({"question": " ", "answer": "1"}, ", line 1: found no question; legal: text"),
    ({"question": "Q", "answer": "So it is.\n#### "}, ", line 1: found no answer; legal: text"),
    ({"question": "Q", "solution": r"\boxed{3"}, ", line 1: found no answer; legal: text"),
    ({"question": "Q", "answer": ["1", "2"]},
     ", line 1: found answer ['1', '2']; legal: text"),
    ({"question": "Q", "answer": "five"}, ", line 1: found answer 'five', with task.verify=number; "
     "legal: a number, or another task.verify"),
    ({"question": "Q", "answer": "1", "split": "tset"}, ", line 1: found split 'tset'; legal: "
     "train, dev, auxiliary_train, test, val, validation")])
def test_a_bad_file_gets_one_line_before_a_model_is_looked_for(row: dict, line: str, door: Door,
                                                               ) -> None:
    path = rows(Path("x.jsonl"), row)
    code, _, err = door(*ASK, "task.data=x.jsonl", "task.verify=number")
    assert (code, err) == (2, f"error: {path}{line}\n")


@pytest.mark.parametrize("words, line", [
    ([], "task.data=null: found no questions; legal: task.data=<file>.csv, .jsonl, .parquet"),
    (["task.data=none.csv"], "task.data=none.csv: found no such table; legal: a file that ends in "
     ".csv, .jsonl or .parquet"),
    (["task.data=x.jsonl", "task.verify=nunber"], "task.verify=nunber: found 'nunber' (did you "
     "mean number?); legal: exact, math, number"),
    (["task.data=x.jsonl", "task.parser=number"], "task.verify=exact: found task.parser=number, "
     "which reads 5 where the text says 5.0; legal: task.verify=number"),
    (["task.data=x.jsonl", "variant=[]", "thinker.tokens=0"], "task.answer=generated: found no "
     "thoughts, so no text that says the answer; legal: with think, as in think=true"),
    (["task.data=x.jsonl", "reward=gold_thought"], "reward=gold_thought: found task=free, but it "
     "needs gold thoughts")])
def test_bad_keys_get_one_line(words: list[str], line: str, door: Door) -> None:
    stories_file(Path("x.jsonl"), 8)
    code, _, err = door(*ASK, *words)
    assert code == 2 and err.startswith(f"error: {line}") and err.count("\n") == 1


# --- prompts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parser, end", [
    ("auto", "are left. The answer is 19."), ("boxed", "are left. \\boxed{19}"),
    ("last_line", "are left.\n19")])
def test_worked_examples_end_as_the_parser_wants_it(parser: str, end: str, tmp_path: Path) -> None:
    shown = rows(tmp_path / "shots.jsonl", *({
        "question": f"19 plus {i} minus {i}?", "answer": "19 are left.\n#### 19"} for i in (1, 2)))
    task = free(stories_file(tmp_path / "x.jsonl", 8), parser=parser, shots=1,
                shots_data=str(shown))
    text = WORDS.text(task.encode([0]).question[0].tolist())
    assert text.startswith("Think step by step about the following question, then ")
    assert text.endswith(f"{end}\nQuestion: {task.list[0].question}\n") and "A." not in text
    assert task._read(f"So {end}", False).text == "19"
    hinted = WORDS.text(task.hinted(task.encode([0])).question[0].tolist())
    assert hinted.endswith(f"(Hint: the right answer is: {task.gold(task.list[0])})\n")


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verifier, said, answer, right", [
    ("exact", "**New  York**.", "new york", True), ("exact", r"\text{red}", "Red", True),
    ("exact", "5.0", "5", False), ("exact", "no", "yes", False), ("number", "5.0 km", "5", True),
    ("number", "1/2", "0.5", True), ("number", "0.333", "1/3", False), ("number", "x", "5", False)])
def test_verifiers(verifier: str, said: str, answer: str, right: bool) -> None:
    assert VERIFIERS[verifier].target(said, answer) is right


@pytest.mark.parametrize("said, answer, right", [
    (r"\frac{2}{4}", "0.5", True), ("x^2 + 2x + 1", "(x+1)^2", True),
    (r"\{2, 1\}", r"\{1,2\}", True),
    (r"2\sqrt{2}", r"\sqrt{8}", True), ("3", "4", False), ("[0, 1)", "[0, 1]", False),
    ("((", "1", False)])
def test_mathematics(said: str, answer: str, right: bool) -> None:
    pytest.importorskip("math_verify")
    assert VERIFIERS["math"].target(said, answer) is right


class Fixed:
    """A source of given texts."""

    def __init__(self, thought: torch.Tensor, samples: int) -> None:
        self.thought, self.samples = thought, samples

    def collect(self, policy: ChoicePolicy, problems: Problems, *given: object):
        rollouts = sampled(problems, self.samples, self.thought,
                           torch.zeros(self.thought[:, 1:].shape))
        answered = policy.judge_thoughts(problems, self.thought, self.samples)
        return rollouts.__class__(**{**vars(rollouts), "answered": answered})


def test_an_evaluation_reports_what_it_does_of_choices(tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", *({"question": f"{i}?", "answer": i, "split": split}
                                        for i, split in ((0, "train"), (7, "test"), (8, "test"))))
    task = free(path, verify="number")
    thought = thoughts("The answer is 7.", "Answer: 7 apples", "\\boxed{6}", "6 or 7",
                       "Answer: 9", "Answer: 9.0", "Answer: 8", "Answer: 8\n" + "x" * 99)
    found = evaluate_text(policy_of(task), task, task.test(), Fixed(thought, 4))  # type: ignore[arg-type]
    assert {name: found.metrics[name] for name in (
        "accuracy", "chance", "pass@4", "majority@4", "text/unparsable", "text/truncated")} == {
        "accuracy": pytest.approx(4 / 8), "chance": 0, "pass@4": 1, "majority@4": 0.75,
        "text/unparsable": pytest.approx(1 / 8), "text/truncated": pytest.approx(1 / 8)}
    assert not any(name.startswith(("necessity", "letter")) for name in found.metrics)
    assert [(row["answer"], row["gold"], row["correct"], row["unread"]) for row in found.rows] == [
        ("7", "7", 1, ""), ("7", "7", 1, ""), ("6", "7", 0, ""), ("", "7", 0, "several"),
        ("9", "8", 0, ""), ("9", "8", 0, ""), ("8", "8", 1, ""), ("8", "8", 1, "")]


def test_a_score_between_is_paid_and_not_right(tmp_path: Path) -> None:
    task = free(stories_file(tmp_path / "x.jsonl", 8))
    task.score = lambda question, said: 0.25 if said == "1" else 1.0  # type: ignore[method-assign]
    policy, problems = policy_of(task), task.encode([0])
    thought = thoughts("Answer: 1", "Answer: 2", "")
    judged = Judged(policy, sampled(problems, 3, thought, torch.zeros(3, 60)))
    assert judged.score.tolist() == [0.25, 1, 0] and judged.right.tolist() == [False, True, False]
