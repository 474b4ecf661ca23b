"""Schedules, by hand."""

from __future__ import annotations

import pytest

from ponder.config.option import parse_schedule


@pytest.mark.parametrize("value", [0.5, "0.5", " 5e-1 ", 5 / 10])
def test_a_number_stays_what_it_is(value: float | str) -> None:
    assert [parse_schedule(value)(step) for step in (0, 7, 10**9)] == [0.5] * 3
    assert parse_schedule(3)(5) == 3


@pytest.mark.parametrize("form, expected", [
    # step                          0    1      2    3      4    9
    ("linear(1, 0, 4)",            [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
    ("linear(0,2,4)",              [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]),
    ("linear(-1, 1, 4)",           [-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]),
    # cos 45 degrees is 0.70711, so a quarter of the way is (1 - 0.70711) / 2 = 0.14645 done
    ("cosine(1, 0, 4)",            [1.0, 0.85355, 0.5, 0.14645, 0.0, 0.0]),
    ("cosine(2, 4, 4)",            [2.0, 2.29289, 3.0, 3.70711, 4.0, 4.0]),
    # 16 -> 1 in four steps: half each
    ("exponential(16, 1, 4)",      [16.0, 8.0, 4.0, 2.0, 1.0, 1.0]),
    ("exponential(0.01, 100, 4)",  [0.01, 0.1, 1.0, 10.0, 100.0, 100.0]),
])
def test_hand_worked_values(form: str, expected: list[float]) -> None:
    schedule = parse_schedule(form)
    assert [schedule(step) for step in (0, 1, 2, 3, 4, 9)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", [
    "abc", "", "lin(1, 2, 3)", "Linear(1,2,3)", "linear", "linear()", "linear(1, 2)",
    "linear(1, 2, 3, 4)", "linear(1, b, 3)", "linear(1, 2, 3", "linear(1, 2, 3) + 1",
    "linear(linear(1,2,3),2,3)", "nan", "inf", "-inf", float("nan"), float("inf"),
    "linear(nan, 0, 10)", "linear(0, inf, 10)", "linear(0, 1, inf)", True, None, [1.0],
])
def test_other_forms_are_refused_and_repeated(form: object) -> None:
    with pytest.raises(ValueError) as error:
        parse_schedule(form)  # type: ignore[arg-type]
    assert str(error.value) == f"found {form!r}"


@pytest.mark.parametrize("form, reason", [
    ("linear(1, 0, 0)", "found 0 steps, fewer than 1"),
    ("cosine(1, 0, -5)", "found -5 steps, fewer than 1"),
    ("exponential(1, 0, 10)", "found 0, but exponential needs numbers above 0"),
    ("exponential(-1, 1, 10)", "found -1, but exponential needs numbers above 0"),
])
def test_numbers_that_cannot_be_meant_are_refused_with_a_reason(form: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_schedule(form)
    assert str(error.value) == reason


def test_one_step_is_the_shortest_schedule() -> None:
    assert [parse_schedule("linear(3, 1, 1)")(step) for step in (0, 1)] == [3, 1]
