"""Documents become token ids, by several processes, some text at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ponder.config.texts import TextTask
from ponder.tasks.text.documents import split
from ponder.tokenizers.pieces import Pieces

BATCH = 2**21  # characters that a process cuts at a time
Ids = NDArray[np.integer]


@dataclass
class Batch:
    """Texts that are cut together: (whether it is held out, text, whether a document ends there).
    done says how many documents are whole with them; None where the last one is not.
    """

    texts: list[tuple[bool, str, bool]]
    done: int | None = None


Cut = tuple[int | None, list[tuple[Ids, int]]]  # done; ids and bytes of text of either side


def _batches(config: TextTask, skip: int) -> Iterator[Batch]:
    """Documents, and parts of long ones, of about `BATCH` characters."""
    batch, size, last = Batch([]), 0, skip
    for number, held_out, text in split(config, skip):
        for part, ends in _parts(text):
            if size >= BATCH:
                batch.done = number if number != last else None
                yield batch
                batch, size = Batch([]), 0
            batch.texts.append((held_out, part, ends))
            size, last = size + len(part), number
    if batch.texts:
        batch.done = last + 1
        yield batch


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """A text in parts of at most `BATCH` characters, whole lines where there are any, and whether
    it ends with them.
    """
    start = 0
    while len(text) - start > BATCH:
        end = text.rfind("\n", start, start + BATCH) + 1 or start + BATCH
        yield text[start:end], False
        start = end
    yield text[start:], True


def in_processes(config: TextTask, skip: int, pieces: Pieces) -> Iterator[Cut]:
    """All batches, cut, in order; a text of a few batches is cut here."""
    workers = config.workers or os.cpu_count() or 1
    batches = _batches(config, skip)
    first = list(islice(batches, 4))
    _begin(pieces)
    yield from map(_encode, first)
    if len(first) < 4:
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (pieces,)) \
        if workers > 1 else nullcontext()
    with pool as hands:
        if hands is None:
            yield from map(_encode, batches)
            return
        waiting = [hands.submit(_encode, batch) for batch in islice(batches, 2 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [hands.submit(_encode, batch) for batch in islice(batches, 1)]


_PIECES: list[Pieces] = []  # of this process


def _begin(pieces: Pieces) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _PIECES[:] = [pieces]


def _encode(batch: Batch) -> Cut:
    """The token ids of a batch; a document that ends in it has end-of-text behind it."""
    pieces = _PIECES[0]
    sides: list[tuple[list[Ids], int]] = []
    for held_out in (False, True):
        parts, size = list[Ids](), 0
        for side, text, ends in batch.texts:
            if side == held_out and text:
                parts += [np.array(pieces.encode(text), np.int64) + 2, np.ones(int(ends), np.int64)]
                size += len(text.encode("utf-8", "surrogatepass")) + ends
        sides.append((parts, size))
    return batch.done, [(np.concatenate([*parts, np.empty(0, np.int64)]), size)
                          for parts, size in sides]
