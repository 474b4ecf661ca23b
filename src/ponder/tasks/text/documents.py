"""The documents of a text: of local files, or streamed from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief, shown
from ponder.config.texts import TextTask
from ponder.tasks.numbers import in_share

HALVES = re.compile("[\ud800-\udfff]")  # of characters; JSON may hold one alone, UTF-8 may not
FEW = 20  # of fewer documents the end of each is held out, and not some as a whole


def documents(config: TextTask, skip: int = 0) -> Iterator[str]:
    """The texts of all documents but the first `skip`; a .txt file is one.

    Raises `UserError` that names the file and line where there is no text.
    """
    end = config.documents
    found = _streamed(config, skip) if config.streamed else islice(_local(config), skip, None)
    return islice(found, None if end is None else max(end - skip, 0))


def _local(config: TextTask) -> Iterator[str]:
    for name in config.files:
        path = Path(name)
        read = {".txt": _plain, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
        try:
            yield from read(path, config.column)
        except (OSError, ValueError) as error:
            reason = brief(error)
            raise UserError(f"{path}: cannot be read ({reason}); legal: an intact file"
                            f"{', in UTF-8' * (path.suffix != '.parquet')}") from None


def _plain(path: Path, column: str) -> Iterator[str]:
    yield path.read_text(encoding="utf-8-sig")


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{where}: found no JSON ({error}); legal: an object a "
                                    "line") from None
                yield _cell(where, row, column)


def _parquet(path: Path, column: str) -> Iterator[str]:
    from pyarrow import parquet

    file, number = parquet.ParquetFile(path), 0
    if column not in file.schema_arrow.names:
        _cell(str(path), dict.fromkeys(file.schema_arrow.names), column)
    for batch in file.iter_batches(columns=[column]):
        for value in batch.column(0).to_pylist():
            number += 1
            yield _cell(f"{path}, row {number}", {column: value}, column)


def _streamed(config: TextTask, skip: int) -> Iterator[str]:
    """Raises `UserError` where the data set, or its column, cannot be had."""
    try:
        from datasets import load_dataset

        rows = load_dataset(str(config.data), config.subset, split="train", streaming=True)
        found: Iterator[Any] = iter(rows.skip(skip))
        first = next(found, None)
    except Exception as error:  # the network, the hub, the disk: each has errors of its own
        reason = brief(error)
        raise UserError(f"task.data={config.data}: cannot be loaded ({reason}); legal: a data set "
                        "of the hub and a network, or local files") from None
    number = skip
    while first is not None:
        number += 1
        yield _cell(f"{config.data}, row {number}", first, config.column)
        first = next(found, None)


def _cell(where: str, row: Any, column: str) -> str:
    value = row.get(column) if isinstance(row, dict) else None
    if not isinstance(value, str):
        if not isinstance(row, dict):
            raise UserError(f"{where}: found {shown(row)[:40]}; legal: an object with the text "
                            f"under {column!r}")
        held = f", but {shown(value)[:40]}" if column in row else ""
        raise UserError(f"{where}: found no text in task.column={column}{held}; legal: a column "
                        f"that holds text, of {', '.join(map(str, row))}")
    return HALVES.sub("\ufffd", value)


def split(config: TextTask, skip: int = 0) -> Iterator[tuple[int, bool, str]]:
    """(number of the document, whether it is held out, its text), but for the first `skip` ones.

    A hash of its number decides; few documents are each held out from a place on.
    """
    begun = list(islice(documents(config), FEW))
    if len(begun) < FEW:
        yield from _ends(config, begun, skip)
        return
    for number, text in enumerate(documents(config, skip), start=skip):
        yield number, _held_out(number, config), text


def _held_out(number: int, config: TextTask) -> bool:
    import torch

    return bool(in_share(torch.tensor([[number]]), config.held_out, config.seed))


def _ends(config: TextTask, texts: list[str], skip: int) -> Iterator[tuple[int, bool, str]]:
    for number, text in enumerate(texts[skip:], start=skip):
        at = int(len(text) * (1 - config.held_out))
        yield number, False, text[:at]
        yield number, True, text[at:]
