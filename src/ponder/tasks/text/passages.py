"""Tasks of running text: `text` predicts the next token of passages, `corpus` continues prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.lazy_imports import numpy as np
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task
from ponder.tasks.text.documents import Ids, TextKeys, own_tokens, thought_tokens_need
from ponder.tasks.text.packed import Packed, packed
from ponder.tokenizers.pieces import (
    UNKNOWN,
    Characters,
    HfPieces,
    Pieces,
    PieceVocabulary,
    load_pieces,
)
from ponder.tokenizers.vocabulary import TextVocabulary

WORD = r"[^\W\d_]+(?:'[^\W\d_]+)*"


class Passages(Task):
    """Problems that are cut out of a text, `width` tokens each.

    sides: token ids (N,) of the training text and of the held-out one.
    """

    sides: tuple[Ids, Ids]
    width: int

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
    offers = frozenset({"answers", "positions"})

    def __init__(self, config: TextKeys, thoughts: int = 0, pieces: Pieces | None = None,
                 words: TextVocabulary | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a passage."""
        self.config = config
        self.text = packed(config, pieces if words is None else HfPieces(words.tokenizer), thoughts)
        self.vocabulary = self.text.vocabulary if words is None else words
        self.sides = self.text.train, self.text.test
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
    answer_length = 0
    offers = frozenset({"text"})

    def __init__(self, config: CorpusKeys, thoughts: int = 0, start: str | None = None,
                 words: TextVocabulary | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a prompt."""
        if words is not None:
            pieces: Pieces | None = HfPieces(words.tokenizer)
        else:
            pieces = None if start is None else load_pieces(Path(start))
        text = None if config.data is None else packed(config, pieces, thoughts)
        known = pieces if text is None else text.vocabulary.pieces
        assert known is not None, "the configuration check lets no such run begin"
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
