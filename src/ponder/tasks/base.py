"""What all tasks share: `Task`, tables of problems in files, and hashes that split problems."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ponder.config.errors import UserError, must_be_text, replacing
from ponder.config.examples import located
from ponder.config.registry import DEFAULT_VARIANTS
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems

Number = TypeVar("Number", int, Tensor)

class Task:
    """Questions with their answers and gold thoughts, as tokens and as text.

    vocabulary: the tokens, a `Vocabulary` or a `TextVocabulary`. labels: number of distinct answers
    where `Problems.label` numbers them, else None. question_length, answer_length: tokens of the
    longest one. policy_kind: which policy answers its questions: question, choice, next_token or
    continuation. epoch_size: how many training questions there are, where a round is all of them;
    None where they never end. asks, asked_length: questions about each thought, and their tokens.
    """

    Keys: ClassVar[Any]  # the dataclass of the keys
    requires: ClassVar[frozenset[str]] = frozenset()  # words of `registry.ABILITIES`
    offers: ClassVar[frozenset[str]] = frozenset()
    gold_vocabulary: ClassVar[int] = 10  # thought tokens that spell any gold thought
    policy_kind: ClassVar[str] = "question"
    experiment: ClassVar[str | None] = None  # file of conf/experiment/ to begin with
    variants: ClassVar[Sequence[str]] = DEFAULT_VARIANTS  # where no word is said about them
    config: Any
    vocabulary: Any
    from_left = False  # questions are padded on the right, and positions count the padding
    unit = "questions"  # what its problems are called in messages
    labels: int | None = None
    remarks: tuple[str, ...] = ()  # warnings about its problems, where they are trained on
    doubts: tuple[str, ...] = ()  # the same, whatever is done with them
    epoch_size: Any = None  # a whole number, where a round is a data set
    question_length: Any
    answer_length: Any
    asks = asked_length = 0

    def __init__(self, keys: Any = None, thoughts: int = 0, asks: int = 0, **values: Any) -> None:
        """A task with the values of its keys, as `Parity(bits=8)` or from a configuration.

        thoughts: the thought tokens of its vocabulary. asks: questions about each thought; 0: its
        own alone. Raises `UserError` where a side of the split is empty, or `task.data` is wrong.
        """
        if keys is None:
            keys = type(self).Keys(**{"seed": 0, "thought_length": 0, **values})
        self._take_keys(keys)
        self.asks = asks
        self._prepare(thoughts)

    def _take_keys(self, keys: Any) -> None:
        self.config = keys
        vars(self).update(vars(keys))

    @classmethod
    def _bare(cls, keys: Any) -> Any:
        """A task that has its keys and nothing else."""
        task = cls.__new__(cls)
        task._take_keys(keys)
        return task

    @classmethod
    def check_files(cls, keys: Any, thoughts: int = 0) -> None:
        """Read the files that keys of the task name, before anything heavy is loaded. thoughts: how
        many thought tokens its vocabulary will have. Raises `UserError` where one cannot be used.
        """
        if getattr(keys, "data", None) is not None:
            problem_rows(Path(keys.data))

    def _prepare(self, thoughts: int) -> None:
        """Build the vocabulary and what else follows from the keys."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems."""
        raise NotImplementedError

    @abstractmethod
    def test(self) -> Problems:
        """The held-out problems: always the same ones."""
        raise NotImplementedError

    @abstractmethod
    def problems(self) -> list[tuple[str, Problem]]:
        """(split, problem) for `action=problems`, as text."""
        raise NotImplementedError

    @property
    def levels(self) -> int:
        """How many levels of difficulty the training problems have (`trainer.curriculum`)."""
        return 1

    def at_level(self, level: int, count: int, generator: torch.Generator) -> Problems:
        """`count` training problems of a level of difficulty, from 1 to `levels`."""
        return self.sample(count, generator)

    def hinted(self, problems: Problems) -> Problems:
        """The same problems with the answer in their questions (`trainer.rationalise`)."""
        return replace(problems)

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        """`count` problems with gold thoughts that are given (`trainer.rehearse`)."""
        return self.sample(count, generator)

    def completed(self, encoded: Problems) -> Problems:
        """Typed questions as tokens, with what else is known of them."""
        return encoded

    def probes(self) -> dict[str, Problems]:
        """The held-out problems with other questions about their thoughts, by name."""
        return {}

    def encode_question(self, text: str) -> tuple[list[int], int]:
        """Tokens of a typed question, and how many tokens its answer has (`action=generate`).

        Raises `UserError` where it is no question of the task.
        """
        raise UserError(f"prompt={text}: found a task whose questions cannot be typed; legal: a "
                        "model of a toy task, or of text")


def disagreeing(task: Any, problems: Sequence[Problem]) -> tuple[str, ...]:
    """What is to be said about problems of a file whose answers are not the task's own, by
    `task.check`. Raises `UserError` where that is refuse.
    """
    wrong = []
    for one in problems if task.check != "off" else ():
        with suppress(ValueError, LookupError, TypeError):  # no question of the task
            answer = task.solution(one)
            if answer not in (None, one.answer):
                wrong.append((one, answer))
    if not wrong:
        return ()
    one, answer = wrong[0]
    found = (f"task.data={task.data}: found {len(wrong)} of {len(problems)} rows with another "
             f"answer than task={task.config.name} has (first {one.question} {one.answer}, which "
             f"is {answer})")
    if task.check == "refuse":
        raise UserError(f"{found}; legal: right answers, or task.check=warn, off")
    return (f"{found}; they are taken as they are",)


def leaked(sides: Sequence[tuple[str, Any]], *files: str | None) -> tuple[str, ...]:
    """A warning where questions, each with its side, are on both sides."""
    trained = {one for side, one in sides if side == "train"}
    out = [one for side, one in sides if side == "test"]
    both = sum(one in trained for one in out)
    named = " and ".join(filter(None, files)) or "the data set"
    return (f"{both} of {len(out)} held-out questions of {named} are trained on as well: accuracy "
            "says little about new questions",) if both else ()


# --- tables of problems -------------------------------------------------------------------------

TABLES = (".csv", ".jsonl", ".parquet")  # files of problems
Row = tuple[str, dict[str, Any]]  # where it stands ("x.csv, line 3"), and its cells


def missing(key: str, path: str | None, kinds: tuple[str, ...] = TABLES) -> Iterator[str]:
    """A line that refuses `task.<key>` if it names a table that does not exist."""
    if path is not None and not (located(path).is_file() and path.endswith(kinds)):
        yield (f"task.{key}={path}: found no such table; legal: a file that ends in "
               f"{', '.join(kinds[:-1])} or {kinds[-1]}")


def read_table(path: Path, kinds: tuple[str, ...] = TABLES) -> list[Row]:
    """The rows of a table. Raises `UserError` if it cannot be read or has none.

    Cells of a .csv are text; those of a .jsonl or .parquet keep their type, None where they are
    empty or no number (NaN). A row of a .csv is named by the line where it ends, as cells may hold
    line breaks.
    """
    legal = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    if path.suffix not in kinds:
        raise UserError(f"{path}: found no table; legal: a file that ends in {legal}")
    try:
        if path.suffix == ".parquet":
            rows = list(_parquet(path))
        else:
            text = _text(located(path))
            with long_cells():
                rows = list(_csv(path, text) if path.suffix == ".csv" else json_rows(
                    path, io.StringIO(text, newline="")))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); legal: "
                        f"an intact {legal} file") from None
    if not rows:
        raise UserError(f"{path}: found no rows; legal: at least one problem")
    for where, row in rows:
        must_be_text(where, json.dumps(row, ensure_ascii=False, default=str))
    return [(where, {name: None if value != value else value for name, value in row.items()})
            for where, row in rows]


@contextmanager
def long_cells() -> Iterator[None]:
    """Let cells of a .csv be of any length, where `csv` takes 131,072 characters at most."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def problem_rows(path: Path) -> list[Row]:
    """The rows of a table of problems. Raises `UserError` where it is none."""
    rows = read_table(path)
    require(path, rows, ("question", "answer"))
    return rows


def require(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    """Raise `UserError` if a column is missing."""
    found = list(rows[0][1])
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path}: found columns {', '.join(map(str, found))}, but not "
                        f"{', '.join(missing)}; legal: {', '.join(columns)}")


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in content:
        raise UserError(f"{path}: found bytes that are 0, or the mark of UTF-16; legal: a file in "
                        "UTF-8, as of iconv -f UTF-16 -t UTF-8, or a spreadsheet's \"CSV UTF-8\"")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = max(content.count(end, 0, error.start) for end in (b"\n", b"\r")) + 1
        raise UserError(f"{path}, line {line}: found bytes that are no text in UTF-8; legal: a "
                        "file in UTF-8, as of iconv -f WINDOWS-1252 -t UTF-8") from None


def _csv(path: Path, text: str) -> Iterator[Row]:
    first = next(iter(text.strip().splitlines()), "")
    for sign, name in {"\t": "tabs", ";": "semicolons", "|": "bars"}.items():
        if sign in first and "," not in first:
            raise UserError(f"{path}, line 1: found cells between {name}; legal: commas, as of a "
                            "spreadsheet that saves CSV with commas, or a .jsonl file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(filter(None, reader), [])
        _each_once(path, header)
        for cells in reader:
            if len(cells) != len(header) and cells:
                raise UserError(f"{path}, line {reader.line_num}: found {len(cells)} cells; "
                                f"legal: {len(header)}, as in the first line")
            if cells:
                yield f"{path}, line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: cannot be read ({error}); legal: cells "
                        "between commas, with quotes around those that hold commas") from None


def _each_once(where: object, names: list[str]) -> None:
    """Raise `UserError` for a column that is there twice, of which one would be read."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: found {names.count(twice)} columns {twice}; legal: one")


def json_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    """The JSON objects in the lines of a file. Raises `UserError` for a line that is none."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        def once(pairs: list[tuple[str, Any]], where: str = f"{path}, line {number}") -> Any:
            _each_once(where, [name for name, _ in pairs])
            return dict(pairs)
        try:
            row = json.loads(line, object_pairs_hook=once)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: cannot be read ({error}); legal: one JSON "
                            "object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: found {line.strip()[:40]}; legal: one JSON "
                            "object a line")
        yield f"{path}, line {number}", row


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    _each_once(path, table.column_names)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {number}", row


def write_problems(path: Path, problems: list[tuple[str, Problem]]) -> None:
    """Write (split, problem) rows: columns question, answer, thought, split and the metadata."""
    write_table(path, [{"question": problem.question, "answer": problem.answer,
                        "thought": problem.thought, "split": split, **problem.metadata}
                       for split, problem in problems])


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as .csv, .jsonl or .parquet, by the suffix of the name.

    The table is written under another name and then renamed, so that a full disk leaves an existing
    file as it is.
    """
    import pandas as pd

    table = pd.DataFrame(rows)
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        elif path.suffix == ".jsonl":
            table.to_json(temporary, orient="records", lines=True, force_ascii=False)
        else:
            table.to_csv(temporary, index=False)


# --- numbers and tokens -------------------------------------------------------------------------

def padded(rows: Sequence[Sequence[int]], pad: int, width: int | None = None,
           left: bool = False) -> Tensor:
    """(N, width): rows of tokens, padded on the right, or on the left if `left`; as wide as the
    longest row where no width is given.
    """
    width = max(map(len, rows), default=0) if width is None else width
    gaps = [[pad] * (width - len(row)) for row in rows]
    full = [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(full, dtype=torch.long).view(len(rows), width)


def hashed_share(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone, evenly spread over all texts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def digits_of(values: Tensor, width: int) -> Tensor:
    """(...,) -> (..., width), most significant first."""
    return values[..., None] // 10 ** torch.arange(width - 1, -1, -1) % 10


def in_share(keys: Tensor, share: float, seed: int) -> Tensor:
    """True (N,) for about this share of the keys (N, C): where a hash of key and seed is small."""
    state = torch.full((len(keys),), seed + 1, dtype=torch.long)
    return (_scrambled(keys.unbind(1), state) & (2**52 - 1)).double() / 2**52 < share


def is_in_share(key: Sequence[int], share: float, seed: int) -> bool:
    """`in_share` of one key (C,), without tensors."""
    return (_scrambled(key, seed + 1) & (2**52 - 1)) / 2**52 < share


def _scrambled(columns: Iterable[Number], state: Number) -> Number:
    """A hash of columns, whose lowest 64 bits count: the others of a number of Python never get
    among them.
    """
    for column in columns:
        state = _mix(state * 0x9E3779B9 + column + 0x7F4A7C15)
    return state


def _mix(state: Number) -> Number:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return state ^ (state >> 31 & 0x1FFFFFFFF)


def typed_numbers(text: str, terms: int, limit: int) -> Tensor:
    """(1, terms): the numbers of a typed sum such as `31+84=`.

    Raises `UserError` unless these are `terms` whole numbers below `limit`, joined by +.
    """
    words = [word.strip() for word in text.strip().removesuffix("=").split("+")]
    if len(words) != terms or not all(word.isdecimal() and word.isascii() for word in words):
        legal = f"{terms} whole numbers joined by +, as in {'+'.join(['1'] * terms)}="
        raise UserError(f"prompt={text}: found no question of this model; legal: {legal}")
    for word in words:
        if int(word) >= limit:
            raise UserError(f"prompt={text}: found {word}; legal: numbers below {limit}")
    return torch.tensor([[int(word) for word in words]])


def in_order(texts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Symbols, each once: numbers by size, then words by their letters."""
    symbols = {symbol for text in texts for symbol in text}
    rank: Callable[[str], Any] = lambda word: (  # noqa: E731
        not word.isdecimal(), len(word) if word.isdecimal() else 0, word)
    return tuple(sorted(symbols, key=rank))
