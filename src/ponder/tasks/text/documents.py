"""The documents of a text, local or streamed from the hub, and their token ids."""

from __future__ import annotations

import glob
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ponder.config.errors import HALVES, UserError, brief, shown
from ponder.config.examples import examples, located
from ponder.config.option import option
from ponder.config.registry import TASKS
from ponder.core.lazy_imports import numpy as np
from ponder.tasks.base import is_in_share, json_rows
from ponder.tokenizers.pieces import Pieces
from ponder.tokenizers.vocabulary import TORN

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 20  # of fewer documents, the end of each is held out instead of whole documents
DOCUMENTS = (".txt", ".jsonl", ".parquet")


@dataclass
class TextKeys:
    """Running text: the next token at every position."""

    name: str = option("text", "name of the task", legal=("text",))
    data: str | None = option(None, "text: a .txt, .jsonl or .parquet file, a directory or a glob "
                              "of such, or the name of a data set of the hub "
                              "(HuggingFaceFW/fineweb-edu), which is streamed")
    subset: str | None = option(None, "configuration of the data set of the hub (sample-10BT)")
    column: str = option("text", "the column that holds the text of a document")
    documents: int | None = option(None, "read so many documents; null: all", low=1)
    tokens: str = option("chars", "what text is cut into: characters, pieces of any length learned "
                         "from the text, or the tokens of task.tokenizer",
                         legal=("chars", "trie", "hf"))
    tokenizer: str | None = option(None, "task.tokens=hf: a tokenizer of Hugging Face by name or "
                                   "directory")
    trie_size: int = option(2048, "task.tokens=trie: so many pieces, the 256 bytes among them",
                            low=257, high=2**20)
    learn_from: int = option(2**24, "characters and pieces are learned from so many characters at "
                             "the beginning of the text", low=1)
    length: int = option(128, "tokens of a passage", low=2)
    held_out: float = option(0.1, "share of the documents that is never trained on; of fewer than "
                             "20 documents the end of each", low=0.0, high=0.9)
    test_passages: int = option(200, "held-out passages used by an evaluation", low=1)
    workers: int = option(0, "processes that cut the text into tokens; 0: one for each core",
                          low=0)
    places: str = option("random", "after which positions of a passage there are thoughts: all, "
                         "random ones, or those with the hardest next tokens (for model.ref_name, "
                         "else for the model itself)", legal=("all", "random", "hardest"))
    place_count: int = option(16, "so many positions of each passage", low=1)
    ahead: int = option(1, "so many next tokens are predicted after a thought; without "
                        "thoughts after every position, all but the first by further layers",
                        low=1)
    mix: bool = option(True, "the prediction after a thought is mixed with the one without it, "
                       "in a share that is learned")
    gold: str = option("none", "there are no gold thoughts", legal=("none",))
    thought_length: int = option(4, "the `think` variant allows so many thought tokens", low=1)
    seed: int = option(0, "which documents are held out: the same ones whatever the seed of a run, "
                       "so that no checkpoint was trained on what the next run is tested on")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if not self.data:
            yield (f"task.data={'null' if self.data is None else ''}: found no text; legal: "
                   f"task.data=<file> ({', '.join(DOCUMENTS)}), a directory, a glob, a data set of "
                   f"the hub, or {examples(('.txt',))}")
        elif not self.streamed and not self.files:
            found = "nothing to read there" if Path(self.data).exists() else "no such text"
            yield (f"task.data={self.data}: found {found}; legal: files that end in "
                   f"{', '.join(DOCUMENTS[:-1])} or {DOCUMENTS[-1]}, <owner>/<name> of the hub, or "
                   f"{examples(('.txt',))}")
        if self.tokens == "hf" and self.tokenizer is None:
            yield ("task.tokenizer=null: found no tokenizer; legal: a name on the hub or a "
                   "directory, or task.tokens=chars, trie")
        if self.held_out == 0:
            yield (f"task.held_out={self.held_out:g}: found no text to evaluate on; legal: above "
                   "0, at most 0.9")
        if config is not None and config.model.kind == "hf" and config.action != "problems":
            yield from own_tokens(config)
        if config is not None and "positions" in TASKS[self.name].offers:
            yield from _positions_need(config)

    @property
    def files(self) -> list[str]:
        """The local files that `data` names, in order."""
        path = located(self.data or "")
        found = [str(path)] if path.is_file() else glob.glob(str(self.data), recursive=True)
        if path.is_dir():
            found = [str(file) for file in path.rglob("*")]
        return sorted(name for name in found if name.endswith(DOCUMENTS) and Path(name).is_file())

    @property
    def streamed(self) -> bool:
        """Whether `data` is the name of a data set of the hub: `owner/name`, and no file."""
        data = self.data or ""
        named = data.count("/") == 1 and not data.startswith((".", "/", "~")) and "*" not in data
        return named and not Path(data).exists() and not data.endswith(DOCUMENTS)


def _positions_need(config: Any) -> Iterator[str]:
    """What next tokens, and thoughts at positions of a passage, require of other keys."""
    task = config.task
    if task.ahead >= task.length:
        yield (f"task.ahead={task.ahead}: found no position of a passage with so many next tokens; "
               f"legal: below task.length={task.length}")
    if config.model.kind == "hf" and config.thinker.tokens:
        yield from thought_tokens_need(config)
    if config.thinker.tokens:
        yield from _thoughts_at_positions_need(config)


def _thoughts_at_positions_need(config: Any) -> Iterator[str]:
    """What thoughts at the positions of a passage require of other keys."""
    answerer, strategy = config.answerer, config.strategy
    if answerer.model != "shared":
        yield (f"answerer.model={answerer.model}: found task=text, where one network thinks and "
               "predicts; legal: shared")
    if set(answerer.sees) != {"question", "thought"}:
        yield (f"answerer.sees={shown(answerer.sees)}: found task=text, where a thought is read "
               "behind its passage; legal: [question,thought]")
    if getattr(strategy, "value", "none") != "none":
        yield (f"strategy.value={strategy.value}: found task=text, where no value head reads "
               "positions; legal: none")
    if getattr(strategy, "kl", 0) not in (0, 0.0):
        yield (f"strategy.kl={shown(strategy.kl)}: found task=text, whose thoughts have no "
               "reference; legal: 0")


def own_tokens(config: Any) -> Iterator[str]:
    """A Hugging Face model reads text in its own tokens only."""
    if config.task.tokens != "chars":
        yield (f"task.tokens={config.task.tokens}: found model=hf, which reads its own tokens; "
               "legal: no word about it")


def thought_tokens_need(config: Any) -> Iterator[str]:
    """The thought tokens of a text are those of the thinker, and an end of thoughts."""
    typed, known = config.model.thought_tokens, config.thinker.vocabulary + 1
    prompts = "text" in TASKS[config.task.name].offers
    if typed and prompts and config.thinker.writes in ("text", "auto"):
        yield (f"model.thought_tokens={typed}: found thinker.writes=text, of which none is part; "
               "legal: 0, or thinker.writes=both")
    elif typed not in (0, known):
        yield (f"model.thought_tokens={typed}: found thinker.vocabulary={known - 1}, whose tokens "
               f"and an end of thoughts are added anyway; legal: 0, {known}")


def documents(config: TextKeys, skip: int = 0) -> Iterator[str]:
    """The texts of all documents after the first `skip`; a .txt file is one document.

    Raises `UserError` that names the file and the line without a text.
    """
    end = config.documents
    found = _streamed(config, skip) if config.streamed else islice(_local(config), skip, None)
    return islice(found, None if end is None else max(end - skip, 0))


def _local(config: TextKeys) -> Iterator[str]:
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
        for where, row in json_rows(path, file):
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


def _streamed(config: TextKeys, skip: int) -> Iterator[str]:
    """Documents of a data set of the hub. Raises `UserError` if it cannot be loaded."""
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


def _cell(where: str, row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        held = f", but {shown(value)[:40]}" if column in row else ""
        raise UserError(f"{where}: found no text in task.column={column}{held}; legal: a column "
                        f"that holds text, of {', '.join(map(str, row))}")
    return HALVES.sub(TORN, value)


def split(config: TextKeys, skip: int = 0) -> Iterator[tuple[int, bool, str]]:
    """(number of the document, whether it is held out, its text), after the first `skip`.

    A hash of the number decides; of fewer than `FEW` documents the end of each is held out.
    """
    begun = list(islice(documents(config), FEW))
    if len(begun) < FEW:
        yield from _ends(config, begun, skip)
        return
    for number, text in enumerate(documents(config, skip), start=skip):
        yield number, _held_out(number, config), text


def _held_out(number: int, config: TextKeys) -> bool:
    return is_in_share([number], config.held_out, config.seed)


def _ends(config: TextKeys, texts: list[str], skip: int) -> Iterator[tuple[int, bool, str]]:
    for number, text in enumerate(texts[skip:], start=skip):
        at = int(len(text) * (1 - config.held_out))
        yield number, False, text[:at]
        yield number, True, text[at:]


BATCH = 2**21  # characters that a process encodes at a time
Ids: TypeAlias = "NDArray[np.integer]"


@dataclass
class Batch:
    """Texts that are encoded together: (whether held out, text, whether a document ends there).

    done: how many documents are complete after this batch; None if its last one is not.
    """

    texts: list[tuple[bool, str, bool]]
    done: int | None = None


# done; ids and bytes of text of either side; how many characters are torn
Cut = tuple[int | None, list[tuple[Ids, int]], int]


def _batches(config: TextKeys, skip: int) -> Iterator[Batch]:
    """Batches of documents, and of parts of long ones, of about `BATCH` characters."""
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
    """(part, whether the text ends with it): parts of at most `BATCH` characters, cut at line ends
    where there are any.
    """
    start = 0
    while len(text) - start > BATCH:
        end = text.rfind("\n", start, start + BATCH) + 1 or start + BATCH
        yield text[start:end], False
        start = end
    yield text[start:], True


def in_processes(config: TextKeys, skip: int, pieces: Pieces) -> Iterator[Cut]:
    """All batches, encoded, in order: by several processes if there are more than a few."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    workers, encode = config.workers or os.cpu_count() or 1, partial(_encode, pieces)
    batches = _batches(config, skip)
    first = list(islice(batches, 4))
    yield from map(encode, first)
    if len(first) < 4 or workers == 1:
        yield from map(encode, batches)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        waiting = [pool.submit(encode, batch) for batch in islice(batches, 2 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(encode, batch) for batch in islice(batches, 1)]


def _encode(pieces: Pieces, batch: Batch) -> Cut:
    """The token ids of a batch; end-of-text follows each document that ends in it."""
    sides: list[tuple[list[Ids], int]] = []
    for held_out in (False, True):
        parts, size = list[Ids](), 0
        for side, text, ends in batch.texts:
            if side == held_out and text:
                parts += [np.array(pieces.encode(text), np.int64) + 2, np.ones(int(ends), np.int64)]
                size += len(text.encode("utf-8", "surrogatepass")) + ends
        sides.append((parts, size))
    return (batch.done, [(np.concatenate([*parts, np.empty(0, np.int64)]), size)
                         for parts, size in sides],
            sum(text.count(TORN) for _, text, _ in batch.texts))
