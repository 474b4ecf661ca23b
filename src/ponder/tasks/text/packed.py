"""A text as tokens on disk: cut once by several processes, then mapped into memory.

`scratch/text/<hash>/` holds train.bin and test.bin (token ids, documents one behind the other, each
with end-of-text behind it), tokens.json (how they were cut) and progress.json, which says how far
it is: what was begun is gone on with at the last whole batch of documents.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ponder.core.lazy_imports import numpy as np
from ponder.tasks.text.documents import Ids, TextKeys, documents, in_processes
from ponder.tokenizers.pieces import (
    FILE,
    Characters,
    HfPieces,
    Pieces,
    PieceVocabulary,
    TriePieces,
    identity,
    pieces_of,
)
from ponder.tokenizers.trie import Trie

SCRATCH = Path("scratch") / "text"
PROGRESS = "progress.json"
SIDES = ("train", "test")


@dataclass
class Progress:
    """How many documents are cut, and tokens and bytes of text of either side."""

    documents: int = 0
    train_tokens: int = 0
    test_tokens: int = 0
    train_bytes: int = 0
    test_bytes: int = 0
    done: bool = False


@dataclass
class Packed:
    """train and test are mapped token ids (N,)."""

    vocabulary: PieceVocabulary
    train: Ids
    test: Ids
    progress: Progress

    @property
    def bytes_per_token(self) -> float:
        """Bytes of held-out text that a token stands for."""
        return self.progress.test_bytes / max(self.progress.test_tokens, 1)


def packed(config: TextKeys, pieces: Pieces | None, thoughts: int) -> Packed:
    """The text of `config`, cut by pieces, or by those it asks for. Of several processes, or runs,
    one cuts and the others wait for as long as that takes.

    Raises `UserError` where the text cannot be read.
    """
    if pieces is None and config.tokens == "hf":
        pieces = HfPieces.load(str(config.tokenizer))
    folder = SCRATCH / _identity(config, pieces)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _cut(config, folder, pieces)
    progress = _progress(folder)
    vocabulary = PieceVocabulary(pieces or _known(folder), thoughts)
    kind = _kind(vocabulary)
    return Packed(vocabulary, _mapped(folder / "train.bin", kind),
                  _mapped(folder / "test.bin", kind), progress)


def _mapped(path: Path, kind: type[np.integer]) -> Ids:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _identity(config: TextKeys, pieces: Pieces | None) -> str:
    """A hash of everything that decides which tokens there are, and where they lie."""
    keys = ("data", "subset", "column", "documents", "held_out", "seed")
    of_pieces = ("tokens", "trie_size", "learn_from") if pieces is None else ()
    files = [(str(Path(name).resolve()), os.stat(name).st_size, os.stat(name).st_mtime_ns)
             for name in config.files] if not config.streamed else []
    said = [{key: getattr(config, key) for key in (*keys, *of_pieces)}, files,
            None if pieces is None else identity(pieces)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _kind(vocabulary: PieceVocabulary) -> type[np.integer]:
    return np.uint16 if vocabulary.end < 2**16 else np.uint32


def _progress(folder: Path) -> Progress:
    path = folder / PROGRESS
    return Progress(**json.loads(path.read_text())) if path.is_file() else Progress()


def _note(folder: Path, name: str, content: Any) -> None:
    """Write JSON so that readers see all of it or nothing."""
    temporary = folder / f".{name}"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, folder / name)


def _known(folder: Path) -> Pieces:
    return pieces_of(json.loads((folder / FILE).read_text()))


def _learnt(config: TextKeys) -> Pieces:
    """Characters or pieces of a trie that the beginning of the text teaches."""
    parts, left = list[str](), config.learn_from
    for text in documents(config):
        parts.append(text[:left])
        left -= len(parts[-1])
        if left <= 0:
            break
    text = "".join(parts)
    if config.tokens == "chars":
        return Characters.learn(text)
    return TriePieces(Trie.learn(text, config.trie_size))


def _cut(config: TextKeys, folder: Path, pieces: Pieces | None) -> None:
    """Cut what is not cut yet."""
    progress = _progress(folder)
    if progress.done:
        return
    known = pieces or (_known(folder) if (folder / FILE).is_file() else _learnt(config))
    _note(folder, FILE, known.state())
    kind = _kind(PieceVocabulary(known, 0))
    from tqdm import tqdm

    width, total = np.dtype(kind).itemsize, sum(os.stat(name).st_size for name in config.files)
    bar = tqdm(total=total or None, unit="B", unit_scale=True, disable=None,
               desc="text to tokens", initial=progress.train_bytes + progress.test_bytes)
    with (folder / "train.bin").open("ab") as train, (folder / "test.bin").open("ab") as test, bar:
        train.truncate(progress.train_tokens * width)
        test.truncate(progress.test_tokens * width)
        for done, sides in in_processes(config, progress.documents, known):
            for side, file, (ids, size) in zip(SIDES, (train, test), sides, strict=True):
                file.write(ids.astype(kind).tobytes())
                file.flush()
                setattr(progress, f"{side}_tokens", getattr(progress, f"{side}_tokens") + len(ids))
                setattr(progress, f"{side}_bytes", getattr(progress, f"{side}_bytes") + size)
                bar.update(size)
            if done is not None:
                progress.documents = done
                _note(folder, PROGRESS, asdict(progress))
    progress.done = True
    _note(folder, PROGRESS, asdict(progress))
