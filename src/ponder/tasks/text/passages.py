"""Tasks of running text: `text` predicts the next token of passages, `corpus` continues prompts.

A text is token ids on disk: encoded once by several processes, then memory-mapped.
`scratch/text/<hash>/` holds train.bin and test.bin (token ids of all documents, end-of-text after
each), tokens.json (the tokenizer) and progress.json (documents done so far, so that an interrupted
encoding continues after the last complete batch).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, replacing
from ponder.config.inputs import SCRATCH, content_hash
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.lazy_imports import numpy as np
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task
from ponder.tasks.text.documents import (
    Ids,
    TextKeys,
    documents,
    in_processes,
    own_tokens,
    thought_tokens_need,
)
from ponder.tokenizers.pieces import (
    FILE,
    UNKNOWN,
    Characters,
    HfPieces,
    Pieces,
    PieceVocabulary,
    Trie,
    identity,
    load_pieces,
    pieces_of,
)
from ponder.tokenizers.vocabulary import TextVocabulary

WORD = r"[^\W\d_]+(?:'[^\W\d_]+)*"
PROGRESS = "progress.json"
SIDES = ("train", "test")


# --- a text on disk -----------------------------------------------------------------------------


@dataclass
class Progress:
    """Documents encoded so far, tokens and bytes of either side of the split, torn characters."""

    documents: int = 0
    train_tokens: int = 0
    test_tokens: int = 0
    train_bytes: int = 0
    test_bytes: int = 0
    torn: int = 0
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

    def doubts(self, data: str | None) -> tuple[str, ...]:
        """What is to be said about the text."""
        return (f"task.data={data}: found {self.progress.torn} characters that are U+FFFD or half "
                "of one; they are learnt as U+FFFD",) * bool(self.progress.torn)


def packed(config: TextKeys, pieces: Pieces | None, thoughts: int,
           scratch: Path | None = None) -> Packed:
    """The encoded text of `config`; pieces: the tokenizer, None: the one that `config` names;
    scratch: the directory of the key `scratch`.

    One of several processes or runs encodes; the others wait for it. Raises `UserError` if the
    text cannot be read.
    """
    if pieces is None and config.tokens == "hf":
        pieces = HfPieces.load(str(config.tokenizer))
    scratch = scratch or SCRATCH
    folder = scratch / "text" / _identity(config, pieces, scratch)
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


def _identity(config: TextKeys, pieces: Pieces | None, scratch: Path) -> str:
    """A hash of everything that decides the token ids and the split."""
    keys = ("subset", "column", "documents", "held_out", "seed")
    of_pieces = ("tokens", "trie_size", "learn_from") if pieces is None else ()
    files = [str(config.data)] if config.streamed else [
        content_hash(Path(name), scratch) for name in config.files]
    said = [{key: getattr(config, key) for key in (*keys, *of_pieces)}, files,
            None if pieces is None else identity(pieces)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _kind(vocabulary: PieceVocabulary) -> type[np.integer]:
    return np.uint16 if vocabulary.end < 2**16 else np.uint32


def _progress(folder: Path) -> Progress:
    path = folder / PROGRESS
    return Progress(**json.loads(path.read_text())) if path.is_file() else Progress()


def _note(folder: Path, name: str, content: Any) -> None:
    """Write JSON, all of it or nothing."""
    with replacing(folder / name) as temporary:
        temporary.write_text(json.dumps(content))


def _known(folder: Path) -> Pieces:
    return pieces_of(json.loads((folder / FILE).read_text()))


def _learned(config: TextKeys) -> Pieces:
    """Characters or trie pieces, learned from the beginning of the text."""
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
    known = pieces or (_known(folder) if (folder / FILE).is_file() else _learned(config))
    _note(folder, FILE, known.state())
    kind = _kind(PieceVocabulary(known, 0))
    from tqdm import tqdm

    width, total = np.dtype(kind).itemsize, sum(os.stat(name).st_size for name in config.files)
    bar = tqdm(total=total or None, unit="B", unit_scale=True, disable=None,
               desc="text to tokens", initial=progress.train_bytes + progress.test_bytes)
    with (folder / "train.bin").open("ab") as train, (folder / "test.bin").open("ab") as test, bar:
        train.truncate(progress.train_tokens * width)
        test.truncate(progress.test_tokens * width)
        for done, sides, torn in in_processes(config, progress.documents, known):
            progress.torn += torn
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


# --- the tasks ----------------------------------------------------------------------------------


class Passages(Task):
    """Problems of `width` tokens, cut out of the token ids (N,) of either side of a text."""

    sides: tuple[Ids, Ids]
    width: int

    @classmethod
    def check_files(cls, keys: Any, thoughts: int = 0) -> None:
        """Read the beginning of a text of files."""
        if keys.data is not None and not keys.streamed:
            room = keys.learn_from
            for text in documents(keys):
                room -= len(text)
                if room <= 0:
                    break

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` passages that begin at random places of the training text."""
        last = len(self.sides[0]) - self.width + 1
        return self._cut(0, torch.randint(last, (count,), generator=generator).numpy())

    def _cut(self, side: int, starts: np.ndarray) -> Problems:
        """The passages of one side that begin at `starts` (P,)."""
        rows = self.sides[side][starts[:, None] + np.arange(self.width)].astype(np.int64)
        return self._as_problems(self.vocabulary.unpacked(torch.from_numpy(rows)))

    def _as_problems(self, tokens: Tensor) -> Problems:
        """Passages (P, width) as questions and answers."""
        raise NotImplementedError

    def problems(self) -> list[tuple[str, Problem]]:
        """The held-out passages and as many training ones; the answer is the last token, if any."""
        def text(tokens: Tensor) -> str:
            return self.vocabulary.text(tokens.tolist())

        test = self.test()
        train = self.sample(len(test), torch.Generator().manual_seed(self.config.seed))
        return [(split, Problem(text(question), text(answer[-1:])))
                for split, part in (("train", train), ("test", test))
                for question, answer in zip(part.question, part.answer, strict=True)]


@task("text", keys=TextKeys)
class Text(Passages):
    """A problem is a passage: question (P, T) holds its tokens, answer (P, T) the next of each.

    Held-out passages do not overlap and are evenly spaced. pieces: the tokenizer; None: the one
    that `task.tokens` names. words: the vocabulary of a Hugging Face model, whose tokenizer is
    used.
    """

    policy_kind = "next_token"
    unit = "passages"
    experiment = "normal"
    offers = frozenset({"answers", "positions"})

    def __init__(self, config: TextKeys, thoughts: int = 0, pieces: Pieces | None = None,
                 words: TextVocabulary | None = None, scratch: Path | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a passage."""
        self.config = config
        self.text = packed(config, pieces if words is None else HfPieces(words.tokenizer), thoughts,
                           scratch)
        self.vocabulary = self.text.vocabulary if words is None else words
        self.sides, self.doubts = (self.text.train, self.text.test), self.text.doubts(config.data)
        self.question_length, self.width = config.length, config.length + 1
        self.answer_length = 0  # the next tokens lie in the passage itself
        for side, ids in zip(("train", "test"), self.sides, strict=True):
            if len(ids) <= config.length:
                raise UserError(f"task.length={config.length}: found {len(ids)} {side} tokens in "
                                f"{config.data}; legal: fewer than there are, or more text, or "
                                "another task.held_out")

    def test(self) -> Problems:
        """Up to `test_passages` held-out passages."""
        room = (len(self.text.test) - 1) // self.config.length
        count = min(room, self.config.test_passages)
        return self._cut(1, np.arange(count) * room // count * self.config.length)

    def _as_problems(self, tokens: Tensor) -> Problems:
        return Problems(tokens[:, :-1], tokens[:, 1:], None, self.vocabulary.pad)


@dataclass
class CorpusKeys(TextKeys):
    """Prompts that are continued; rewards say what a continuation is worth."""

    name: str = option("corpus", "name of the task", legal=("corpus",))
    prompt: str | None = option(None, "every prompt is this text ('': none at all); null: prompts "
                                "are passages of task.data")
    length: int = option(16, "tokens of a prompt out of task.data", low=1)
    test_passages: int = option(200, "prompts that an evaluation continues", low=1)
    thought_length: int = option(24, "tokens of a continuation: the `think` variant allows so many",
                                 low=1)
    wanted: str = option("", "reward=wanted: the characters that count")
    unwanted: str = option("", "reward=unwanted: the characters that count")
    pattern: str = option("", "reward=pattern or matches: a regular expression (Python's re)")
    words: list[str] = option([], "reward=words: words in lower case, or .txt files with a word a "
                              "line")
    interim: bool = option(False, "a token earns what it adds to the reward of the text so far; "
                           "false: the text earns as a whole. The sums are the same")
    unit: bool = option(False, "the rewards of a text are kept within 0 and 1, before their "
                        "weights")
    enough: float = option(1.0, "a continuation that earns so much counts as right (accuracy)")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.data is not None or self.prompt is None:
            yield from super().contradictions()
        if config is not None:
            yield from _prompts_need(config)
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield (f"task.pattern={self.pattern}: found no regular expression ({error}); legal: "
                   "one that Python's re reads")
        for word in self.words:
            if word.endswith(".txt") and not Path(word).is_file():
                yield f"task.words=[{word}]: found no such file; legal: words, or .txt files"
            elif not word.endswith(".txt") and not (
                    word == word.lower() and re.fullmatch(WORD, word)):
                yield (f"task.words=[{word}]: found no word in lower case; legal: letters, and "
                       "apostrophes between them, or .txt files")


def _prompts_need(config: Any) -> Iterator[str]:
    """What task=corpus requires of other keys: a tokenizer, and something to write."""
    if config.model.kind == "hf":
        yield from own_tokens(config)
        yield from thought_tokens_need(config)
    elif config.task.data is None and config.model.name is None:
        yield ("task.data=null: found model.name=null, so nothing says what text is cut into; "
               "legal: task.data=<file>, or model.name=<checkpoint directory>")
    if config.action == "problems":
        return
    if config.thinker.tokens == 0:
        yield ("thinker.tokens=0: found task=corpus, where a thought is all that is written; "
               "legal: with think, as in variant=[think]")
    if config.thinker.writes == "thoughts":
        yield ("thinker.writes=thoughts: found task=corpus, which asks for a text; legal: text, "
               "both")


@task("corpus", keys=CorpusKeys)
class Corpus(Passages):
    """Prompts (P, Q) without an answer: passages of `task.data`, or `task.prompt` every time.

    start: a checkpoint whose tokenizer is used. words: the vocabulary of a Hugging Face model,
    whose tokenizer is used without its chat template.
    """

    policy_kind = "continuation"
    unit = "prompts"
    experiment = "ppo_corpus"
    answer_length = 0
    offers = frozenset({"text"})

    def __init__(self, config: CorpusKeys, thoughts: int = 0, start: str | None = None,
                 words: TextVocabulary | None = None, scratch: Path | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a prompt."""
        if words is not None:
            pieces: Pieces | None = HfPieces(words.tokenizer)
        else:
            pieces = None if start is None else load_pieces(Path(start))
        needed = config.data is not None and (config.prompt is None or pieces is None)
        text = packed(config, pieces, thoughts, scratch) if needed else None
        known: Any = pieces if text is None else text.vocabulary.pieces
        self.vocabulary = PieceVocabulary(known, thoughts) if words is None else words
        if config.wanted and isinstance(known, Characters) and not set(config.wanted) & {
                *known.names}:
            raise UserError(f"task.wanted={config.wanted}: found no character that the model can "
                            f"write; legal: {''.join(known.names).replace(UNKNOWN, '')!r}")
        self._take(config, text)

    def _take(self, config: CorpusKeys, text: Packed | None) -> None:
        """Keep the two sides of the text, or the one prompt as both."""
        self.config = config
        if config.prompt is not None or text is None:
            ids = self._only(config.prompt or "")
            self.sides, self.width = (ids, ids), len(ids)
        else:
            self.sides, self.width = (text.train, text.test), config.length
            self.doubts = text.doubts(config.data)
        self.question_length = self.width
        for side, ids in zip(("train", "test"), self.sides, strict=True):
            if len(ids) < self.question_length:
                raise UserError(f"task.length={config.length}: found {len(ids)} {side} tokens in "
                                f"{config.data}; legal: as many as there are, or more text, or "
                                "another task.held_out")

    def _only(self, prompt: str) -> Ids:
        """(Q,): the prompt as packed ids. Raises `UserError` if they decode to another text."""
        ids, said = self.vocabulary.packed_prompt(prompt)
        if said != prompt:
            raise UserError(f"task.prompt={prompt}: found {said!r}, cut into the tokens of the "
                            "model; legal: a text of characters that it knows")
        return np.array(ids)

    def test(self) -> Problems:
        """`test_passages` held-out prompts, evenly spaced; some come again if there are too few."""
        room, count = len(self.sides[1]) // self.width, self.config.test_passages
        return self._cut(1, np.arange(count) * room // count * self.width)

    def _as_problems(self, tokens: Tensor) -> Problems:
        return Problems(tokens, tokens[:, :0], None, self.vocabulary.pad)
