"""Problems as rows of a .csv or .parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ponder.errors import UserError
from ponder.types import Problem

TABLES = (".csv", ".parquet")


def read_table(path: Path, required: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a table. Raises `UserError` where columns or rows are missing."""
    import pandas as pd

    if path.suffix not in TABLES:
        raise UserError(f"{path}: found no table; legal: a file that ends in .csv or .parquet")
    try:
        table = (pd.read_parquet(path) if path.suffix == ".parquet"
                 else pd.read_csv(path, dtype=str, keep_default_na=False))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); legal: "
                        "an intact .csv or .parquet file") from None
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise UserError(f"{path}: found columns {', '.join(map(str, table.columns))}, but not "
                        f"{', '.join(missing)}; legal: {', '.join(required)}")
    if table.empty:
        raise UserError(f"{path}: found no rows; legal: at least one problem")
    return table.to_dict("records")  # type: ignore[return-value]


def write_table(path: Path, problems: list[tuple[str, Problem]]) -> None:
    """Write (split, problem) rows: columns question, answer, thought, split and the metadata."""
    import pandas as pd

    rows = [{"question": problem.question, "answer": problem.answer, "thought": problem.thought,
             "split": split, **problem.metadata} for split, problem in problems]
    table = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
