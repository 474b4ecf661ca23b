"""A text as token ids on disk: encoded once by several processes, then memory-mapped.

`scratch/text/<hash>/` holds train.bin and test.bin (token ids of all documents, end-of-text after
each), tokens.json (the tokenizer) and progress.json (documents done so far, so that an interrupted
encoding is continued after the last complete batch).
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
    Trie,
    identity,
    pieces_of,
)

SCRATCH = Path("scratch") / "text"
PROGRESS = "progress.json"
SIDES = ("train", "test")


@dataclass
class Progress:
    """Documents encoded so far, and tokens and bytes of text on either side of the split."""

    documents: int = 0
    train_tokens: int = 0
    test_tokens: int = 0
    train_bytes: int = 0
    test_bytes: int = 0
    done: bool = False


@dataclass
class Packed:
    """An encoded text: train and test are memory-mapped token ids (N,)."""

    vocabulary: PieceVocabulary
    train: Ids
    test: Ids
    progress: Progress

    @property
    def bytes_per_token(self) -> float:
        """Bytes of held-out text per token."""
        return self.progress.test_bytes / max(self.progress.test_tokens, 1)


def packed(config: TextKeys, pieces: Pieces | None, thoughts: int) -> Packed:
    """The encoded text of `config`; pieces: the tokenizer, None: the one that `config` names.

    One of several processes or runs encodes; the others wait for it. Raises `UserError` if the
    text cannot be read.
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
    """A hash of everything that decides the token ids and the split."""
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
    """Write JSON atomically."""
    temporary = folder / f".{name}"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, folder / name)


def _known(folder: Path) -> Pieces:
    return pieces_of(json.loads((folder / FILE).read_text()))


def _learnt(config: TextKeys) -> Pieces:
    """Characters or trie pieces, learnt from the beginning of the text."""
    parts, left = list[str](), config.learn_from
    for text in documents(config):
        parts.append(text[:left])
        left -= len(parts[-1])
        if left <= 0:
            break
    text = "".join(parts)
    if config.tokens == "chars":
        return Characters.learn(text)
    return Trie.learn(text, config.trie_size)


def _cut(config: TextKeys, folder: Path, pieces: Pieces | None) -> None:
    """Encode the documents that are not encoded yet."""
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
