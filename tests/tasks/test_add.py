"""Sums: what they look like as tokens, which are held out, and how they travel through files.

Token ids: 0 padding, 1..10 the digits 0..9, 11 `+`, 12 `=`, then the answers 0, 1, ... from 13 on
(where answers are one token), then end-of-thought, then the thoughts 0, 1, ...
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ponder.config.errors import UserError
from ponder.tasks.base import write_problems
from ponder.tasks.toy.add import Add
from support.small import generator, make_task


def encoded(numbers: list[int], **changes) -> tuple[list[int], list[int], list[int] | None]:
    """Question, answer and gold thought of one problem, as token ids."""
    task = make_task(terms=len(numbers), **changes)
    problems = task.encode(torch.tensor([numbers]))
    thought = problems.thought
    return (problems.question[0].tolist(), problems.answer[0].tolist(),
            None if thought is None else thought[0].tolist())


def digits(thought: list[int] | None, task_end: int) -> list[int]:
    """A gold thought as the digits it spells, checked to end in end-of-thought."""
    assert thought is not None and thought[-1] == task_end
    return [token - task_end - 1 for token in thought[:-1]]


# --- tokens, by hand ----------------------------------------------------------------------------


def test_31_plus_84_is_15_modulo_100() -> None:
    question, answer, thought = encoded([31, 84])
    assert question == [4, 2, 11, 9, 5, 12]  # 3 1 + 8 4 =
    assert answer == [13 + 15]
    assert thought == [114 + 1, 114 + 5, 113]  # 12 signs and 100 answers, so the end is 113


def test_31_plus_84_is_115_without_a_modulus() -> None:
    question, answer, thought = encoded([31, 84], modular=False)
    assert question == [4, 2, 11, 9, 5, 12]
    assert answer == [13 + 115]
    assert digits(thought, 13 + 199) == [1, 1, 5]  # answers 0 .. 198


def test_numbers_are_padded_with_zeros() -> None:
    question, answer, thought = encoded([7, 0], max=1000)
    assert question == [1, 1, 8, 11, 1, 1, 1, 12]  # 0 0 7 + 0 0 0 =
    assert answer == [13 + 7]
    assert digits(thought, 13 + 1000) == [0, 0, 7]


@pytest.mark.parametrize("order, expected", [("most", [1, 1, 5]), ("least", [5, 1, 1])])
def test_answers_and_thoughts_as_digits(order: str, expected: list[int]) -> None:
    _, answer, thought = encoded([31, 84], modular=False, answer="digits", order=order)
    assert answer == [1 + digit for digit in expected]
    assert digits(thought, 13) == expected


def test_three_terms() -> None:
    question, answer, thought = encoded([7, 8, 9], max=10)
    assert question == [8, 11, 9, 11, 10, 12]  # 7 + 8 + 9 =
    assert answer == [13 + 4]
    assert digits(thought, 13 + 10) == [4]


@pytest.mark.parametrize("limit, numbers, answer, spelled", [
    (12, [11, 11], 10, [1, 0]),       # 22 - 12
    (60, [59, 59], 58, [5, 8]),       # 118 - 60
    (11, [10, 10], 9, [0, 9]),        # 20 - 11, the largest answer has two digits
    (2, [1, 1], 0, [0]),
])
def test_a_modulus_that_is_no_power_of_ten(limit: int, numbers: list[int], answer: int,
                                           spelled: list[int]) -> None:
    question, found, thought = encoded(numbers, max=limit)
    assert len(question) == 2 * (len(str(limit - 1)) + 1)
    assert found == [13 + answer]
    assert digits(thought, 13 + limit) == spelled


@pytest.mark.parametrize("numbers, changes, columns", [
    # units: 8 + 7 = 15, digit 5 carry 1; tens: 5 + 6 + 1 = 12, digit 2 carry 1
    ([58, 67], {}, [5, 1, 2, 1]),
    ([58, 67], {"modular": False}, [5, 1, 2, 1]),
    ([12, 34], {}, [6, 0, 4, 0]),
    # 27, digit 7 carry 2; 27 + 2 = 29, digit 9 carry 2
    ([99, 99, 99], {}, [7, 2, 9, 2]),
    # 90 + 0, digit 0 carry 9; 90 + 9 = 99, digit 9 carry 9: ten terms are the most
    ([99] * 10, {}, [0, 9, 9, 9]),
    # 15, digit 5 carry 1; 5 + 4 + 1 = 10, digit 0 carry 1; 105 - 60 = 45 is spelled out
    ([58, 47], {"max": 60}, [5, 1, 0, 1, 4, 5]),
    ([58, 47], {"max": 60, "order": "least"}, [5, 1, 0, 1, 5, 4]),
    ([58, 47], {"max": 60, "modular": False}, [5, 1, 0, 1]),
])
def test_scratchpads(numbers: list[int], changes: dict, columns: list[int]) -> None:
    _, _, thought = encoded(numbers, gold="scratchpad", answer="digits", **changes)
    assert digits(thought, 13) == columns
    keys = make_task(terms=len(numbers), gold="scratchpad", **changes).config
    assert Add.longest_thought(keys) == len(columns)


@pytest.mark.parametrize("limit", [2, 10, 11, 60, 100, 101, 1000])
@pytest.mark.parametrize("terms", [2, 3, 5])
@pytest.mark.parametrize("modular", [True, False])
@pytest.mark.parametrize("gold", ["digits", "scratchpad"])
def test_the_length_of_gold_thoughts_is_known_before_the_task(limit: int, terms: int, modular: bool,
                                                              gold: str) -> None:
    task = make_task(max=limit, terms=terms, modular=modular, gold=gold, answer="digits")
    thought = task.sample(2, generator()).thought
    assert thought is not None
    assert thought.shape[1] == Add.longest_thought(task.config) + 1


def test_no_gold_thoughts_without_tokens_to_spell_them() -> None:
    assert encoded([31, 84], gold="none")[2] is None
    assert make_task(thoughts=9).sample(2, generator()).thought is None
    assert make_task(thoughts=10).sample(2, generator()).thought is not None


def test_labels_and_features_of_answers() -> None:
    problems = make_task(max=1000).encode(torch.tensor([[700, 38], [999, 2]]))
    assert problems.label is not None and problems.label.tolist() == [738, 1]
    assert {name: value.tolist() for name, value in problems.features.items()} == {
        "units": [8, 1], "tens": [3, 0], "hundreds": [7, 0]}
    assert make_task(max=20_000).labels == 20_000
    assert make_task(max=20_001).labels is None


# --- the split ----------------------------------------------------------------------------------


def numbers_of(question: torch.Tensor, terms: int) -> torch.Tensor:
    """Question tokens (N, Q) back as numbers (N, terms)."""
    rows = (question - 1).view(len(question), terms, -1)[:, :, :-1]
    return (rows * 10 ** torch.arange(rows.shape[2] - 1, -1, -1)).sum(2)


def as_set(question: torch.Tensor, terms: int = 2) -> set[tuple[int, ...]]:
    """Questions without the order of their numbers."""
    return {tuple(sorted(row)) for row in numbers_of(question, terms).tolist()}


@pytest.mark.parametrize("changes", [
    {}, {"max": 10}, {"max": 1000}, {"terms": 5, "max": 10}, {"split": "systematic"},
    {"max": 10**12, "answer": "digits"}, {"held_out": 0.5, "terms": 3},
])
def test_train_and_test_are_disjoint_even_with_the_numbers_swapped(changes: dict) -> None:
    task = make_task(**changes)
    terms = task.config.terms
    train = as_set(task.sample(5000, generator()).question, terms)
    assert train and not train & as_set(task.test().question, terms)


def test_train_and_test_together_are_all_questions() -> None:
    task = make_task(max=20, test_questions=1000)
    train = as_set(task.sample(20_000, generator()).question)
    test = as_set(task.test().question)
    assert len(train | test) == 20 * 21 // 2  # unordered pairs with repetition


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.2, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_held_out_is_near_what_was_asked(share: float, seed: int) -> None:
    task = make_task(max=1000, held_out=share, seed=seed)
    # about half a million unordered pairs, so four standard errors are at most 0.003
    assert float(task.are_held_out(task._all()).double().mean()) == pytest.approx(share, abs=0.003)


def by_hand(numbers: list[int], seed: int, share: float) -> bool:
    """The hash that decides, in Python's own integers (SplitMix64's finaliser)."""
    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    state = seed + 1
    for number in sorted(numbers):
        state = mix((state * 0x9E3779B9 + number + 0x7F4A7C15) % 2**64)
    return state % 2**52 / 2**52 < share


@pytest.mark.parametrize("limit, terms", [(100, 2), (10**12, 2), (1000, 5)])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_the_hash_it_says(limit: int, terms: int, seed: int) -> None:
    task = make_task(max=limit, terms=terms, seed=seed, answer="digits")
    numbers = torch.randint(limit, (300, terms), generator=generator())
    expected = [by_hand(row, seed, 0.2) for row in numbers.tolist()]
    assert task.are_held_out(numbers).tolist() == expected
    assert 30 < sum(expected) < 90


def test_a_systematic_split_holds_out_whole_combinations_of_unit_digits() -> None:
    task = make_task(split="systematic", test_questions=10_000)

    def units(question: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(sorted(row)) for row in (numbers_of(question, 2) % 10).tolist()}

    train = units(task.sample(20_000, generator()).question)
    test = units(task.test().question)
    assert not train & test
    assert len(train) + len(test) == 55  # unordered pairs of digits
    assert 4 <= len(test) <= 20


def test_the_seed_decides_the_test_questions() -> None:
    first, again, other = (make_task(seed=seed).test() for seed in (3, 3, 4))
    assert torch.equal(first.question, again.question) and torch.equal(first.answer, again.answer)
    assert as_set(first.question) != as_set(other.question)


def test_the_generator_decides_the_training_questions() -> None:
    task = make_task()
    first, again, other = (task.sample(50, generator(seed)).question for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_training_questions_are_drawn_evenly() -> None:
    task = make_task(max=10)
    numbers = numbers_of(task.sample(20_000, generator()).question, 2)
    counts = torch.bincount(numbers[:, 0] * 10 + numbers[:, 1], minlength=100)
    drawn = counts[counts > 0]
    mean = 20_000 / len(drawn)
    assert len(drawn) == 100 - int(task.are_held_out(task._all()).sum())
    assert (drawn - mean).abs().max() < 5 * mean**0.5


@pytest.mark.parametrize("limit", [10, 10**12])
def test_no_more_test_questions_than_asked_for(limit: int) -> None:
    assert len(make_task(max=limit, answer="digits", test_questions=7).test()) == 7


def test_huge_numbers_add_up() -> None:
    task = make_task(max=10**12, terms=5, answer="digits", modular=False)
    problems = task.sample(64, generator())
    totals = [sum(row) for row in numbers_of(problems.question, 5).tolist()]
    found = ["".join(str(token - 1) for token in row) for row in problems.answer.tolist()]
    assert [int(word) for word in found] == totals
    assert {len(word) for word in found} == {13}  # 5 * (10**12 - 1) has 13 digits
    assert max(totals) > 2**41


@pytest.mark.slow
@pytest.mark.parametrize("changes, line", [
    ({"held_out": 1e-9}, "task.held_out=1e-09: found that it holds out no question of this task; "
     "legal: a larger share, or another task.seed"),
    ({"held_out": 1e-9, "max": 10**6, "answer": "digits"}, "task.held_out=1e-09: found that it "
     "holds out no question of this task; legal: a larger share, or another task.seed"),
])
def test_a_share_that_holds_out_nothing_is_refused(changes: dict, line: str) -> None:
    with pytest.raises(UserError) as error:
        make_task(**changes, test_questions=10).test()
    assert str(error.value) == line


def test_a_share_that_leaves_nothing_to_learn_is_refused() -> None:
    seed = next(seed for seed in range(100)
                if all(by_hand([a, b], seed, 0.9) for a, b in ((0, 0), (0, 1), (1, 1))))
    with pytest.raises(UserError, match="holds out every question of this task; legal: a smaller"):
        make_task(max=2, held_out=0.9, seed=seed)


# --- files --------------------------------------------------------------------------------------


def from_file(path: Path, thoughts: int = 10, **changes) -> Add:
    return make_task(thoughts, data=str(path), **changes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("changes", [
    {"max": 20}, {"max": 12, "terms": 3, "modular": False, "answer": "digits"},
    {"max": 20, "split": "systematic"}, {"max": 10**12, "answer": "digits"},
])
def test_problems_survive_a_file(suffix: str, changes: dict, tmp_path: Path) -> None:
    task = make_task(**changes, test_questions=50)
    path = tmp_path / "deep" / f"problems.{suffix}"
    write_problems(path, task.problems())
    again = from_file(path, **changes, test_questions=50)
    terms = task.config.terms
    first, second = task.test(), again.test()
    assert as_set(first.question, terms) == as_set(second.question, terms)
    if task._few():
        assert torch.equal(first.question, second.question)
        assert torch.equal(first.answer, second.answer)
    assert again.problems() == task.problems()
    train = as_set(again.sample(2000, generator()).question, terms)
    assert train and not train & as_set(second.question, terms)


@pytest.mark.slow
def test_a_row_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    write_problems(path, make_task().problems())
    table = pd.read_csv(path, dtype=str)
    assert len(table) == 100 * 100
    row = table[table.question == "31+84="].iloc[0]
    assert (row.answer, row.thought) == ("15", "<t1><t5>")
    assert row.split == ("test" if by_hand([31, 84], 0, 0.2) else "train")
    assert sorted(table.columns) == ["answer", "question", "split", "thought"]


def test_thoughts_are_left_empty_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    write_problems(path, make_task(max=10, gold="none").problems())
    assert pd.read_csv(path).thought.isna().all()
    assert from_file(path, max=10, gold="none").test().thought is None


def test_a_file_without_splits_is_split_like_the_task(tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(
        f"{a}+{b},{(a + b) % 10}\n" for a in range(10) for b in range(10)))
    task, again = make_task(max=10), from_file(path, max=10)
    assert torch.equal(task.test().question, again.test().question)


def test_the_file_has_the_last_word_about_answers(tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    path.write_text("question,answer,split\n1+1=,3,train\n 1 + 2 = , 7 ,test\n")
    task = from_file(path, max=10)
    assert task.sample(3, generator()).answer.tolist() == [[13 + 3]] * 3
    assert task.test().question.tolist() == [[2, 11, 3, 12]]
    assert task.test().answer.tolist() == [[13 + 7]]


def test_answers_of_the_file_are_compared_with_the_sums(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,answer,split\n31+84=,15,train\n1+2=,4,train\n3+4=,07,test\n9+9=,1,test\n")
    found = (f"task.data={path}: found 2 of 4 rows with another answer than task=add has (first "
             "1+2= 4, which is 3)")
    assert make_task(0, data=str(path)).doubts == (f"{found}; they are taken as they are",)
    assert make_task(0, data=str(path), check="off").doubts == ()
    with pytest.raises(UserError) as error:
        make_task(0, data=str(path), check="refuse")
    assert str(error.value) == f"{found}; legal: right answers, or task.check=warn, off"
    path.write_text("question,answer,split\n31+84=,115,train\n1+2=,3,test\n")
    assert make_task(0, data=str(path), modular=False).doubts == ()


def test_whole_numbers_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "problems.parquet"
    pd.DataFrame({"question": ["1+1=", "1+2="], "answer": [2, 3],
                  "split": ["train", "test"]}).to_parquet(path)
    assert from_file(path, max=10).test().answer.tolist() == [[13 + 3]]


def test_evaluation_takes_a_random_part_of_a_large_file(tmp_path: Path) -> None:
    """Not its first rows: those of a sorted file are all alike."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer,split\n0+0=,0,train\n" + "".join(
        f"{a}+0=,{a},test\n" for a in range(100)))
    answers = (from_file(path, test_questions=20).test().answer - 13).flatten()
    assert len(answers) == len(answers.unique()) == 20
    assert answers.min() < 20 and answers.max() > 80


@pytest.mark.parametrize("content, line", [
    ("question,answer\n1+1=,3\n1+x=,2\n", ", line 3: found question '1+x=' and answer '2'; legal: "
     "2 whole numbers joined by +, and a whole number"),
    ("question,answer\n1+1+1=,3\n", ", line 2: found question '1+1+1=' and answer '3'; legal: 2 "
     "whole numbers joined by +, and a whole number"),
    ("question,answer\n1+1=,\n", ", line 2: found question '1+1=' and answer ''; legal: 2 whole "
     "numbers joined by +, and a whole number"),
    ("question,answer\n1+1=,2.0\n", ", line 2: found question '1+1=' and answer '2.0'; legal: 2 "
     "whole numbers joined by +, and a whole number"),
    ("question,answer\n1+-1=,0\n", ", line 2: found question '1+-1=' and answer '0'; legal: 2 "
     "whole numbers joined by +, and a whole number"),
    ("question,answer\n1+²=,3\n", ", line 2: found question '1+²=' and answer '3'; legal: 2 whole "
     "numbers joined by +, and a whole number"),
    ("question,answer\n1+10=,3\n", ", line 2: found question '1+10=' and answer '3'; legal: "
     "numbers below task.max=10, answers up to 9"),
    ("question,answer\n1+1=,10\n", ", line 2: found question '1+1=' and answer '10'; legal: "
     "numbers below task.max=10, answers up to 9"),
    ("question,answer\n99999999999999999999+1=,1\n", ", line 2: found question "
     "'99999999999999999999+1=' and answer '1'; legal: numbers below task.max=10, answers up to 9"),
    ("question,answer,split\n1+1=,2,train\n1+2=,3,tset\n", ", line 3: found split 'tset'; legal: "
     "train, test"),
    ("question,answer,split\n1+1=,2,train\n", ": found no test problems; legal: a column split "
     "with train and test in it, or another task.held_out"),
    ("question,answer,split\n1+1=,2,test\n", ": found no train problems; legal: a column split "
     "with train and test in it, or another task.held_out"),
    ("question,split\n1+1=,test\n", ": found columns question, split, but not answer; legal: "
     "question, answer"),
    ("a\n1\n", ": found columns a, but not question, answer; legal: question, answer"),
    ("question,answer\n", ": found no rows; legal: at least one problem"),
    ("", ": found no rows; legal: at least one problem"),
    ('question,answer\n"1\n+1=",2\n1+1=\n', ", line 4: found 1 cells; legal: 2, as in the first "
     "line"),
])
def test_a_wrong_file_gets_one_line(content: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        from_file(path, max=10)
    assert str(error.value) == f"{path}{line}"


@pytest.mark.parametrize("name, content", [
    ("x.parquet", b"no parquet at all"), ("x.parquet", b""), ("x.csv", b"\xff\xfe\x00\x01\x02"),
    ("x.csv", b'question,answer\n"1+1=,2\n'), ("x.csv", b"question,answer\n1,2,3,4\n5\n1,2,3,4,5"),
    ("x.json", b"{}"),
])
def test_garbage_gets_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        from_file(path, max=10)
    line = str(error.value)
    assert re.match(rf"{re.escape(str(path))}(, line \d)?: ", line)
    assert "legal: " in line and "\n" not in line
    assert len(line) < len(str(path)) + 200


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(UserError, match=r"x\.csv: cannot be read"):
        from_file(tmp_path / "x.csv", max=10)


def test_a_configuration_may_be_any_copy() -> None:
    """Nothing is kept between tasks: the same configuration gives the same task twice."""
    config = make_task(max=30).config
    assert Add(config, 10).problems() == Add(replace(config), 10).problems()
