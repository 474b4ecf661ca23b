r"""Questions with free answers, which a parser reads and a function verifies.

Columns, in upper or lower case: `question` (or problem); `answer`; and perhaps `rationale` (or
thought, solution), `id`, `subject`, `split`, `language`. Other columns are ignored. An answer that
ends with "#### 42" (GSM8K, Cobbe et al. 2021) is a rationale and the answer 42; without a column
answer it is what stands in the last \boxed{} of the solution (MATH, Hendrycks et al. 2021). Splits
and ids are those of `questions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import VERIFIERS, task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Row, read_table
from ponder.tasks.choice import reading, verify
from ponder.tasks.choice.answers import UNPARSED
from ponder.tasks.choice.qa import Qa, QuestionKeys
from ponder.tasks.choice.questions import (
    HELD_OUT,
    TRAINED,
    Question,
    hub_rows,
    own_id,
    split_of,
    text_of,
)

ALIASES = {"question": ("question", "problem"), "answer": ("answer",),
           "rationale": ("rationale", "thought", "solution"), "id": ("id",),
           "subject": ("subject",), "split": ("split",), "language": ("language",)}
MARK = "####"  # between the rationale and the answer of GSM8K


@dataclass
class FreeKeys(QuestionKeys):
    """Questions with free answers, from a file or the hub (GSM8K and kin)."""

    name: str = option("free", "name of the task", legal=("free",))
    data: str | None = option(None, "questions: .csv, .jsonl or .parquet with the columns question "
                              "and answer, and perhaps rationale, id, subject, split; or the name "
                              "of a data set of the hub (openai/gsm8k)")
    subset: str | None = option(None, "configuration of the data set of the hub (main)")
    parser: str = option("auto", "where the answer stands in a written text: in the last "
                         "\\boxed{}, in the last <answer>...</answer>, behind the last \"The "
                         "answer is\" or ####, on the last line, anywhere; number: the one number "
                         "there; auto: a box, else a tag, else a statement, else a short last line",
                         legal=reading.PARSERS)
    verify: str = option("exact", "what an answer must be: the same text, the same number, equal "
                         "in mathematics (extra math), or what a plugin says",
                         legal=VERIFIERS.names)

    @property
    def hub(self) -> bool:
        """Whether `data` is the name of a data set of the hub: `owner/name`, and no file."""
        data = self.data or ""
        return data.count("/") == 1 and not data.startswith((".", "/", "~")) and not Path(
            data).exists() and not Path(data).suffix

    @property
    def file_keys(self) -> tuple[str, ...]:
        return tuple(key for key in super().file_keys if key != "data" or not self.hub)

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        yield from super().contradictions(config)
        refuses = VERIFIERS[self.verify].refuses
        yield from refuses(config) if refuses else ()
        if self.verify == "exact" and self.parser == "number":
            yield ("task.verify=exact: found task.parser=number, which reads 5 where the text says "
                   "5.0; legal: task.verify=number")


@task("free", keys=FreeKeys)
class Free(Qa):
    """Questions with free answers: an answer is a text, which `task.verify` compares with the right
    one. Splits and worked examples are those of multiple-choice questions.
    """

    offers = frozenset({"questions", "answers", "hints"})
    from_files = True
    config: FreeKeys

    # --- answers --------------------------------------------------------------------------------

    @property
    def way(self) -> str:
        parser = self.config.parser
        return "stated" if parser in ("auto", "number") else parser

    def judge(self, problems: Problems, texts: list[str], cut: list[bool]) -> Tensor:
        """(B, 2): how right each text's answer is (1: right), and its number among the different
        answers to its question: 0 the right one, -1 no answer, -2 several.
        """
        questions, found = self.questions(problems), []
        samples = len(texts) // max(len(questions), 1)
        for p, question in enumerate(questions):
            known: dict[str, tuple[float, int]] = {}
            for text, ended in list(zip(texts, cut, strict=True))[p * samples:(p + 1) * samples]:
                said, status = self._read(text, ended)
                if said is None:
                    found.append((0.0, UNPARSED[status]))
                    continue
                name = verify.plain(said)
                if name not in known:
                    score = self.score(question, said)
                    known[name] = score, 0 if score >= 1 else 1 + len(known)
                found.append(known[name])
        return torch.tensor(found, dtype=torch.float32, device=problems.question.device).view(-1, 2)

    def score(self, question: Question, said: str) -> float:
        """How right an answer is, from 0 to 1."""
        found = VERIFIERS[self.config.verify].target(said, self.gold(question))
        return min(max(float(found), 0.0), 1.0)

    def _read(self, text: str, cut: bool) -> reading.Said:
        parser = self.config.parser
        by_number = parser == "auto" and self.config.verify == "number"
        return reading.read(text, "number" if by_number else parser, cut)

    def said(self, question: Question, number: int, text: str, cut: bool) -> str:
        return self._read(text, cut).text or ""

    def gold(self, question: Question) -> str:
        return question.choices[question.answer]

    def chance(self, problems: Problems) -> float:
        """0, as there is nothing to choose from."""
        return 0.0

    @classmethod
    def typed(cls, text: str) -> Question:
        """Any text is a question; its right answer is unknown."""
        return Question(text, text.strip(), ("?",), 0)

    def _rows(self, questions: list[Question]) -> list[Problem]:
        return [Problem(one.question, self.gold(one), one.rationale, {
            "id": one.id, "subject": one.subject, "language": one.language}) for one in questions]

    # --- which questions ------------------------------------------------------------------------

    def data(self) -> list[Question]:
        """The questions of `task.data`: a file, or the hub."""
        if not self.config.hub:
            return super().data()
        name, subset = str(self.config.data), self.config.subset
        rows: list[Row] = []
        for split in _splits(name, subset):
            part = hub_rows(f"task.data={name}", name, subset, split)
            rows += [(where, {**row, "split": split if split in (*TRAINED, *HELD_OUT) else ""})
                     for where, row in part]
        return free_questions(name, rows, self.config.verify)

    def read(self, path: Path) -> list[Question]:
        return free_questions(str(path), read_table(path), self.config.verify)


def _splits(name: str, subset: str | None) -> list[str]:
    """The splits of a data set of the hub. Raises `UserError` where it cannot be loaded."""
    try:
        from datasets import get_dataset_split_names

        return list(get_dataset_split_names(name, subset))
    except Exception:  # the same that loading its rows says
        return ["train"]


def free_questions(source: str, rows: list[Row], verifier: str = "exact") -> list[Question]:
    """The questions of some rows. Raises `UserError` that names the row of the first defect."""
    names = _columns(source, rows)
    accepts = VERIFIERS[verifier].accepts
    numbers: Counter[tuple[str, str]] = Counter()
    questions = []
    for where, row in rows:
        cells = {name: text_of(where, name, row.get(column)) for name, column in names.items()}
        answer, rationale = cells.get("answer", ""), cells.get("rationale", "")
        if MARK in answer:
            before, _, answer = answer.rpartition(MARK)
            rationale, answer = rationale or before.strip(), answer.strip()
        if "answer" not in names:
            answer = reading.place(rationale, "boxed") or ""
        for name, text in (("question", cells["question"]), ("answer", answer)):
            if not text:
                raise UserError(f"{where}: found no {name}; legal: text")
        wanted = accepts(answer) if accepts else None
        if wanted:
            raise UserError(f"{where}: found answer {answer[:60]!r}, with task.verify={verifier}; "
                            f"legal: {wanted}, or another task.verify")
        subject, split = cells.get("subject", ""), split_of(where, cells.get("split"))
        questions.append(Question(
            cells.get("id") or own_id(subject, split, numbers), cells["question"], (answer,), 0,
            subject, cells.get("language", ""), split, rationale or None))
    return questions


def _columns(source: str, rows: list[Row]) -> dict[str, str]:
    """Name of each cell of a question -> its column. Raises `UserError` for a missing column, and
    where two say the same.
    """
    found = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    names: dict[str, str] = {}
    for name, aliases in ALIASES.items():
        columns = [column for column in found if column.strip().lower() in aliases]
        if len(columns) > 1:
            raise UserError(f"{source}: found columns {columns[0]} and {columns[1]}; legal: one of "
                            "them")
        names |= dict.fromkeys([name], columns[0]) if columns else {}
    missing = [name for name in ("question", "answer") if name not in names
               and not (name == "answer" and "rationale" in names)]
    if missing:
        raise UserError(f"{source}: found columns {', '.join(found)[:200]}, but not "
                        f"{', '.join(missing)}; legal: question, answer")
    return names
