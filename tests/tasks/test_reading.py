"""Free answers are found where a text states them; a number has one value; nothing is guessed."""

# ruff: noqa: RUF001
from __future__ import annotations

from fractions import Fraction

import pytest

from ponder.tasks.choice.reading import Said, number, place, read, written

MESSY = [  # (a text, the number that it answers; None where it gives none, or several)
    # statements
    ("The answer is 42.", "42"), ("answer: 5 apples", "5"), ("Answer:42", "42"),
    ("**Answer:** 42", "42"), ("**Answer**: **42**", "42"), ("The answer is:\n\n42", "42"),
    ("16 - 3 - 4 = 9 eggs, and 9 * 2 = 18.\n#### 18", "18"), ("#### $1,080.00", "1080"),
    ("<answer>42</answer>", "42"), ('{"answer": 42}', "42"), ("Final answer: x = 7", "7"),
    ("The answer is 8 because 3 + 5 = 8.", "8"), ("The answer is 5, not 6.", "5"),
    ("The answer is 4. No, wait. The answer is 6.", "6"),
    ("So the final answer is 3 + 5 = 8.", "8"),
    ("The answer is 5 (five).", "5"), ("THE ANSWER IS 12!", "12"), ("Answer: 0", "0"),
    ("The answer is 72 clips. I hope this helps.", "72"),
    ("<think>The answer is 3.</think>The answer is 4.", "4"),
    # boxes
    (r"Therefore \boxed{17}.", "17"), (r"$\boxed{\frac{3}{4}}$", "0.75"),
    (r"\boxed{\dfrac{10}{4}}", "2.5"), (r"\boxed{\text{12 miles}}", "12"),
    (r"\boxed{1{,}234}", "1234"),
    (r"\boxed{12\,500}", "12500"), (r"First \boxed{3}, then \boxed{4}", "4"),
    (r"The final answer is $\boxed{-\frac{1}{2}}$.", "-0.5"), (r"\boxed{x = 9}", "9"),
    (r"\boxed{45^\circ}", "45"), (r"\boxed{50\%}", "50"), (r"\boxed{2\frac{1}{3}}", "7/3"),
    (r"\boxed{42", None), (r"The answer is 3. \boxed{4", None), (r"\boxed{}", None),
    (r"\boxed{\sqrt{2}}", None), (r"\boxed{2\pi}", None), (r"\boxed{x^2}", None),
    (r"\boxed{(3, 4)}", None),
    # units, currencies, thousands, decimals, signs
    ("The answer is $1,234.50.", "1234.5"), ("The answer is -7.", "-7"),
    ("The answer is −7.", "-7"),
    ("The answer is - 7 degrees.", "-7"), ("Answer: 5 km/h", "5"), ("Answer: 5kg", "5"),
    ("Answer: 25°C", "25"), ("Answer: 12 m²", "12"), ("Answer: 50%", "50"),
    ("Answer: €3,50", "3.5"),
    ("Answer: 1.234,56 €", "1234.56"), ("Answer: 12,34,567 rupees", "1234567"),
    ("Answer: 1'000'000", "1000000"), ("Answer: 1\u202f234\u202f567", "1234567"),
    ("Answer: 0,234", "0.234"),
    ("Answer: .5", "0.5"), ("Answer: 007", "7"), ("Answer: 5 million", "5000000"),
    ("Answer: 2 dozen eggs", "24"), ("Answer: 1.5e3", "1500"), ("Answer: 6 × 10^4", "60000"),
    (r"Answer: $2.5 \times 10^{-3}$", "0.0025"), ("Answer: 3/4", "0.75"),
    ("Answer: 1 1/2 cups", "1.5"),
    ("Answer: 1½", "1.5"), ("Answer: -$5", "-5"), ("Answer: 4.0", "4"), ("Answer: 1/3", "1/3"),
    # several numbers, or what is no number
    ("The answer is 3 or 4.", None), ("The answer is between 3 and 5.", None),
    ("Answer: 3-5", None),
    ("Answer: 3, 4, 5", None), ("Answer: 12 500", None), ("Answer: x = 3, y = 4", None),
    ("Answer: 2 hours and 30 minutes", None),
    ("Answer: 3:45", None), ("Answer: 2024-01-05", None), ("Answer: 1.2.3", None),
    ("Answer: 5x", None),
    ("Answer: the 21st", None), ("Answer: 5k", None), ("Answer: five", None), ("Answer: 1/0", None),
    ("The answer is 7 + 19 = 18 + x", None), ("Answer: x - 5", None),
    ("Answer: 1,2,3", None), ("The answer is unknown.", None), ("The answer is not 5.", None),
    ("Is the answer 5?", None), ("The answer cannot be 5.", None), ("The wrong answer is 5.", None),
    ("The answer is", None), ("", None), ("I do not know.", None),
    # other scripts and languages
    ("答案是42。", "42"), ("答えは42です", "42"), ("答案：５万", "50000"), ("الجواب: ٤٢", "42"),
    ("उत्तर है ४२।", "42"), ("La respuesta es 3,5.", "3.5"), ("La réponse est −12.", "-12"),
    ("Ответ: 1\u00a0000 рублей", "1000"), ("Die Antwort ist 5.", "5"), ("উত্তর: ৪২", "42"),
    ("答案是四十二", None),
    # the last line
    ("42", "42"), ("First 5, then 3.\n\n8 apples", "8"),
    ("She buys 3 and 4 more, so 3 + 4 = 7", "7"),
    ("So there are 7 of the 12 apples left in the basket.", None), ("How many are 5?", None),
    ("Then we add 4:", None),
]
CUT = [  # texts that were cut at a length limit
    ("The answer is 4", None), ("The answer is 4.", None), ("#### 4", None), ("4", None),
    ("The answer is 42. And", "42"), ("#### 42\n", "42"), (r"\boxed{42}", "42"),
    (r"\boxed{4", None),
    ("Answer: 42 because it", "42"), ("<answer>42</answer>", "42"), ("so 3 + 4 = 7", None),
]


@pytest.mark.parametrize("text, value", MESSY)
def test_the_number_of_a_messy_text(text: str, value: str | None) -> None:
    assert read(text, "number").text == value


def test_there_are_a_hundred_of_them() -> None:
    assert len(MESSY) >= 100 and len({text for text, _ in MESSY}) == len(MESSY)


@pytest.mark.parametrize("text, value", CUT)
def test_a_truncated_text_is_not_completed_by_a_guess(text: str, value: str | None) -> None:
    assert read(text, "number", truncated=True).text == value


@pytest.mark.parametrize("parser, text, said", [
    ("auto", "Let me think.\nThe answer is Paris.", "Paris"), ("auto", "Paris", "Paris"),
    ("auto", r"so \boxed{\{1, 2\}} it is", r"\{1, 2\}"), ("auto", "The answer is no.", "no"),
    ("auto", "I think that it may be Paris or Rome.", None), ("boxed", "The answer is 4.", None),
    ("tag", "<answer>\n1 2\n3 4.\n</answer> so", "1 2\n3 4."), ("tag", "<answer>4", None),
    ("auto", "Answer: 3 <answer>4</answer>", "4"), ("stated", r"\boxed{4}. The answer is 5.", "5"),
    ("last_line", "a\nthe long last line it has\n\n", "the long last line it has"),
    ("last_line", "The answer is 4.\n5", "5"), ("whole", " Paris.\n", "Paris"),
    ("whole", " ", None)])
def test_where_each_parser_looks(parser: str, text: str, said: str | None) -> None:
    assert place(text, parser) == said


def test_why_there_is_no_number() -> None:
    assert read("Answer: 3 or 4", "number") == Said(None, "several")
    assert read("Answer: red", "number") == Said(None, "none")
    assert read("Answer: red", "auto") == Said("red", "found")


def test_values_are_exact() -> None:
    assert number("0.1")[0] == Fraction(1, 10) and number("3 1/7")[0] == Fraction(22, 7)
    assert [written(Fraction(text)) for text in ("-7/2", "1/3", "1200", "0", "1/1024")] == [
        "-3.5", "1/3", "1200", "0", "0.0009765625"]
