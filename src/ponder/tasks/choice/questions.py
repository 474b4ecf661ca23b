"""Multiple-choice questions: how files and data sets of the hub spell them, and their prompts.

Columns, in upper or lower case: `question`; the options, as columns `A`, `B`, ... up to `J`, or as
one column `choices` that holds a list (in a .csv as JSON); `answer`; and perhaps `id`, `subject`,
`split`, `language`, `rationale` (or `thought`), `passage`. Other columns are ignored. That covers
our own files, openai/MMMLU (`Question,A,B,C,D,Answer,Subject`) and cais/mmlu (`choices`, `answer`
as a number).

- Options: 2 to 10. A row may have fewer than others: its last cells are empty.
- Answer: a letter of an option, or else its text in full. Where options are a list, a number is the
  index into it, from 0; a number that is text ("2") must not be the text of another option.
- Split: train, dev or auxiliary_train are trained on, test, val and validation are held out.
- Id: where there is none, subject/split/number, where number counts the rows of that subject and
  split from 0, so translations of a data set in the same order get the same ids. Rows with the same
  id are the same question, perhaps in different languages.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.core.types import Problem
from ponder.tasks.base import Row, read_table
from ponder.tasks.choice.answers import LETTERS

LANGUAGES = ("AR-XY", "BN-BD", "DE-DE", "ES-LA", "FR-FR", "HI-IN", "ID-ID", "IT-IT", "JA-JP",
             "KO-KR", "PT-BR", "SW-KE", "YO-NG", "ZH-CN")  # of openai/MMMLU
_OPTION = re.compile(r"\(?([A-J])[.):]\s*(\S.*)")
TRAINED, HELD_OUT = ("train", "dev", "auxiliary_train"), ("test", "val", "validation")


@dataclass(frozen=True)
class Question:
    """A question and its options; answer is the number of the right one. A free question has one
    option, which is not shown: its right answer.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""
    language: str = ""
    split: str = ""
    rationale: str | None = None
    passage: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What it says, whatever the order of its options; its id may be that of another one."""
        return (self.question, *sorted(self.choices))

    @property
    def letters(self) -> str:
        """A letter for each option."""
        return LETTERS[:len(self.choices)]

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.answer]


def read_questions(path: Path, language: str = "") -> list[Question]:
    """The questions of a file. Raises `UserError` that names the line of the first defect."""
    return questions_of(str(path), read_table(path), language)


def questions_of(source: str, rows: list[Row], language: str = "") -> list[Question]:
    """The questions of some rows. language: that of rows without a column `language`."""
    names = _columns(source, rows)
    numbers: Counter[tuple[str, str]] = Counter()
    questions = []
    for where, row in rows:
        cells = {name: row.get(column) for name, column in names.items()}
        subject, split = _text(cells.get("subject")), split_of(where, cells.get("split"))
        own = own_id(subject, split, numbers)
        choices = _choices(where, cells)
        question = _text(cells["question"])
        if not question:
            raise UserError(f"{where}: found no question; legal: text")
        questions.append(Question(
            _text(cells.get("id")) or own, question, choices, _answer(where, cells, choices),
            subject, _text(cells.get("language")) or language, split,
            _text(cells.get("rationale", cells.get("thought"))) or None,
            text_of(where, "passage", cells.get("passage"))))
    return questions


def hub_rows(key: str, name: str, part: str | None, split: str) -> list[Row]:
    """The rows of a split of a data set of the hub, each with its place. Raises `UserError`, which
    names a key, if they cannot be loaded.
    """
    try:
        from datasets import load_dataset

        rows: Any = list(load_dataset(name, part, split=split))
    except Exception as error:  # the network, the hub, the disk: each has errors of its own
        raise UserError(
            f"{key}: {name} cannot be loaded ({brief(error)}); legal: task.data=<file> with the "
            "questions, or a network and HF_HUB_OFFLINE not set") from None
    place = "/".join(filter(None, (name, part, split)))
    return [(f"{place}, row {i}", row) for i, row in enumerate(rows, start=1)]


def typed_question(text: str) -> Question:
    """A question that is typed: its text, then a line for each option, as `A. blue`.

    Raises `UserError` where it has no such lines. The right option is unknown, so `answer` is 0.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    found = [_OPTION.fullmatch(line) for line in lines]
    first = next((row for row, option in enumerate(found) if option), len(lines))
    options = [option for option in found[first:] if option]
    letters = "".join(option[1] for option in options)
    if not (first and len(options) == len(lines) - first >= 2 and LETTERS.startswith(letters)):
        shown = text[:40].replace("\n", "\\n")
        raise UserError(f"prompt={shown}: found no options after a question; legal: its text, "
                        "then a line for each option: A. ..., B. ...")
    choices = tuple(option[2] for option in options)
    return Question(text, "\n".join(lines[:first]), choices, 0)


def _columns(source: str, rows: list[Row]) -> dict[str, str]:
    """Lower-case name of each column -> its name in the rows.

    Raises `UserError` for a missing column, and for one that is there twice.
    """
    found = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    names: dict[str, str] = {}
    for column in found:
        name = column.strip().lower()
        if name in names:
            raise UserError(f"{source}: found columns {names[name]} and {column}; legal: one of "
                            "them")
        names[name] = column
    for one, other in (("choices", "a"), ("rationale", "thought")):
        if one in names and other in names:
            raise UserError(f"{source}: found columns {names[one]} and {names[other]}; legal: one "
                            "of them")
    needed = ["question", *([] if "choices" in names else ["a", "b"]), "answer"]
    missing = [name.upper() if len(name) == 1 else name for name in needed if name not in names]
    if missing:
        raise UserError(f"{source}: found columns {', '.join(found)[:200]}, but not "
                        f"{', '.join(missing)}; legal: question, A, B, ... (or choices), answer")
    return names


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def text_of(where: str, name: str, cell: Any) -> str:
    """A cell as text. Raises `UserError` for a list or a record."""
    if isinstance(cell, list | dict):
        raise UserError(f"{where}: found {name} {_short(cell)}; legal: text")
    return _text(cell)


def own_id(subject: str, split: str, numbers: Counter[tuple[str, str]]) -> str:
    """The id of a row without one; numbers counts the rows of each subject and split before it."""
    number = numbers[subject, split]
    numbers[subject, split] += 1
    return "/".join(filter(None, (subject, split, str(number))))


def split_of(where: str, cell: Any) -> str:
    """A split as it is called here. Raises `UserError` where it is none."""
    split = _text(cell).lower()
    if split and split not in (*TRAINED, *HELD_OUT):
        raise UserError(f"{where}: found split {_short(cell)}; legal: "
                        f"{', '.join((*TRAINED, *HELD_OUT))}")
    return split


def _choices(where: str, cells: dict[str, Any]) -> tuple[str, ...]:
    """The options of a row without the empty ones at its end."""
    cell = cells.get("choices")
    if "choices" in cells:
        with contextlib.suppress(ValueError):
            cell = json.loads(cell) if isinstance(cell, str) else cell
        if not isinstance(cell, list):
            raise UserError(f"{where}: found choices {_short(cell)}; legal: a list")
        choices = [_text(choice) for choice in cell]
    else:
        more = takewhile(cells.__contains__, ascii_lowercase[len(LETTERS):])
        letters = [*LETTERS.lower(), *(more if "j" in cells else ())]
        choices = [_text(cells.get(letter)) for letter in letters]
    while choices and not choices[-1]:
        choices.pop()
    if "" in choices[:len(LETTERS)]:
        letter = LETTERS[choices.index("")]
        raise UserError(f"{where}: found no option {letter}, but options after it; legal: "
                        "options one after the other")
    if not 2 <= len(choices) <= len(LETTERS):
        raise UserError(f"{where}: found {len(choices)} options; legal: 2 to {len(LETTERS)}")
    return tuple(choices)


def _answer(where: str, cells: dict[str, Any], choices: tuple[str, ...]) -> int:
    """The number of the right option. Raises `UserError` where none, or more than one, is meant."""
    cell, count = cells["answer"], len(choices)
    listed, text = "choices" in cells, _text(cell)
    if listed and isinstance(cell, int) and not isinstance(cell, bool):
        found = {cell} & set(range(count))
    elif len(text) == 1 and text.upper() in LETTERS[:count]:
        found = {LETTERS.index(text.upper())}
    else:
        found = {i for i, choice in enumerate(choices) if choice == text and text}
        if listed and text.isascii() and text.isdecimal() and int(text) < count:
            found.add(int(text))
    if len(found) != 1:
        numbers = f", 0 to {count - 1}" if listed else ""
        many = f", which may be {' or '.join(LETTERS[i] for i in sorted(found))}" if found else ""
        raise UserError(f"{where}: found answer {_short(cell)}{many}; legal: A to "
                        f"{LETTERS[count - 1]}{numbers}, or the text of an option")
    return found.pop()


def _short(cell: Any) -> str:
    """A cell in a message, cut after 60 characters."""
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:57]}..."


def signs(questions: list[Question]) -> set[tuple[str, ...]]:
    """What identifies questions: their words, and ids that are more than a row number."""
    return {(one.question, *one.choices) for one in questions} | {
        (one.id,) for one in questions if not one.id.isdecimal()}


def same(one: Question, other: Question) -> bool:
    return bool(signs([one]) & signs([other]))


def different(pool: Sequence[Question], out: set[tuple[str, ...]], count: int) -> list[Question]:
    """The first `count` questions that differ from each other and have no sign of `out`."""
    chosen: list[Question] = []
    for one in pool:
        if not out & signs([one]) and not any(same(one, other) for other in chosen):
            chosen.append(one)
        if len(chosen) == count:
            break
    return chosen


def as_row(question: Question, width: int) -> Problem:
    cells = dict(zip(LETTERS, question.choices, strict=False))
    return Problem(question.question, question.letter, question.rationale, {
        **{letter: cells.get(letter, "") for letter in LETTERS[:width]},
        "id": question.id, "subject": question.subject, "language": question.language,
        **({"passage": question.passage} if question.passage else {})})


def size_of(choice: str, unit: str) -> int:
    """How long the text of an option is, in a unit of `task.score_per`."""
    return {"byte": len(choice.encode()), "character": len(choice), "none": 1}[unit]


# --- prompts ------------------------------------------------------------------------------------

Turns = list[tuple[str, str]]
PREAMBLES = {
    "generated": "Think step by step about the following question, then end with \"The answer is "
                 "(X).\", where X is the letter of the right option.",
    "letter": "Think step by step about the following question and its options.",
    "cloze": "Think step by step about the following question.",
    "stated": "Think step by step about the following question, then end with \"The answer is "
              "X.\", where X is the answer.",
    "boxed": "Think step by step about the following question, then end with the answer in "
             "\\boxed{}.",
    "tag": "Think step by step about the following question, then end with <answer>X</answer>, "
           "where X is the answer.",
    "last_line": "Think step by step about the following question, then write the answer alone on "
                 "the last line.",
    "whole": "Answer the following question with the answer alone.",
}
FREE = {"stated": " The answer is {}.", "boxed": " \\boxed{{{}}}", "tag": " <answer>{}</answer>",
        "last_line": "\n{}",
        "whole": "{}"}  # how a text ends with a free answer


ASKS = "Question: "  # before every question
NEXT = f"\n{ASKS.rstrip()}"  # where a base model goes on to the next one


def turns(question: Question, preamble: str, examples: Sequence[Question], answer: str,
          hint: bool = False) -> Turns:
    """(role, text) of a dialogue: preamble, worked examples, and the question.

    hint: add the right answer to the question, so that thoughts can lead to it (the rationalisation
    of STaR).
    """
    asked = [text for example in examples
             for text in (("user", shown(example, answer)), ("assistant", worked(example, answer)))]
    last = shown(question, answer) + (f"\n{hinted(question, answer)}" if hint else "")
    (role, first), *rest = [*asked, ("user", last)]
    return [(role, f"{preamble}\n\n{first}" if preamble else first), *rest]


def shown(question: Question, answer: str) -> str:
    """The question, with a line for each option unless they are to be written out."""
    lines = [f"{ASKS}{question.question}"]
    if answer not in ("cloze", *FREE):
        lines += [f"{letter}. {choice}" for letter, choice in
                  zip(question.letters, question.choices, strict=True)]
    return "\n".join(lines)


def hinted(question: Question, answer: str) -> str:
    """The line that tells the right answer."""
    right = question.choices[question.answer]
    return (f"(Hint: the right answer is: {right})" if answer in ("cloze", *FREE)
            else f"(Hint: the right answer is ({question.letter}) {right})")


def worked(question: Question, answer: str) -> str:
    """An example's reply by the assistant: the rationale, if there is one, and the answer."""
    end = bridge(question, answer) + options(question, answer)[question.answer]
    return ((question.rationale or "") + end).strip()


def bridge(question: Question, answer: str) -> str:
    """The text between the thought and an option."""
    return {"letter": "\nAnswer:",
            "cloze": f"\n{ASKS}{question.question}\nAnswer:"}.get(answer, "")


def options(question: Question, answer: str) -> list[str]:
    """The text of each option, as it follows the bridge; of a free question its right answer."""
    if answer in FREE:
        return [FREE[answer].format(question.choices[0])]
    if answer == "cloze":
        return [f" {choice}" for choice in question.choices]
    return [f" The answer is ({letter})." if answer == "generated" else f" {letter}"
            for letter in question.letters]


def longest(asked: Iterable[tuple[Question, list[str], Callable[[], tuple[int, int]]]],
            answer: str, fits: int) -> tuple[int, int, str]:
    """(tokens of the prompt, of its answer, id) of the longest of some questions, each with the
    texts in front of its options and what counts those tokens. It counts where all texts have more
    than `fits` bytes only, as no tokenizer makes more tokens of them; (0, 0, "") where none has.
    """
    found = [(0, 0, 0, "")]
    for question, before, count in asked:
        texts = [*before, max(options(question, answer), key=lambda text: len(text.encode()))]
        if sum(len(text.encode()) for text in texts) > fits:
            prompt, rest = count()
            found.append((prompt + rest, prompt, rest, question.id))
    return max(found)[1:]


def split_name(name: str) -> str:
    """The language in an old name of a data set: `mmlu_YO-NG` -> `YO-NG`, `mmlu` -> `EN`."""
    task, _, language = name.partition("_")
    if task.lower() != "mmlu":
        raise ValueError(f"{name!r} is no name of MMLU; legal: mmlu, mmlu_<language>")
    return language.upper().replace("_", "-") or "EN"
