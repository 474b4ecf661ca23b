"""`ToyTask`: tokens by hand, the split, files, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import keys_of
from ponder.core.types import Problem
from ponder.tasks.base import write_problems
from ponder.tasks.toy.base import ToyTask
from ponder.tasks.toy.survey import survey
from support.small import generator


class Parity(ToyTask):
    """Whether the number of ones is odd."""

    bits: int = option(4, "bits of a question", low=2)

    def problem(self, random: Random) -> Problem:
        x = random.choices("01", k=self.bits)
        running = [str(x[:i + 1].count("1") % 2) for i in range(self.bits)]
        return Problem(" ".join(x), running[-1], " ".join(running[:-1]))


class Sort(ToyTask):
    """One to four letters in order; no gold thought, and too many answers to number."""

    characters = True

    def problem(self, random: Random) -> Problem:
        x = random.choices("abcdefgh", k=random.randint(1, 4))
        return Problem("".join(x), "".join(sorted(x)))

    def easier(self, problem: Problem) -> Problem:
        return Problem(problem.question[:1], problem.question[:1])


for kind in (Parity, Sort):
    keys_of(kind, "task", kind.__name__.lower())


def test_a_problem_by_hand() -> None:
    """Ids: 0 padding, 1 and 2 the symbols 0 and 1, 3 end-of-thought, 4 and 5 their thoughts."""
    task = Parity(thoughts=10)
    problems = task.encode_problems([Problem("0 1 1 0", "0", "0 1 0")])
    assert problems.question.tolist() == [[1, 2, 2, 1]]
    assert problems.answer.tolist() == [[1]]
    assert problems.thought is not None and problems.thought.tolist() == [[4, 5, 4, 3]]
    assert problems.label is not None and problems.label.tolist() == [0]
    assert (task.labels, task.question_length, task.answer_length, task.thought_length) == (
        2, 4, 1, 3)
    assert task.vocabulary.text([1, 2, 2, 1]) == "0110"


def test_questions_are_padded_on_the_left_and_answers_on_the_right() -> None:
    """a..h are 1..8."""
    problems = Sort().encode_problems([Problem("ba", "ab")])
    assert problems.question.tolist() == [[0, 0, 2, 1]]
    assert problems.answer.tolist() == [[1, 2, 0, 0]]
    assert problems.padded and problems.thought is None and problems.label is None


def test_no_gold_thoughts_without_tokens_to_write_them() -> None:
    problem = Problem("0 1 1 0", "0", "0 1 0")
    assert Parity(thoughts=1).encode_problems([problem]).thought is None


@pytest.mark.slow
def test_the_two_sides_are_disjoint_and_together_all_questions() -> None:
    """6 bits make 64 questions."""
    task = Parity(bits=6, thoughts=2)
    sides = {split: {one.question for side, one in task.problems() if side == split}
             for split in ("train", "test")}
    assert len(sides["train"] | sides["test"]) == 64 and not sides["train"] & sides["test"]
    sampled = {" ".join(str(symbol - 1) for symbol in row)
               for row in task.sample(5000, generator()).question.tolist()}
    assert sampled == sides["train"]


@pytest.mark.slow
def test_the_seed_decides_everything() -> None:
    one, same, other = Parity(bits=8), Parity(bits=8), Parity(bits=8, seed=1)
    assert one.problems() == same.problems() != other.problems()
    first, second = (task.sample(9, generator()).question for task in (one, same))
    assert torch.equal(first, second)
    assert one.vocabulary == other.vocabulary


def test_typed_questions() -> None:
    assert Parity().encode_question(" 0 1 1 0") == Parity().encode_question("0110") == (
        [1, 2, 2, 1], 1)
    for text in ("012", "01", ""):
        with pytest.raises(UserError, match=f"prompt={text}: found"):
            Parity().encode_question(text)


@pytest.mark.slow
def test_files_there_and_back(tmp_path: Path) -> None:
    task = Parity(thoughts=2)
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        write_problems(tmp_path / name, task.problems())
        read = Parity(thoughts=2, data=str(tmp_path / name))
        assert read.problems() == task.problems()
        assert len(read.test()) == sum(split == "test" for split, _ in task.problems())


@pytest.mark.parametrize("row, found", [
    ({"question": "0 1 2 0", "answer": "0"}, "line 2: .*found question symbol '2'"),
    ({"question": "0 1 1 0 0", "answer": "0"}, "line 2: .*found a question of 5 symbols"),
    ({"question": "0 1 1 0", "answer": "0", "split": "dev"}, "line 2: found split 'dev'"),
    ({"question": "0 1 1 0", "answer": "0", "split": "train"}, "found no test problems"),
])
def test_files_that_do_not_fit(tmp_path: Path, row: dict[str, str], found: str) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    with pytest.raises(UserError, match=found):
        Parity(data=str(tmp_path / "x.csv"))


def test_an_empty_cell_is_no_thought(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,answer,thought,split\n0 1 1 0,0,0 1 0,train\n0 1 1 1,1,,test\n")
    task = Parity(thoughts=2, data=str(path))
    assert [problem.thought for _, problem in task.problems()] == ["0 1 0", None]
    assert task.test().thought is None and task.sample(1, generator()).thought is not None


def test_evaluation_takes_a_random_part_of_a_table(tmp_path: Path) -> None:
    """Not its first rows: those of a sorted file are all alike."""
    path = tmp_path / "x.csv"
    path.write_text("question,answer,split\n0 0 0 0,0,train\n" + "".join(
        f"{' '.join(f'{n:04b}')},0,test\n" for n in range(16)))
    first = Parity(data=str(path), test_questions=4).test().question[:, 0]
    assert first.shape == (4,) and set(first.tolist()) == {1, 2}  # half of them begin with a 1


def test_training_problems_are_drawn_anew_or_repeated_from_a_pool() -> None:
    class Pooled(Parity):
        pool = 8

    keys_of(Pooled, "task", "pooled")
    for kind, few in ((Parity, False), (Pooled, True)):
        task, random = kind(bits=24), generator()
        seen = {tuple(row) for _ in range(4) for row in task.sample(50, random).question.tolist()}
        assert len(seen) == 8 if few else len(seen) > 190


def test_the_sample_is_drawn_once_for_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    made, problem = [], Parity.problem
    monkeypatch.setattr(Parity, "problem",
                        lambda self, random: made.append(1) or problem(self, random))
    keys = Parity.Keys(seed=0, thought_length=3)
    assert Parity.longest_thought(keys) == 3 and len(made) == 500
    assert Parity(keys, 2).survey is Parity.surveyed(keys) and len(made) < 520


@pytest.mark.parametrize(("problem", "found"), [
    (Problem("0 1", "0"), "found a question of 2 symbols; legal: exactly 4"),
    (Problem("0 1 0 1 1", "0"), "found a question of 5 symbols; legal: exactly 4"),
    (Problem("0 1 1 2", "0"), "found question symbol '2', which none of 500 .*declared as symbols"),
    (Problem("0 1 1 0", "0", "0 x 0"), "found thought symbol 'x'.*declared as thought_symbols"),
    (Problem("0 1 1 0", "0 1"), "found an answer of 2 symbols; legal: at most 1"),
])
def test_a_problem_that_the_sample_has_not_shown(problem: Problem, found: str) -> None:
    with pytest.raises(UserError, match=found):
        Parity(thoughts=2).encode_problems([replace(problem, thought=problem.thought or "0 1 0")])


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(UserError, match=r"task.held_out=1e-12: found that it holds out no"):
        Parity(held_out=1e-12).test()


def test_easier_problems_are_worked_examples() -> None:
    assert "worked_examples" in Sort.offers and "worked_examples" not in Parity.offers
    examples = Sort().examples(20, generator())
    assert (examples.question != 0).sum(1).tolist() == [1] * 20


def test_declared_symbols_lengths_and_answers() -> None:
    class Declared(Parity):
        symbols, thought_symbols = "01x", ("1", "0")
        question_length, answers = 6, ("1", "0")

    keys_of(Declared, "task", "declared")
    task = Declared(thoughts=2)
    problems = task.encode_problems([Problem("0 x", "0", "0 1")])
    assert problems.question.tolist() == [[0, 0, 0, 0, 1, 3]]
    assert problems.thought is not None  # 0 padding, 1 to 3 symbols, 4 the end, 5 is "1", 6 is "0"
    assert problems.thought.tolist() == [[6, 5, 4, 0]]
    assert problems.label is not None and problems.label.tolist() == [1]


@pytest.mark.parametrize(("made", "found"), [
    (lambda: Problem(str(1 // 0), "a"), "ZeroDivisionError"),
    (lambda: Problem("", "a"), "question=''"), (lambda: Problem("a", 3), "answer=3"),
    (lambda: None, "None")])
def test_what_a_problem_cannot_be_is_one_line(made, found: str) -> None:
    class Odd(ToyTask):
        def problem(self, random: Random) -> Problem:
            return made()

    with pytest.raises(UserError) as error:
        survey(Odd.__new__(Odd))
    assert str(error.value).startswith("task=Odd: ") and found in str(error.value)
