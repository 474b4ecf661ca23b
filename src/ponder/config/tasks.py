"""Keys of the tasks: one dataclass a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ponder.config.option import option
from ponder.config.registry import TASKS, Entry, first_line

NUMBER_TOKENS = 1_000_000
TABLES, QUESTIONS = (".csv", ".parquet"), (".csv", ".jsonl", ".parquet")  # files of problems
LANGUAGES = ("AR-XY", "BN-BD", "DE-DE", "ES-LA", "FR-FR", "HI-IN", "ID-ID", "IT-IT", "JA-JP",
             "KO-KR", "PT-BR", "SW-KE", "YO-NG", "ZH-CN")  # of openai/MMMLU


@dataclass
class AddTask:
    """Sums of digit strings: `31+84=`, modular or plain."""

    name: str = option("add", "name of the task", legal=("add",))
    max: int = option(100, "operands (and, if modular, answers) are below this", low=2, high=10**15)
    terms: int = option(2, "how many numbers are added", low=2, high=16)
    modular: bool = option(True, "answer modulo max; false: the plain sum")
    answer: str = option("number", "answer as one number token or as digits",
                         legal=("number", "digits"))
    order: str = option("most", "digits of thoughts and answers: most or least significant first",
                        legal=("most", "least"))
    gold: str = option("digits", "gold thought: digits of the answer, scratchpad (column sums with "
                       "carries), or none", legal=("digits", "scratchpad", "none"))
    split: str = option("random", "held out: a random share, or whole combinations of unit digits",
                        legal=("random", "systematic"))
    held_out: float = option(0.2, "share of the questions that is never trained on", low=0.0,
                             high=0.9)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    data: str | None = option(None, "read the problems from this .csv or .parquet file instead")
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option(
        "${ponder.gold_length:${.max},${.terms},${.modular},${.gold}}",
        "tokens of the gold thought, computed; the `think` variant allows as many")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        largest = self.max - 1 if self.modular else self.terms * (self.max - 1)
        if self.answer == "number" and largest >= NUMBER_TOKENS:
            yield (f"task.max={self.max}: found answers up to {largest}, too many for a token "
                   f"each; legal: answers below {NUMBER_TOKENS}, or task.answer=digits")
        if self.gold == "scratchpad" and self.terms > 10:
            yield (f"task.terms={self.terms}: found carries that are no digit, in "
                   "task.gold=scratchpad; legal: at most 10")
        length = gold_length(self.max, self.terms, self.modular, self.gold)
        if self.thought_length != length:
            yield (f"task.thought_length={self.thought_length}: found another length than the "
                   f"gold thought has; legal: {length} (set thinker.tokens for more)")
        yield from missing("data", self.data, TABLES)
        if self.held_out == 0 and self.data is None:
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, at most 0.9")


@dataclass
class AdditionTask:
    """Sums of two numbers of equal length, shorter and longer ones (STaR's first experiment)."""

    gold_vocabulary = 20  # thought tokens that its gold thoughts are spelt in

    name: str = option("addition", "name of the task", legal=("addition",))
    digits: int = option(5, "the longest numbers have so many digits", low=1, high=16)
    epoch_size: int = option(4000, "training questions of a round, drawn anew", low=1)
    worked: int = option(200, "short sums whose scratchpads are given (trainer.rehearse)", low=1)
    worked_digits: int = option(2, "these have at most so many digits", low=1)
    held_out: float = option(0.2, "share of the questions that is never trained on", low=0.01,
                             high=0.9)
    test_questions: int = option(2000, "held-out questions used by an evaluation", low=1)
    gold: str = option("scratchpad", "gold thought: the sums of the columns",
                       legal=("scratchpad",))
    seed: int = option("${seed}", "which questions are held out")
    thought_length: int = option("${.digits}", "tokens of the longest gold thought, computed; the "
                                 "`think` variant allows as many")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.worked_digits > self.digits:
            yield (f"task.worked_digits={self.worked_digits}: found more than task.digits; legal: "
                   f"at most {self.digits}")
        if self.thought_length != self.digits:
            yield (f"task.thought_length={self.thought_length}: found another length than the "
                   f"gold thought has; legal: {self.digits} (set thinker.tokens for more)")


PREAMBLES = {
    "generated": "Think step by step about the following question, then end with \"The answer is "
                 "(X).\", where X is the letter of the right option.",
    "letter": "Think step by step about the following question and its options.",
    "cloze": "Think step by step about the following question.",
}


@dataclass
class QaTask:
    """Multiple-choice questions from a file."""

    name: str = option("qa", "name of the task", legal=("qa",))
    data: str | None = option(None, "questions: .csv, .jsonl or .parquet with the columns "
                              "question, A, B, ... (or choices), answer, and perhaps id, subject, "
                              "split")
    test_data: str | None = option(None, "held-out questions; null: the rows of `data` whose "
                                   "split is test or val, else a share of them")
    subjects: list[str] = option([], "only questions of these subjects; none: of all")
    train_questions: int | None = option(None, "train on so many questions; null: on all", low=1)
    test_questions: int = option(200, "held-out questions used by an evaluation", low=1)
    held_out: float = option(0.2, "share that is held out where no split says which", low=0.0,
                             high=0.9)
    answer: str = option("generated", "how a question is answered: by a letter in the written "
                         "text, by the likeliest letter after the thought, or by the likeliest "
                         "text of an option after it", legal=("generated", "letter", "cloze"))
    preamble: str | None = option(None, "instruction in front of the question; null: one that "
                                  "fits task.answer")
    shots: int = option(0, "worked examples in front", low=0)
    shots_data: str | None = option(None, "file of the worked examples, with a column rationale "
                                    "where they think; null: training questions")
    shuffle: bool = option(True, "training questions in a new order every epoch")
    gold: str = option("none", "there are no gold thoughts", legal=("none",))
    thought_length: int = option(128, "longest rationale in tokens; the `think` variant allows as "
                                 "many", low=1)
    seed: int = option("${seed}", "which questions are held out")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.data is None and self.name == "qa":
            yield ("task.data=null: found no questions; legal: task.data=<file>.csv, .jsonl, "
                   ".parquet")
        for key in ("data", "test_data", "shots_data"):
            yield from missing(key, getattr(self, key), QUESTIONS)
        if self.held_out == 0 and self.test_data is None and self.name == "qa":
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, or task.test_data=<file>")


@dataclass
class MmluTask(QaTask):
    """MMLU (Hendrycks et al. 2020) in English or translated: from the hub, or from files."""

    name: str = option("mmlu", "name of the task", legal=("mmlu",))
    language: str = option("EN", "EN (cais/mmlu), or a language of openai/MMMLU such as YO-NG")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        yield from super().contradictions()
        if self.data is None and self.language not in ("EN", *LANGUAGES):
            yield (f"task.language={self.language}: found no such language on the hub; legal: EN, "
                   f"{', '.join(LANGUAGES)}, or task.data=<file> with the questions")


def missing(key: str, path: str | None, kinds: tuple[str, ...]) -> Iterator[str]:
    """The line that says that a file of problems is not there, or none."""
    if path is not None and not (Path(path).is_file() and path.endswith(kinds)):
        yield (f"task.{key}={path}: found no such table; legal: a file that ends in "
               f"{', '.join(kinds[:-1])} or {kinds[-1]}")


def split_name(name: str) -> str:
    """The language in an old name of a data set: `mmlu_YO-NG` -> `YO-NG`, `mmlu` -> `EN`."""
    task, _, language = name.partition("_")
    if task.lower() != "mmlu":
        raise ValueError(f"{name!r} is no name of MMLU; legal: mmlu, mmlu_<language>")
    return language.upper().replace("_", "-") or "EN"


def gold_length(limit: int, terms: int, modular: bool, gold: str) -> int:
    """Tokens of the gold thought of an `add` problem (see tasks/add.py)."""
    digits = len(str(limit - 1 if modular else terms * (limit - 1)))
    if gold != "scratchpad":
        return digits
    columns = len(str(limit - 1))
    reduced = modular and 10**columns != limit
    return 2 * columns + (digits if reduced else 0)


OFFERS = {"add": {"questions", "answers", "labels", "gold_thoughts"},
          "addition": {"questions", "answers", "gold_thoughts", "hints", "worked_examples"},
          "qa": {"questions", "answers", "options", "hints"},
          "mmlu": {"questions", "answers", "options", "hints"}}
REQUIRES = {"add": {"own_network"}, "addition": {"own_network"}, "qa": {"hf_model"},
            "mmlu": {"hf_model"}}
for _keys in (AddTask, AdditionTask, QaTask, MmluTask):
    _name = _keys().name
    TASKS.add(Entry("task", _name, None, "ponder.tasks", first_line(_keys), _keys,
                    frozenset(REQUIRES[_name]), frozenset(OFFERS[_name])))
