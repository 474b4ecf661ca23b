"""The answers and gold thoughts of the toy tasks, found again by other means."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from ponder.config.registry import TASKS, discover
from ponder.core.types import Problem
from ponder.tasks.base import disagreeing
from support.small import Door

discover(())


def drawn(name: str, count: int = 100, **keys: Any) -> tuple[Any, list[Problem]]:
    """A task and problems of it, half of them one step easier."""
    kind = TASKS[name].target
    if hasattr(kind.Keys, "min_steps"):
        keys = {"min_steps": 1, "steps": 6, **keys}
    task = kind(kind.Keys(name=name, seed=0, thought_length=None, **keys), 64)
    random = Random(1)
    problems = [task.problem(random) for _ in range(count)]
    return task, problems + [task.easier(one) for one in problems]


def test_parity_is_the_number_of_ones() -> None:
    for one in drawn("parity")[1]:
        bits = one.question.split()
        assert one.thought == " ".join(str(bits[:i + 1].count("1") % 2) for i in range(len(bits)))
        assert one.answer == str(bits.count("1") % 2)


def test_cups_are_permutation_matrices() -> None:
    for one in drawn("cups", cups=4)[1]:
        ball, states = np.eye(4, dtype=int)[0], []
        for swap in one.question.split():
            order = [*range(4)]
            a, b = map(int, swap)
            order[a], order[b] = b, a
            ball = np.eye(4, dtype=int)[order] @ ball
            states.append(str(ball.argmax()))
        assert one.thought == " ".join(states) and one.answer == states[-1]


def test_chain_is_python() -> None:
    for one in drawn("chain", modulus=11)[1]:
        first, *moves = one.question.split()
        text, states = first, []
        for move in moves:
            text = f"({text}){move}"
            states.append(str(eval(text) % 11))
        assert one.thought == " ".join(states) and one.answer == states[-1]


def test_chase_goes_where_the_list_says() -> None:
    for one in drawn("chase", nodes=7)[1]:
        symbols = one.question.split()
        target = {pointer[0]: pointer[2] for pointer in symbols[:7]}
        node, states = symbols[7], []
        assert set(symbols[8:]) == {">"} and {*target} == {*target.values()}
        for _ in symbols[8:]:
            node = target[node]
            states.append(node)
        assert one.thought == " ".join(states) and one.answer == states[-1]


def test_graph_reaches_one_node_alone() -> None:
    for one in drawn("graph", hops=3, branches=3)[1]:
        *listed, left, right, root = one.question.split()
        edges = [tuple(edge.split(">")) for edge in listed]
        reached = {root: [root]}
        for _ in edges:
            for start, to in edges:
                if start in reached:
                    reached.setdefault(to, [*reached[start], to])
        assert {left, right} & {*reached} == {one.answer}
        *walk, last = (one.thought or "").split()
        walks = walk[:len(walk) // 2], walk[len(walk) // 2:]
        upwards = reached[one.answer][-2::-1]  # from the node up to the root
        assert last == one.answer and walks[[left, right].index(last)] == [*upwards, last]
        place, other = (right, walks[1]) if last == left else (left, walks[0])
        assert other.pop() == place
        for above in other:
            assert (above, place) in edges
            place = above
        assert len(other) == len(upwards)


def test_equations_hold() -> None:
    for one in drawn("equation", modulus=5)[1]:
        rows = [[int(x) for x in row.split() if x != "="] for row in one.question.split(";")]
        found = [x for x in product(range(5), repeat=len(rows)) if all(
            (np.dot(row[:-1], x) - row[-1]) % 5 == 0 for row in rows)]
        assert len(found) == 1 and str(found[0][0]) == one.answer
        assert _replayed(rows, [*map(int, (one.thought or "").split())]) == [*found[0]]


def _replayed(rows: list[list[int]], said: list[int]) -> list[int]:
    """The unknowns modulo 5, where a thought is taken apart and every number of it is tried."""
    numbers, left, firsts = iter(said), rows, []
    while left:
        firsts.append(left[0])
        below = []
        for row in left[1:]:
            factor = next(numbers)
            assert factor * left[0][0] % 5 == row[0]
            below.append([])
            for above, number in zip(left[0][1:], row[1:], strict=True):
                product, rest = next(numbers), next(numbers)
                assert (factor * above - product) % 5 == (product + rest - number) % 5 == 0
                below[-1].append(rest)
        left = below
    values: list[int] = []
    for row in reversed(firsts):
        total = row[-1]
        for coefficient, value in reversed([*zip(row[1:-1], values, strict=True)]):
            product, rest = next(numbers), next(numbers)
            assert (product - coefficient * value) % 5 == (product + rest - total) % 5 == 0
            total = rest
        values.insert(0, next(numbers))
        assert values[0] * row[0] % 5 == total
    assert next(numbers, None) is None
    return values


def test_columns_are_sums_of_whole_numbers() -> None:
    for base in (10, 3):
        for one in drawn("columns", base=base)[1]:
            columns = one.question.split()
            a, b = (int("".join(digits)[::-1], base) for digits in zip(*columns, strict=True))
            digits = (one.thought or "").split()
            assert int("".join(digits)[::-1], base) == (a + b) % base ** len(columns)
            assert one.answer.split() == digits[::-1]


def test_pairs_of_unit_digits_are_held_out_in_any_order() -> None:
    task, problems = drawn("columns", 3000, split="systematic")
    sides: dict[str, set[bool]] = {}
    for one in problems:
        sides.setdefault("".join(sorted(one.question[:2])), set()).add(task.is_held_out(one))
    assert len(sides) == 55 and all(len(side) == 1 for side in sides.values())
    assert 0.1 < sum(True in side for side in sides.values()) / 55 < 0.35


@pytest.mark.parametrize("base", [2, 3])
def test_some_pair_of_digits_is_held_out_in_any_base(base: int) -> None:
    for seed in range(20):
        kind = TASKS["columns"].target
        task = kind(kind.Keys(name="columns", seed=seed, base=base, split="systematic", steps=3,
                              min_steps=3, thought_length=None), 16)
        count = base * (base + 1) // 2
        assert len(task._units_held_out) == max(1, round(0.2 * count)) < count


def test_walks_of_a_table_may_lead_nowhere() -> None:
    """Such a question is as easy as it gets; whether its answer is right is told elsewhere."""
    task = drawn("graph", 1)[0]
    for text in ("0>1 2>3 1 0 0", "0>1 2>3 2 3 1", "0 1 2 3", "0>1 1>0 1 0 2"):
        problem = Problem(text, "1")
        assert task.easier(problem) == problem
        task.solution(problem)


def test_products_are_sums_of_sums() -> None:
    for one in drawn("multiply", digits=3)[1]:
        a, b = (int(text[::-1]) for text in one.question[:-1].split("*"))
        assert int(one.answer[::-1]) == a * b and len(one.answer) == 6
        said = one.thought or ""
        sums = [int(said[:4][::-1]), int(said[4:9][::-1]), int(said[9:][::-1])]
        assert sums == [a * (b % 10), a * (b % 100), a * b]


def test_sorting_merges() -> None:
    for one in drawn("sort", numbers=6, max=8)[1]:
        listed = np.array(one.question.split(), dtype=int)
        assert [*map(int, one.answer.split())] == np.sort(listed).tolist()
        passes = np.array((one.thought or "").split(), dtype=int).reshape(-1, len(listed))
        for number, row in enumerate(passes):
            for start in range(0, len(listed), 2**(number + 1)):
                part = slice(start, start + 2**(number + 1))
                assert (np.sort(listed[part]) == row[part]).all()
        assert (passes[-1] == np.sort(listed)).all()


def test_formulas_are_true_or_cannot_be() -> None:
    problems = drawn("sat", 200, variables=4, clauses=20)[1]
    for one in problems:
        clauses = [[*map(int, clause.split())] for clause in one.question.split(" , ")]
        true = [values for values in product((False, True), repeat=4) if all(
            any(values[abs(x) - 1] == (x > 0) for x in clause) for clause in clauses)]
        assert one.answer == ("yes" if true else "no")
        assert one.thought == (" ".join(str(i + 1 if value else -i - 1) for i, value
                                        in enumerate(true[0])) if true else "x x x x")
    assert 70 <= sum(one.answer == "yes" for one in problems[:200]) <= 130


def test_many_sums() -> None:
    for one in drawn("many", sums=3)[1]:
        said = [str(eval(pair) % 10) for pair in one.question[:-1].split(",")]
        assert one.answer == one.thought == " ".join(said)


def test_threesum() -> None:
    problems = drawn("threesum", 200)[1]
    for one in problems:
        rows = np.array([row.split() for row in one.question[:-1].split(",")], dtype=int)
        zero = any(((rows[i] + rows[j] + rows[k]) % 10 == 0).all()
                   for i, j, k in combinations(range(len(rows)), 3))
        assert one.answer == ("yes" if zero else "no")
        sums = [(rows[i] + rows[j]) % 10 for i, j in combinations(range(len(rows)), 2)]
        assert one.thought == " ".join(map(str, np.concatenate(sums)))
    assert 70 <= sum(one.answer == "yes" for one in problems[:200]) <= 130


@pytest.mark.parametrize("name, longest", [("parity", 12), ("cups", 6), ("chain", 6), ("chase", 6)])
def test_an_easier_question_is_one_step_shorter(name: str, longest: int) -> None:
    """So that a curriculum can grow a step at a time; all lengths are drawn, and are groups."""
    task, problems = drawn(name, steps=longest)
    for one, easier in zip(problems[:100], problems[100:], strict=True):
        if " " in (one.thought or ""):
            assert (one.thought or "").rpartition(" ")[0] == easier.thought
            assert one.question.rpartition(" ")[0] == easier.question
            assert easier.answer == (easier.thought or "").split()[-1]
        else:
            assert easier == one
    test = task.test()
    assert {f"{longest - 1}_steps", f"{longest}_steps"} <= {*test.groups} <= {
        f"{n}_steps" for n in range(1, longest + 1)}
    assert sum(int(rows.sum()) for rows in test.groups.values()) == len(test)


def test_a_mix_says_how_many_questions_are_short() -> None:
    """A quarter has 1 to 5 moves, each number equally often; the held-out ones are mixed alike,
    but for 1 and 2 moves, which are all trained on: 0.75 of 0.9 have 6.
    """
    task, problems = drawn("chase", 4000, mix=0.25)
    counts = Counter(len((one.thought or "").split()) for one in problems[:4000])
    assert 2918 <= counts[6] <= 3082  # 3 standard errors
    assert all(158 <= counts[moves] <= 242 for moves in range(1, 6))
    test = task.test()
    assert {*test.groups} == {f"{moves}_steps" for moves in range(3, 7)}
    assert 0.80 < float(test.groups["6_steps"].float().mean()) < 0.86
    assert sum(int(rows.sum()) for rows in test.groups.values()) == len(test) == 2000
    rare, _ = drawn("cups", 1, mix=1.0, steps=30)
    assert (rare.question_length, rare.thought_length) == (31, 30)  # and padding


def test_without_a_mix_questions_are_as_they_were() -> None:
    assert [one.question for one in drawn("cups", 3, cups=4)[1][:3]] == [
        "12 13", "02", "13 03 03 02"]


@pytest.mark.parametrize("name, answers", [
    ("parity", 2), ("cups", 5), ("chain", 7), ("chase", 12), ("graph", 14), ("equation", 7),
    ("sat", 2), ("threesum", 2), ("half", 2), ("automaton", 2), ("carry", 10), ("registers", 4)])
def test_answers_are_numbered(name: str, answers: int) -> None:
    """Balanced search needs that, and so does the accuracy of chance."""
    kind = TASKS[name].target
    steps = {"min_steps": 6, "steps": 6} if hasattr(kind.Keys, "min_steps") else {}
    assert kind(kind.Keys(name=name, seed=0, thought_length=None, **steps), 64).labels == answers


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    "task=cups task.steps=4 task.min_steps=1 variant=[think,blind]", "task=equation",
    "task=graph variant=[think,super,clean]", "task=many task.sums=2", "task=sat",
    "task=multiply task.digits=2", "task=sort task.numbers=4 task.max=8", "task=threesum",
    "task=chain variant=[]", "task=chase trainer.rehearse=2 strategy=sft",
    "task=half thinker.asked=2 task.unasked=0.3", "task=automaton thinker.asked=2",
    "task=carry thinker.asked=2", "task=registers thinker.asked=2 task.registers=2",
    "task=columns task.split=systematic",
    "task=parity task.steps=24"])
def test_they_train(words: str, door: Door, tmp_path: Path) -> None:
    """With every key of the task as it is, but for those that are typed."""
    small = ["trainer.max_steps=2", "trainer.train_batch_size=4", "task.test_questions=20",
             "model.d_model=16", "model.layers=1", "trainer.val_every_n_steps=2",
             "thinker.vocabulary=20", *(() if "variant" in words else ("variant=[think,super]",))]
    code, _, err = door(*words.split(), *small, "hydra.run.dir=run")
    assert code == 0 and not err, err
    assert 0 <= json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"] <= 1


@pytest.mark.parametrize("name", [
    "parity", "chain", "chase", "cups", "graph", "equation", "many", "sat", "threesum", "multiply",
    "sort", "half", "automaton", "carry", "columns", "registers"])
def test_answers_of_a_table_can_be_checked(name: str) -> None:
    task, problems = drawn(name, 20)
    assert [task.solution(one) for one in problems] == [one.answer for one in problems]
    wrong = replace(problems[0], answer="none")
    assert f"found 1 of {len(problems)} rows" in disagreeing(task, [wrong, *problems[1:]])[0]
    assert disagreeing(task, [Problem("no question", "0")]) == ()
