"""action=compare: runs in one table, means and standard errors over seeds.

It reads what runs left on disk and builds nothing, so torch is never loaded.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, shown
from ponder.config.spine import Config
from ponder.reports.compare_page import page
from ponder.reports.gather import Gathered, Result, gather
from ponder.reports.groups import (
    NUMBERS,
    Comparison,
    Group,
    cell,
    differing,
    grouped,
    held,
    telling,
)

ROWS, NAMED = 40, 5  # groups that a terminal shows; files that a note names
Rows = list[dict[str, Any]]


def run(config: Config, directory: Path) -> None:
    """Compare `config.runs`: a table on the terminal, and files (`out`, or into `directory`)."""
    found = gather(config.runs)
    if not found.results:
        raise UserError(f"runs={shown(config.runs)}: found no run that is done; "
                        f"{'; '.join(_left_out(found))}; legal: runs with a summary.json")
    comparison = compare(found)
    show(comparison)
    paths = [Path(config.out)] if config.out else [directory / "compare.html",
                                                   directory / "compare.csv"]
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = write(path, comparison)
        except OSError as error:
            raise UserError(f"out={path}: cannot be written ({error.strerror}); legal: a file "
                            "in a directory that can be") from None
        print("written: " + ", ".join(map(str, written)))


def compare(found: Gathered) -> Comparison:
    """The groups of what was gathered."""
    keys = differing(found.results)
    groups = grouped(found.results, keys)
    told = telling(groups, keys)
    notes = _left_out(found)
    twice = sum(len(group.runs) - group.seeds for group in groups)
    if twice:
        notes.append(f"{twice} run{'s' * (twice > 1)} of a group and seed that another run has: "
                     "each counts as a run of its own")
    silent = [key for key in keys if key not in told]
    if silent:
        notes.append("different too, but telling no further groups apart: "
                     f"{_some(silent)} (.csv, .jsonl and .parquet have them all)")
    return Comparison(groups, keys, told, notes)


def _left_out(found: Gathered) -> list[str]:
    """A line about runs that are not done, and one about files that cannot be read."""
    lines = []
    if found.unfinished:
        lines.append(f"{len(found.unfinished)} without summary.json (failed, or still going): "
                     f"{_some(map(str, found.unfinished))}")
    if found.unreadable:
        lines.append(f"{len(found.unreadable)} skipped that cannot be read: "
                     f"{_some(found.unreadable)}")
    return lines


def _some(names: Any) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMED
    return ", ".join(listed[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


# --- the terminal --------------------------------------------------------------------------------


def show(comparison: Comparison) -> None:
    """The table of the most accurate groups; a narrow terminal has all keys in one column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=10_000)
    groups, table = comparison.groups[:ROWS], Table()
    columns = {key: [cell(group.values[key]) for group in groups] for key in comparison.telling}
    numbers = dict(zip(("seeds", *NUMBERS), zip(*map(comparison.cells, groups), strict=True),
                       strict=True))
    needed = 1 + sum(_width(*column) for column in (*columns.items(), *numbers.items()))
    notes = [*comparison.notes]
    if needed > console.width:
        columns = {"group": [group.name(comparison.telling) for group in groups]}
        del numbers["steps"], numbers["seconds"]
        notes.append("a column a key, steps and seconds: in the files, or on a wider terminal")
    if len(groups) < len(comparison.groups):
        notes.append(f"the {ROWS} most accurate of {len(comparison.groups):,} groups")
    for key in columns:
        table.add_column(Text(_heading(key)), no_wrap=needed <= console.width)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for cells in zip(*columns.values(), *numbers.values(), strict=True):
        table.add_row(*map(Text, cells))
    print(comparison.headline)
    console.print(table)
    for line in notes:
        print(line)


def _heading(key: str) -> str:
    """A key in two lines."""
    return key.replace(".", ".\n", 1)


def _width(name: str, column: Sequence[str]) -> int:
    """Characters that a column takes, with its border."""
    return 3 + max(map(len, [*_heading(name).splitlines(), *column]))


# --- files ---------------------------------------------------------------------------------------


def write(path: Path, comparison: Comparison) -> list[Path]:
    """Write a comparison as the end of the name says; the files that were written.

    Tables have a row a group, and beside them lies `<name>_runs` with a row a run.
    """
    if path.suffix == ".html":
        path.write_text(page(comparison), encoding="utf-8")
        return [path]
    if path.suffix == ".md":
        path.write_text(markdown(comparison), encoding="utf-8")
        return [path]
    writers: dict[str, Callable[[Path, Rows], None]] = {
        ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    beside = path.with_name(f"{path.stem}_runs{path.suffix}")
    keys = comparison.keys
    writers[path.suffix](path, _plain([_row(group, keys) for group in comparison.groups], keys))
    writers[path.suffix](beside, _plain([_run_row(result, keys) for group in comparison.groups
                                         for result in group.runs], keys))
    return [path, beside]


def _row(group: Group, keys: Sequence[str]) -> dict[str, Any]:
    row = {**{key: group.values[key] for key in keys}, "seeds": group.seeds,
           "runs": len(group.runs)}
    for name, found in group.numbers.items():
        row |= {name: found.mean, f"{name}_stderr": found.error}
    return row


def _run_row(result: Result, keys: Sequence[str]) -> dict[str, Any]:
    return {"run": str(result.directory), **{key: held(result, key) for key in keys},
            "seed": result.seed, **{name: result.number(source)
                                    for name, source in NUMBERS.items()}}


def _plain(rows: Rows, keys: Sequence[str]) -> Rows:
    """The same rows, where a column of keys is numbers or text throughout."""
    for key in keys:
        if not all(isinstance(row[key], int | float) and not isinstance(row[key], bool)
                   for row in rows):
            for row in rows:
                row[key] = shown(row[key])
    return rows


def _csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows),
                    encoding="utf-8")


def _parquet(path: Path, rows: Rows) -> None:
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(rows), path)


def markdown(comparison: Comparison) -> str:
    """A Markdown table, and the notes below it."""
    names = [*(f"`{key}`" for key in comparison.telling), "seeds", *NUMBERS]
    rows = [names, ["---"] * len(names), *(
        [*(cell(group.values[key]) for key in comparison.telling), *comparison.cells(group)]
        for group in comparison.groups)]
    lines = ["| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in row) + " |"
             for row in rows]
    return "\n".join([f"{comparison.headline}\n", *lines, *(f"\n{line}" for line in
                                                           comparison.notes), ""])
