"""Prompts that are continued; a reward judges the continuation, and there is no answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.registry import task
from ponder.core.lazy_imports import numpy as np
from ponder.core.lazy_imports import torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task
from ponder.tasks.text.documents import TextKeys, own_tokens, thought_tokens_need
from ponder.tasks.text.packed import Ids, Packed, packed
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
        """Each combination of legal values that means nothing, as the line that says why."""
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
    """What says which tokens prompts are cut into, and that something is written."""
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
class Corpus(Task):
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
        self.config, self.question_length = config, config.length
        if config.prompt is not None or text is None:
            ids = self._only(config.prompt or "")
            self.sides, self.question_length = (ids, ids), len(ids)
        else:
            self.sides = text.train, text.test
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

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` prompts that begin at random positions of the training text."""
        last = len(self.sides[0]) - self.question_length + 1
        return self._prompts(0, torch.randint(last, (count,), generator=generator).numpy())

    def test(self) -> Problems:
        """Held-out prompts, evenly spaced; some are repeated if there are too few."""
        room, count = len(self.sides[1]) // self.question_length, self.config.test_passages
        return self._prompts(1, np.arange(count) * room // count * self.question_length)

    def _prompts(self, side: int, places: np.ndarray) -> Problems:
        rows = self.sides[side][places[:, None] + np.arange(self.question_length)]
        tokens = self.vocabulary.unpacked(torch.from_numpy(rows.astype(np.int64)))
        return Problems(tokens, tokens[:, :0], None, self.vocabulary.pad)

    def problems(self) -> list[tuple[str, Problem]]:
        """The held-out prompts and as many training ones, as text."""
        test = self.test()
        train = self.sample(len(test), torch.Generator().manual_seed(self.config.seed))
        return [(split, Problem(self.vocabulary.text(question), ""))
                for split, part in (("train", train), ("test", test))
                for question in part.question.tolist()]
