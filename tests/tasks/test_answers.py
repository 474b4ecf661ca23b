"""Letters are found where a text states them, and never guessed."""

# ruff: noqa: RUF001
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ponder.tasks.choice.answers import Answer, parse, plain

STATED = [
    ("The answer is (B).", "B"),
    ("The answer is B.", "B"),
    ("so the answer is b", "B"),
    ("Answer: B", "B"),
    ("Answer: A", "A"),
    ("answer:c", "C"),
    ("**Answer:** D", "D"),
    ("**Answer**: **D**", "D"),
    ("Answer:\nB", "B"),
    ("Answer:\n\n**B. 8**", "B"),
    ('{"answer": "B"}', "B"),
    ("<answer>B</answer>", "B"),
    ("#### B", "B"),
    ("**B**", "B"),
    ("(B)", "B"),
    ("(b)", "B"),
    ("B.", "B"),
    ("B", "B"),
    ("A", "A"),
    ("option B", "B"),
    ("Option B.", "B"),
    ("B\n\nExplanation: a cell divides. In C it would not.", "B"),
    ("It grows, and so on. Final answer: $B$", "B"),
    (r"Therefore \boxed{B}.", "B"),
    (r"$\boxed{\text{B}}$", "B"),
    (r"$$\boxed{\text{(B)}}$$", "B"),
    (r"\boxed{\mathrm{B}}", "B"),
    (r"\boxed{B. 12}", "B"),
    (r"\boxed{A}", "A"),
    ("The correct answer is option C because A and B are wrong.", "C"),
    ("The correct option is D", "D"),
    ("The answer to this question would be (C).", "C"),
    ("The answer is B, not C.", "B"),
    ("(A) looks right. My final answer to the question: B", "B"),
    ("The answer is B: C fails.", "B"),
    ("The answer is A because a cell divides.", "A"),
    ("I choose B. It was C that I doubted.", "B"),
    ("I'd go with option B", "B"),
    # repeated and changed
    ("The answer is B. The answer is B. The answer is B. The ans", "B"),
    ("The answer is (A). No, wait. The answer is (C).", "C"),
    ("Answer: A\nLet me check.\nAnswer: D", "D"),
    ("(A) is tempting, (B) is not. The answer is (D).", "D"),
    ("A. 4\nB. 8\nC. 12\nD. 6\n\nThe answer is (B).", "B"),
    ("A. 4\nB. 8\nC. 12\nD. 6\n\nB", "B"),
    # other scripts and languages
    ("The answer is （Ｂ）。", "B"),
    ("答案是B", "B"),
    ("答案是C.学校", "C"),
    ("答案是B选项", "B"),
    ("答案为B因为细胞", "B"),
    ("The answer is C.school", "C"),
    ("The answer is C.School", "C"),
    ("正确答案：（Ｃ）", "C"),
    ("故选B。", "B"),
    ("正解はCです。", "C"),
    ("정답은 B입니다.", "B"),
    ("सही उत्तर है B।", "B"),
    ("উত্তর: খ নয়, উত্তর: B", "B"),
    ("الإجابة الصحيحة هي B", "B"),
    ("Правильный ответ: B", "B"),
    ("La respuesta correcta es la B.", "B"),
    ("La bonne réponse est B", "B"),
    ("A resposta correta é a letra B.", "B"),
    ("Die richtige Antwort ist B.", "B"),
    ("Jawabannya adalah B", "B"),
    ("Jibu sahihi ni B.", "B"),
    ("Ìdáhùn tó tọ́ ni B. À ń lọ.", "B"),
    ("Ìdáhùn: (B)", "B"),
    ("A na-eme ya kwa ụbọchị. Azịza ya bụ (C).", "C"),
]
MENTIONED = [
    ("Cells divide, hence (B) it must be", "B"),
    ("I think B", "B"),
    ("B is correct", "B"),
    ("B, because plants make food.", "B"),
    ("Because of **B. blue** here", "B"),
    ("B. photosynthesis takes place in leaves", "B"),
    ("It can only be option B", "B"),
    ("It must be A.", "A"),
    ("A is right", "A"),
    ("A cell has a wall, hence C.", "C"),
    ("Vitamin C matters, but I say D.", "D"),
    ("Ọ bụ B ka m chere", "B"),
    ("我认为B正确", "B"),
    ("The force F acts, so B", "B"),
]
NONE = [
    "", "   \n", "I do not know.", "42", "The answer is 42.", r"\boxed{12}",
    "A cell is the unit of life.", "A 45-year-old man presents with pain.",
    "The answer is a cell wall", "Answer: A cell wall",
    "I am sure", "The answer is (E).", "Answer: E", "(E)", "I think E",
    "The answer is (A). No, the answer is (E).", "The answer is (X).",
    "The answer is", "The answer is not B.", "B is wrong.", "Is the answer B?",
    "The answer cannot be B.", "Never answer B.", "The wrong answer is B.",
    "Vitamin C is needed.", "hepatitis B", "B cells and T cells", "It is 25 °C.", "at 25°C",
    "in C. elegans it is so", "as Robert B. Parker says", "P(A) = 0.5", "x = C", "A + B = 3",
    "in D.C. today", "A-level", "the B-cell", "C'est la vie", "DNA", "À ń lọ sí ilé", "Ẹ̀ dé",
    "A na-eme ya", "the answer is b-cell", "The answer is D.C. today",
    # denials
    "Option D is incorrect", "We can rule out B.", "we exclude C", "Eliminating D leaves three",
    "D can be ruled out", "A can be eliminated", "C fails", "B is out", "We discard option B.",
    "rather than B", "La opción D es incorrecta.", "Descartamos la opción B.",
    "On peut éliminer la réponse C.", "Die Antwort B ist falsch.", "选项B是错误的", "可以排除C",
    "B si sahihi", "Kii se B",
]
WHOLE = [  # of a truncated text: the statement is over
    ("The answer is (B).", "B"), ("The answer is B. The answer is B. The ans", "B"),
    ("The answer is A. Now, the answer is B", "A"), ("Answer: B\n", "B"),
    ("**B**\n\nExplanation: a", "B"), ("答案是B，因为", "B"), (r"so \boxed{B}", "B"),
    ("The answer is B because a", "B"), ("Answer:\nA. 4\n\nExplanation", "A"),
    ("The answer is C.school and", "C"), ("La respuesta es la B, porque", "B"),
]
CUT = [  # of a truncated text: it could go on in another way
    "The options are:\nA. 4", "Let's see:\nA", "A.\n4", "A. 4\nB. 8\nC", "Answer:\nA. 4",
    "Answer:\nA", "The answer is (B", "The answer is (B)", "The answer is A", "The answer is B.",
    "The answer is B or", "The answer is B, ", "Answer: B", "答案是B", "(A) is right and",
    "I think B is", "B: the cell",
]
SEVERAL = [
    "A or B", "(A) and (C)", "The answer is A or B.", "The answer is either (A) or (B).",
    "Answer: A, B", "Answer: A/B", "Answer: A and B", "答案是A和B", "not A but B",
    "The answer is not A but B.", "(A) 4 (B) 8", "A. 4\nB. 8\nC. 12\nD. 6", "A. 4\nB. 8\nC.",
    "A\nB\nC\nD", "Answer choices: (A) 4 (B) 8 (C) 12 (D) 16", "Answer:\nA. 4\nB. 8\nC. 12",
    "Answer: (A) 4 (B) 8 (C) 12", "Perhaps B. Perhaps C.", "B is tempting, D is too",
    "The answer is B. The answer is B or C.", "Neither A nor B",
]


@pytest.mark.parametrize("text, letter", [*STATED, *MENTIONED])
def test_found(text: str, letter: str) -> None:
    assert parse(text) == Answer(letter, "found")


@pytest.mark.parametrize("text", NONE)
def test_none(text: str) -> None:
    assert parse(text) == Answer(None, "none")


@pytest.mark.parametrize("text, letter", WHOLE)
def test_complete_statements_of_truncated_texts_count(text: str, letter: str) -> None:
    assert parse(text, truncated=True) == Answer(letter, "found")


@pytest.mark.parametrize("text", CUT)
def test_a_truncated_text_is_not_completed_by_a_guess(text: str) -> None:
    assert parse(text, truncated=True) == Answer(None, "none")


@pytest.mark.parametrize("text", SEVERAL)
def test_several(text: str) -> None:
    assert parse(text) == Answer(None, "several")


def test_options_decide_what_a_letter_is() -> None:
    assert parse("The answer is (E).", "ABCDE") == Answer("E", "found")
    assert parse("The answer is (I).", "ABCDEFGHI") == Answer("I", "found")
    assert parse("I think it is so", "ABCDEFGHI") == Answer(None, "none")
    assert parse("The answer is (C).", "AB") == Answer(None, "none")
    assert parse("(A) or (E)", "ABCD") == Answer(None, "several")


def test_a_statement_outranks_any_number_of_mentions() -> None:
    assert parse("(A) " * 50 + "Answer: D " + "(B) " * 50).letter == "D"


def test_plain() -> None:
    assert plain("Ｂ：　é **C** Ìdáhùn") == "B:　· (C) Idahun"
    assert plain("\\boxed{\\text{B}}") == " answer: (B)."


def test_real_outputs_judged_by_hand() -> None:
    """What SmolLM2 wrote to questions in seven languages, half of it cut at a length limit. None is
    read as another answer than its reader's; where the text denies one option and names another, or
    quotes the form that was asked for, an answer may be missed.
    """
    lines = (Path(__file__).parent / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) > 200 and len({row["language"] for row in rows}) == 7
    found = [parse(row["text"], row["letters"], row["truncated"]).letter for row in rows]
    wrong = [row["text"] for row, letter in zip(rows, found, strict=True)
             if letter not in (None, row["answer"])]
    missed = [row["text"] for row, letter in zip(rows, found, strict=True)
              if letter is None and row["answer"] is not None]
    assert (wrong, len(missed)) == ([], 4)


@pytest.mark.parametrize("text", [
    "The answer is B or C.", "The answer A is incorrect", "Die Antwort B ist falsch",
    "答案B是错的", "Answer B can be ruled out", "The answer is B cells", "The answer is B-cells",
    "Answer: A. red\nB. blue", "Answer: (A) 4 (B) 8 (C) 12", "A\nB\nC\nD", "The answer is A + B",
    'Which are "C" and "D"? The answer is "C" and "D"'])
def test_wherever_such_a_text_is_cut_it_has_no_answer(text: str) -> None:
    assert [parse(text[:length], truncated=True).letter for length in range(len(text))] == (
        [None] * len(text))
