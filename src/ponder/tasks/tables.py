"""Problems as rows of a .csv, .jsonl or .parquet file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.config.tasks import TABLES
from ponder.core.types import Problem

Row = tuple[str, dict[str, Any]]  # where it stands ("x.csv, line 3"), and its cells


def read_table(path: Path, kinds: tuple[str, ...] = TABLES) -> list[Row]:
    """The rows of a table. Raises `UserError` where it cannot be read or has none.

    Cells of a .csv are text; those of a .jsonl or .parquet what they are, None where they are
    empty. A row of a .csv stands where it ends, as cells may hold line breaks.
    """
    legal = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    if path.suffix not in kinds:
        raise UserError(f"{path}: found no table; legal: a file that ends in {legal}")
    try:
        if path.suffix == ".parquet":
            rows = list(_parquet(path))
        else:
            rows = list((_csv if path.suffix == ".csv" else _jsonl)(path, _text(path)))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); legal: "
                        f"an intact {legal} file") from None
    if not rows:
        raise UserError(f"{path}: found no rows; legal: at least one problem")
    return rows


def require(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    """Raise `UserError` where columns are missing."""
    found = list(rows[0][1])
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path}: found columns {', '.join(map(str, found))}, but not "
                        f"{', '.join(missing)}; legal: {', '.join(columns)}")


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: found bytes that are no text in UTF-8; legal: a "
                        "file in UTF-8") from None


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if len(cells) != len(header) and cells:
                raise UserError(f"{path}, line {reader.line_num}: found {len(cells)} cells; "
                                f"legal: {len(header)}, as in the first line")
            if cells:
                yield f"{path}, line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: cannot be read ({error}); legal: cells "
                        "between commas, with quotes around those that hold commas") from None


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: cannot be read ({error}); legal: one JSON "
                            "object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: found {line.strip()[:40]}; legal: one JSON "
                            "object a line")
        yield f"{path}, line {number}", row


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    for number, row in enumerate(parquet.read_table(path).to_pylist(), start=1):
        yield f"{path}, row {number}", row


def write_problems(path: Path, problems: list[tuple[str, Problem]]) -> None:
    """Write (split, problem) rows: columns question, answer, thought, split and the metadata."""
    write_table(path, [{"question": problem.question, "answer": problem.answer,
                        "thought": problem.thought, "split": split, **problem.metadata}
                       for split, problem in problems])


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as .csv, .jsonl or .parquet, as the end of the name says."""
    import pandas as pd

    table = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        table.to_csv(path, index=False)
