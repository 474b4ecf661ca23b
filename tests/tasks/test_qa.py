"""Questions with choices: files, prompts, splits, tokens. A token is a byte here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from ponder.config.errors import UserError
from ponder.config.registry import TASKS
from ponder.tasks.base import write_problems
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.mmlu import Mmlu, MmluKeys
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tasks.choice.questions import (
    LANGUAGES,
    Question,
    questions_of,
    read_questions,
    split_name,
)
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import CHAT, KINDS, WORDS, file_of, task, tokenizer_of, vocabulary
from support.small import generator

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SKY = Question("x/0", "Colour of the sky?", ("red", "blue"), 1, "x")



def texts(tokens: torch.Tensor) -> list[str]:
    return [WORDS.text(row) for row in tokens.tolist()]


# --- files --------------------------------------------------------------------------------------


def test_our_own_columns(tmp_path: Path) -> None:
    found = read_questions(file_of(tmp_path / "x.csv", 2, "Train"))
    assert found[1] == Question("s0/1", "Question 1?", ("one", "three"), 1, "s0", "", "train")
    assert (found[0].letter, found[0].letters) == ("A", "AB")


def test_the_columns_of_mmmlu(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",Question,A,B,C,D,Answer,Subject\n0,Kí ni?,ẹ̀,bí,rá,tó,D,anatomy\n"
                    "1,Ta ni?,a,b,c,d,A,anatomy\n2,Ta ni?,a,b,c,d,A,virology\n")
    found = read_questions(path, "YO-NG")
    assert [one.id for one in found] == ["anatomy/0", "anatomy/1", "virology/0"]
    assert found[0] == Question("anatomy/0", "Kí ni?", ("ẹ̀", "bí", "rá", "tó"), 3, "anatomy",
                                "YO-NG")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_columns_of_cais(kind: str, tmp_path: Path) -> None:
    """Their answer counts from 0."""
    rows = [{"question": "Q", "subject": "s", "choices": ["7", "2", "1"], "answer": 2}]
    path = tmp_path / f"x.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pd.DataFrame(rows).to_parquet(path)
    assert read_questions(path) == [Question("s/0", "Q", ("7", "2", "1"), 2, "s")]


def test_rows_may_have_fewer_options(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,A,B,C,D,E,answer\nQ,a,b,c,d,e,E\nQ,a,b,,,,b\nQ,a,b,a,,,B\n")
    assert [(len(one.choices), one.answer) for one in read_questions(path)] == [
        (5, 4), (2, 1), (3, 1)]


@pytest.mark.parametrize("answer, number", [
    ("B", 1), (" b ", 1), ("yes", 0), ("A", 0), ("3", 3), ("1", 1)])
def test_an_answer_is_a_letter_a_text_or_a_number(answer: str, number: int) -> None:
    """A letter is a letter, even where an option is that letter; "3" is only the fourth."""
    row = {"question": "Q", "choices": ["yes", "A", "B", "2"], "answer": answer}
    assert questions_of("x", [("x, line 1", row)])[0].answer == number


def test_a_letter_beyond_the_options_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,A,B,C,D,answer\nPotassium?,Na,K,Ca,Fe,K\nCarbon?,N,O,C,H,C\n"
                    "Last?,x,y,z,w,z\n")
    assert [one.letter for one in read_questions(path)] == ["B", "C", "C"]


def test_lines_may_end_as_they_do_anywhere_and_more_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for content in ("question,A,B,answer\rQ,a,b,B\r",
                    "\ufeff\r\nquestion,A,B,answer\r\nQ,a,b,B\r\n",
                    "question,A,B,answer,,,K\nQ,a,b,B,,,note\n"):
        path.write_bytes(content.encode())
        assert [(one.choices, one.letter) for one in read_questions(path)] == [(("a", "b"), "B")]


HEAD = "id,split,question,A,B,C,answer\n"


@pytest.mark.parametrize("content, line", [
    (HEAD + "1,,Q,a,b,c,D\n", ", line 2: found answer 'D'; legal: A to C, or the text of an "
     "option"),
    (HEAD + "1,,Q,a,b,,C\n", ", line 2: found answer 'C'; legal: A to B, or the text of an option"),
    (HEAD + "1,,Q,a,a,b,\n", ", line 2: found answer ''; legal: A to C, or the text of an option"),
    (HEAD + "1,,Q,no,no,b,no\n", ", line 2: found answer 'no', which may be A or B; legal: A to C, "
     "or the text of an option"),
    (HEAD + "1,,Q,a,b,c,2\n", ", line 2: found answer '2'; legal: A to C, or the text of an "
     "option"),
    (HEAD + '1,,"two\nlines",a,b,c,A\n2,, ,a,b,c,A\n', ", line 4: found no question; legal: text"),
    (HEAD + "1,,Q,a,,c,A\n", ", line 2: found no option B, but options after it; legal: options "
     "one after the other"),
    (HEAD + "1,,Q,a,,,A\n", ", line 2: found 1 options; legal: 2 to 10"),
    (HEAD + "1,tset,Q,a,b,c,A\n", ", line 2: found split 'tset'; legal: train, dev, "
     "auxiliary_train, test, val, validation"),
    (HEAD + "1,,Q,a,b,A\n", ", line 2: found 6 cells; legal: 7, as in the first line"),
    (HEAD + '1,,"Q"x,a,b,c,A\n', ", line 2: cannot be read (',' expected after '\"'); legal: cells "
     "between commas, with quotes around those that hold commas"),
    (HEAD, ": found no rows; legal: at least one problem"),
    ("", ": found no rows; legal: at least one problem"),
    ("question,A,answer\nQ,a,A\n", ": found columns question, A, answer, but not B; legal: "
     "question, A, B, ... (or choices), answer"),
    ("Question;A;B;Answer\nQ;a;b;A\n", ", line 1: found cells between semicolons; legal: commas, "
     "as of a spreadsheet that saves CSV with commas, or a .jsonl file"),
    ('"question"\t"A"\t"B"\t"answer"\n', ", line 1: found cells between tabs; legal: commas, as of "
     "a spreadsheet that saves CSV with commas, or a .jsonl file"),
    ("question,A,B,answer,answer\nQ,a,b,A,B\n", ": found 2 columns answer; legal: one"),
    ("question,A,B,C,D,E,F,G,H,I,J,K,answer\nQ,1,2,3,4,5,6,7,8,9,10,11,A\n", ", line 2: found 11 "
     "options; legal: 2 to 10"),
    ("question,A,B,choices,answer\nQ,a,b,[],A\n", ": found columns choices and A; legal: one of "
     "them"),
    ("question,A,a,B,answer\nQ,a,b,c,A\n", ": found columns A and a; legal: one of them"),
    ('question,choices,answer\nQ,"[""2"", ""0""]",0\n', ", line 2: found answer '0', which may be "
     "A or B; legal: A to B, 0 to 1, or the text of an option"),
    ("question,choices,answer\nQ,a b,0\n", ", line 2: found choices 'a b'; legal: a list"),
])
def test_a_wrong_file_gets_one_line(content: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_questions(path)
    assert str(error.value) == f"{path}{line}"


@pytest.mark.parametrize("name, content, line", [
    ("x.csv", HEAD.encode() + b"1,,\xff,a,b,c,A\n", ", line 2: found bytes that are no text in "
     "UTF-8; legal: a file in UTF-8, as of iconv -f WINDOWS-1252 -t UTF-8"),
    ("x.csv", HEAD.encode("utf-16"), ": found bytes that are 0, or the mark of UTF-16; legal: a "
     "file in UTF-8, as of iconv -f UTF-16 -t UTF-8, or a spreadsheet's \"CSV UTF-8\""),
    ("x.jsonl", b'{"question": "Q", "A": "a", "B": "b", "answer": "A", "answer": "B"}\n', ", line "
     "1: found 2 columns answer; legal: one"),
    ("x.jsonl", b'{"question": "Q", "choices": ["a", "b"], "answer": 2}\n', ", line 1: found "
     "answer 2; legal: A to B, 0 to 1, or the text of an option"),
    ("x.jsonl", b'{"question": "Q", "choices": ["a", "b"], "answer": -1}\n', ", line 1: found "
     "answer -1; legal: A to B, 0 to 1, or the text of an option"),
    ("x.jsonl", b"\n{\n", ", line 2: cannot be read (Expecting property name enclosed in double "
     "quotes: line 2 column 1 (char 2)); legal: one JSON object a line"),
    ("x.jsonl", b'{"question": "Q", "A": "\\ud83d", "B": "b", "answer": "A"}\n', ", line 1: found "
     "'\\ud83d', half a character, in 'estion\": \"Q\", \"A\": \"\\ud83d\", \"B\": \"b\", "
     "\"answer'; legal: whole characters, in UTF-8"),
    ("x.jsonl", b"[1]\n", ", line 1: found [1]; legal: one JSON object a line"),
    ("x.txt", b"", ": found no table; legal: a file that ends in .csv, .jsonl or .parquet"),
])
def test_a_broken_file_gets_one_line(name: str, content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_questions(path)
    assert str(error.value) == f"{path}{line}"


# --- prompts ------------------------------------------------------------------------------------


def test_options_are_shown_unless_they_are_written_out() -> None:
    shown = "Question: Colour of the sky?\nA. red\nB. blue"
    assert prompts.turns(SKY, "Think.", [], "letter") == [("user", f"Think.\n\n{shown}")]
    assert prompts.turns(SKY, "", [], "generated") == [("user", shown)]
    assert prompts.turns(SKY, "", [], "cloze") == [("user", "Question: Colour of the sky?")]


def test_the_bridge_and_the_options() -> None:
    assert [(prompts.bridge(SKY, way), prompts.options(SKY, way)) for way in
            ("generated", "letter", "cloze")] == [
        ("", [" The answer is (A).", " The answer is (B)."]),
        ("\nAnswer:", [" A", " B"]),
        ("\nQuestion: Colour of the sky?\nAnswer:", [" red", " blue"])]


def test_a_hint_says_the_answer() -> None:
    def last(way: str) -> str:
        return prompts.turns(SKY, "", [], way, hint=True)[-1][1].split("\n")[-1]

    assert last("generated") == "(Hint: the right answer is (B) blue)"
    assert last("cloze") == "(Hint: the right answer is: blue)"


def test_examples_think_and_end_as_the_answer_is_given() -> None:
    leaf = Question("x/1", "Of a leaf?", ("green", "blue"), 0, rationale="Plants are green.")
    turns = prompts.turns(SKY, "Think.", [leaf, SKY], "generated")
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[0][1].startswith("Think.\n\nQuestion: Of a leaf?")
    assert turns[1][1] == "Plants are green. The answer is (A)."
    assert turns[3][1] == "The answer is (B)."
    assert turns[4][1].startswith("Question: ")
    assert prompts.worked(leaf, "letter") == "Plants are green.\nAnswer: A"
    assert prompts.worked(SKY, "cloze") == "Question: Colour of the sky?\nAnswer: blue"


# --- tokens -------------------------------------------------------------------------------------


def test_shapes_and_sides_of_padding(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv", 100), answer="cloze", preamble="")
    problems = qa.encode([qa.list.index(one) for one in sorted(
        qa.list, key=lambda one: int(one.id[3:]))][8:12])
    assert texts(problems.question) == [f"Question: Question {i}?\n" for i in (8, 9, 10, 11)]
    assert problems.padded and problems.thought is None and problems.question.shape == (4, 23)
    assert problems.question[:, 0].eq(problems.pad).tolist() == [True, True, False, False]
    assert texts(problems.answer) == [" one", " three", " one", " three"]
    assert problems.answer[0].tolist()[4:] == [problems.pad] * 2 and problems.answer.shape == (4, 6)
    assert problems.options is not None and problems.options.shape == (4, 2, 6)
    assert texts(problems.options[0]) == [" one", " three"]
    assert problems.label is not None and problems.label.tolist() == [0, 1, 0, 1]
    assert problems.answer_prefix is not None and problems.answer_prefix.shape == (4, 31)
    assert problems.answer_prefix[0, 0] == problems.pad and texts(problems.answer_prefix)[2] == (
        "\nQuestion: Question 10?\nAnswer:")
    assert (qa.question_length, qa.answer_length) == (23, 31 + 6)


def test_a_missing_option_is_a_row_of_padding(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("split,question,A,B,C,answer\ntrain,Q,a,b,c,C\ntrain,R,a,b,,A\ntest,S,a,b,,A\n")
    qa = task(path, answer="letter", shuffle=False)
    options = qa.sample(2, generator()).options
    assert options is not None and options.shape == (2, 3, 2)
    assert options.eq(qa.vocabulary.pad).all(2).tolist() == [[False] * 3, [False, False, True]]
    assert qa.test().options.shape == (1, 2, 2)  # type: ignore[union-attr]


def test_generated_answers_have_no_bridge(tmp_path: Path) -> None:
    problems = task(file_of(tmp_path / "x.csv")).test()
    assert problems.answer_prefix is not None and problems.answer_prefix.shape == (len(problems), 0)
    assert set(texts(problems.answer)) <= {" The answer is (A).", " The answer is (B)."}


def test_a_chat_template_is_used(tmp_path: Path) -> None:
    words = vocabulary(CHAT)
    path = file_of(tmp_path / "x.csv", 6)
    problems = task(path, words, preamble="", shots=1, answer="letter").test()
    found = words.text(problems.question[0].tolist())
    assert found.startswith("[user]Question: Question ") and found.endswith("[assistant]")
    assert found.count("[assistant]Answer: ") == 1
    plain = TextVocabulary(words.tokenizer, chat=False)
    assert "[user]" not in plain.text(task(path, plain).test().question[0].tolist())


# --- the epoch ----------------------------------------------------------------------------------


def test_an_epoch_gives_each_question_once(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv", 100))
    first, second = (qa.sample(10**9, generator(seed)).index for seed in (0, 1))
    assert first is not None and second is not None
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(qa.epoch_size))
    assert first.tolist() != second.tolist()
    part = qa.sample(20, generator()).index
    assert part is not None and len(set(part.tolist())) == 20
    still = task(tmp_path / "x.csv", shuffle=False)
    assert still.sample(10**9, generator()).index.tolist() == list(  # type: ignore[union-attr]
        range(qa.epoch_size))
    part = still.sample(20, generator()).index
    assert part is not None and part.tolist() == sorted(set(part.tolist())) != list(range(20))


@pytest.mark.slow
def test_sides_are_decided_by_the_id_and_the_seed(tmp_path: Path) -> None:
    """Also of another language: the words of the question do not matter."""
    path = file_of(tmp_path / "x.csv", 1000)
    other = tmp_path / "y.csv"
    other.write_text(path.read_text().replace("Question", "Ìbéèrè").replace("three", "mẹ́ta"))

    def held_out(path: Path, seed: int = 0) -> list[str]:
        qa = task(path, seed=seed, test_questions=1000)
        assert len(qa.list) == 1000 and 150 < len(qa.test()) < 250
        return [one.id for one in qa.list[qa.epoch_size:]]

    assert held_out(path) == held_out(other) != held_out(path, seed=1)


def test_splits_in_the_file_outrank_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("split,question,A,B,answer\n" + "".join(
        f"{split},Q{split},a,b,A\n" for split in ("test", "train", "val", "", "dev", "validation")))
    qa = task(path)
    assert [one.split for one in qa.list] == ["train", "", "dev", "test", "val", "validation"]
    assert qa.epoch_size == 3


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_file_of_one_split_is_split_by_the_hash(split: str, tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv", 100, split))
    assert qa.epoch_size + len(qa.test()) == 100 and 10 < len(qa.test()) < 30


def test_test_data_leaves_all_data_to_training(tmp_path: Path) -> None:
    test = file_of(tmp_path / "y.csv", 7, "train")
    qa = task(file_of(tmp_path / "x.csv", 20, "test"), test_data=str(test))
    assert (qa.epoch_size, len(qa.test())) == (20, 7)


def test_subjects_and_numbers_of_questions(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.csv", 300, subjects=3)
    qa = task(path, subjects=["s0", "s2"], train_questions=50, test_questions=10)
    assert (qa.epoch_size, len(qa.test())) == (50, 10)
    assert {one.subject for one in qa.list} == {"s0", "s2"}
    more = task(path, subjects=["s0", "s2"], train_questions=60, test_questions=20)
    assert set(qa.list[:50]) < set(more.list[:60]) and set(qa.list[50:]) < set(more.list[60:])
    numbers = [int(one.id[3:]) for one in qa.list[:50]]
    assert numbers == sorted(numbers) and numbers[-1] > 200  # a random part, in the file's order
    with pytest.raises(UserError) as error:
        task(path, subjects=["s0", "s11"])
    assert str(error.value) == ("task.subjects: found 's11' (did you mean s1?); legal: s0, s1, s2")


def test_a_side_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no question to evaluate on; legal: more"):
        task(file_of(tmp_path / "x.csv", 10), held_out=0.0)


# --- shots --------------------------------------------------------------------------------------


def test_no_question_is_its_own_example_nor_a_held_out_one(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv", 20), shots=3, preamble="", answer="letter")
    everything = qa.encode(range(len(qa.list)))
    held_out = {one.question for one in qa.list[qa.epoch_size:]}
    for text, question in zip(texts(everything.question), qa.list, strict=True):
        *shots, last = [line for line in text.split("\n") if line.startswith("Question: ")]
        assert last == f"Question: {question.question}" and last not in shots
        assert len(set(shots)) == 3
        assert not {line.removeprefix("Question: ") for line in shots} & held_out


def test_examples_of_a_file_of_their_own(tmp_path: Path) -> None:
    """Its numbered rows are not those of other files; the words of held-out ones are refused."""
    path, shots = file_of(tmp_path / "x.csv", 20), tmp_path / "y.jsonl"
    held_out = task(path).list[-1]
    shots.write_text("\n".join(json.dumps({
        "question": question, "choices": ["one", "three"], "answer": 0, "rationale": "So it is."})
        for question in ("Why?", held_out.question, "How?")))
    qa = task(path, shots=2, shots_data=str(shots))
    assert sorted(one.question for one in qa.shots) == ["How?", "Why?"]
    assert texts(qa.test().question)[0].count("So it is. The answer is (A).") == 2
    with pytest.raises(UserError, match=r"task.shots=3: found 2 worked examples"):
        task(path, shots=3, shots_data=str(shots))


# --- judging and hints --------------------------------------------------------------------------


def test_judge(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv"))
    qa.list[1] = replace(qa.list[1], choices=("one", "two", "three"))
    problems = qa.encode([0, 1, 2])  # right are A, B, A

    def judged(texts: list[str], cut: bool = False) -> list[list[float]]:
        return qa.judge(problems, texts, [cut] * len(texts)).tolist()

    assert judged(["(A)", "The answer is B.", "A cell"]) == [[1, 0], [1, 1], [0, -1]]
    assert judged(["(A)", "A or B", "C", "b", "Answer: a", ""]) == [
        [1, 0], [0, -2], [0, 2], [1, 1], [1, 0], [0, -1]]
    assert judged(["(C)"] * 3) == [[0, -1], [0, 2], [0, -1]]
    assert judged(["(A)", "The answer is B", "A. "], cut=True) == [[0, -1]] * 3


def test_hints(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv"), answer="letter")
    problems = qa.encode([3, 0])
    hinted = qa.hinted(problems)
    right = [qa.list[i] for i in (3, 0)]
    assert qa.questions(hinted) == qa.questions(problems) == right
    for text, plain, one in zip(texts(hinted.question), texts(problems.question), right,
                                strict=True):
        assert text == plain + (f"(Hint: the right answer is ({one.letter}) "
                                f"{one.choices[one.answer]})\n")
    assert torch.equal(hinted.answer, problems.answer) and hinted.options is problems.options


def test_problems_can_be_written_and_read_again(tmp_path: Path) -> None:
    qa = task(file_of(tmp_path / "x.csv", 30, subjects=2))
    qa.list[1] = replace(qa.list[1], rationale="So.", choices=("one", "three", "four"))
    for kind in ("csv", "parquet"):
        path = tmp_path / f"out.{kind}"
        write_problems(path, qa.problems())
        again = task(path)
        assert [replace(one, split="") for one in again.list] == qa.list


# --- MMLU ---------------------------------------------------------------------------------------


def test_old_names_of_data_sets() -> None:
    assert [split_name(name) for name in ("mmlu", "mmlu_YO-NG", "mmlu_yo_ng", "MMLU_EN")] == [
        "EN", "YO-NG", "YO-NG", "EN"]
    with pytest.raises(ValueError, match="'gsm8k' is no name of MMLU"):
        split_name("gsm8k")


def hub(monkeypatch: pytest.MonkeyPatch, load) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load))


def test_english_comes_with_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, part: str, split: str) -> list[dict]:
        asked.append((name, part, split))
        return [{"question": f"{split} {i}", "subject": "" if "train" in split else "anatomy",
                 "choices": ["a", "b", "c", "d"], "answer": i % 4} for i in range(5)]

    hub(monkeypatch, load)
    qa = Mmlu(MmluKeys(seed=0), WORDS)
    assert asked == [("cais/mmlu", "all", split) for split in
                     ("auxiliary_train", "test", "validation")]
    assert (qa.epoch_size, len(qa.test())) == (5, 10)
    assert [one.id for one in qa.list[::5]] == ["train/0", "anatomy/test/0", "anatomy/val/0"]
    assert qa.list[3] == Question("train/3", "auxiliary_train 3", tuple("abcd"), 3, "", "EN",
                                  "train")


def test_translations_are_split_by_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, part: str, split: str) -> list[dict]:
        asked.append((name, part, split))
        return [{"Unnamed: 0": i, "Question": f"{part} {i}", "A": "a", "B": "b", "C": "c",
                 "D": "d", "Answer": "C", "Subject": "anatomy"} for i in range(200)]

    hub(monkeypatch, load)
    yoruba, german = (Mmlu(MmluKeys(language=language, seed=0), WORDS)
                      for language in ("YO-NG", "DE-DE"))
    assert asked == [("openai/MMMLU", part, "test") for part in ("YO_NG", "DE_DE")]
    assert [one.id for one in yoruba.list] == [one.id for one in german.list]
    assert 20 < len(yoruba.test()) < 60 and yoruba.epoch_size + len(yoruba.test()) == 200
    assert (yoruba.list[0].id[:13], yoruba.list[0].language) == ("anatomy/test/", "YO-NG")


def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, part: str, split: str) -> list[dict]:
        raise ConnectionError("no\nnetwork")

    hub(monkeypatch, load)
    with pytest.raises(UserError) as error:
        Mmlu(MmluKeys(language="YO-NG", seed=0), WORDS)
    assert str(error.value) == (
        "task.language=YO-NG: openai/MMMLU cannot be loaded (no network); legal: task.data=<file> "
        "with the questions, or a network and HF_HUB_OFFLINE not set")
    with pytest.raises(UserError, match="task.language=XX: found no such language on the hub; "
                       f"legal: EN, {', '.join(LANGUAGES)}, or task.data"):
        Mmlu(MmluKeys(language="XX", seed=0), WORDS)


def test_mmlu_from_a_file(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.csv")
    qa = TASKS["mmlu"].target(MmluKeys(data=str(path), language="IG", seed=0), WORDS)
    assert qa.epoch_size + len(qa.test()) == 10


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mmlu" / "mmlu_en_test.csv").is_file(),
                    reason="the files of shared/data are not here")
def test_real_files() -> None:
    english = read_questions(DATA / "mmlu" / "mmlu_en_test.csv")
    assert len(english) == 14042 and len({one.id for one in english}) == 14042
    assert [sum(one.letter == letter for one in english) for letter in "ABCD"] == [
        3222, 3462, 3582, 3776]
    answers = {one.id: one.answer for one in english}
    igbo = read_questions(DATA / "mmlu" / "mmlu_ig_test.csv")
    assert len(igbo) == 604 and all(answers[one.id] == one.answer for one in igbo)
    assert sum(one.rationale is not None for one in read_questions(
        DATA / "mmlu" / "mmlu_en_dev_cot.jsonl")) == 273
    qa = task(DATA / "qa" / "arc_easy_train.csv", test_data=str(DATA / "qa" / "arc_easy_test.csv"),
              answer="cloze")
    assert (qa.epoch_size, len(qa.test())) == (2241, 200)


# --- where a thought ends and an option begins --------------------------------------------------


def pair_of(tokenizer: Any, context: str, option: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what continues it, as lm-evaluation-harness defines them."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, option = context[:-spaces], context[-spaces:] + option
    whole = tokenizer.encode(context + option, add_special_tokens=False)
    before = tokenizer.encode(context, add_special_tokens=False)
    return before, whole[len(before):]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bridge, option", [
    ("\nAnswer:", " A"), ("\nAnswer: ", "A"), ("\nQuestion: Kí ni?\nAnswer:", " grey wölf"),
    ("", " The answer is (A)."), ("\nAnswer: (", "A")])
def test_bridge_and_option_are_the_tokens_they_are_behind_a_thought(kind: str, bridge: str,
                                                                    option: str) -> None:
    tokenizer = tokenizer_of(kind)
    thought = "the wolf"
    before, continuation = pair_of(tokenizer, thought + bridge, option)
    own = tokenizer.encode(thought, add_special_tokens=False)
    assert before[:len(own)] == own
    context, found = TextVocabulary(tokenizer).continued(bridge, option)
    assert (context, found) == (before[len(own):], continuation)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_with_thoughts_have_these_tokens(kind: str, tmp_path: Path) -> None:
    words = TextVocabulary(tokenizer_of(kind))
    qa = Qa(QaKeys(data=str(file_of(tmp_path / "x.csv")), seed=0, answer="cloze"), words)
    problems = qa.test()
    assert problems.answer_prefix is not None and problems.options is not None
    for row, question in enumerate(qa.questions(problems)):
        for number, option in enumerate(prompts.options(question, "cloze")):
            context, found = words.continued(prompts.bridge(question, "cloze"), option)
            assert problems.answer_prefix[row].tolist()[-len(context):] == context
            assert problems.options[row, number].tolist()[:len(found)] == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["letter", "cloze"])
def test_without_thoughts_prompt_bridge_and_option_are_one_text(kind: str, answer: str,
                                                                tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    qa = Qa(QaKeys(data=str(file_of(tmp_path / "x.csv")), seed=0, answer=answer, preamble="Hi."),
            TextVocabulary(tokenizer), thinks=False)
    problems = qa.test()
    for row, question in enumerate(qa.questions(problems)):
        asked = "\n".join(text for _, text in prompts.turns(question, "Hi.", [], answer)) + "\n"
        for number, option in enumerate(prompts.options(question, answer)):
            expected = pair_of(tokenizer, asked + prompts.bridge(question, answer), option)
            assert problems.answer_prefix is not None and problems.options is not None
            parts = problems.question[row], problems.answer_prefix[row], problems.options[
                row, number]
            first, last, rest = ([token for token in part.tolist() if token != problems.pad]
                                 for part in parts)
            assert ([*first, *last], rest) == expected


@pytest.mark.parametrize("unit, sizes", [("byte", [3, 27]), ("character", [3, 13]),
                                         ("none", [1, 1])])
def test_the_size_of_an_option_is_that_of_its_own_text(unit: str, sizes: list[int],
                                                       tmp_path: Path) -> None:
    """Whatever the tokens are: characters of three bytes here, of up to three tokens each."""
    (tmp_path / "x.csv").write_text("question,A,B,answer\nምን?,ike,መልሱ ike ውሃ ነው,B\n")
    for kind in KINDS:
        qa = Qa(QaKeys(data=str(tmp_path / "x.csv"), seed=0, answer="cloze", score_per=unit,
                       held_out=1), TextVocabulary(tokenizer_of(kind)))
        found = qa.test().option_sizes
        assert found is not None and found[0].tolist() == sizes


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mmlu" / "mmlu_ig_test.csv").is_file(),
                    reason="the files of shared/data are not here")
def test_every_igbo_option_has_its_own_bytes() -> None:
    qa = task(DATA / "mmlu" / "mmlu_ig_test.csv", answer="cloze", held_out=1, test_questions=604)
    problems, space = qa.test(), len(WORDS.encode(" "))
    assert problems.options is not None and problems.option_sizes is not None
    tokens = (problems.options != problems.pad).sum(2) - space  # a token is a byte
    assert problems.option_sizes.numel() == 2416 and torch.equal(problems.option_sizes, tokens)
