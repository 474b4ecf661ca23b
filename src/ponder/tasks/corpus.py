"""Texts that are continued: a problem is a prompt, and nothing is asked behind what follows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ponder.config.texts import CorpusTask
from ponder.errors import UserError
from ponder.tasks.packed import Ids, packed
from ponder.tokens.pieces import UNKNOWN, Characters, PieceVocabulary, load_pieces
from ponder.types import Problem, Problems


class Corpus:
    """Prompts (P, Q) without an answer: passages of a text, held-out ones for evaluations, or one
    prompt again and again, which is the only passage of a text that is just as long.

    `start`: a checkpoint whose pieces texts are cut into.
    """

    labels = None
    epoch_size = None
    answer_length = 0

    def __init__(self, config: CorpusTask, thoughts: int, start: str | None = None) -> None:
        """Raises `UserError` where the text cannot be read, or is shorter than a prompt."""
        pieces = None if start is None else load_pieces(Path(start))
        self.config = config
        self.question_length = config.length
        if config.data is not None:
            text = packed(config, pieces, thoughts)
            self.vocabulary, self.sides = text.vocabulary, (text.train, text.test)
        else:
            assert pieces is not None, "the configuration check lets no such run begin"
            self.vocabulary = PieceVocabulary(pieces, thoughts)
        known = self.vocabulary.pieces
        if config.wanted and isinstance(known, Characters) and not set(config.wanted) & {
                *known.names}:
            raise UserError(f"task.wanted={config.wanted}: found no character that the model can "
                            f"write; legal: {''.join(known.names).replace(UNKNOWN, '')!r}")
        if config.prompt is not None:
            ids = self._only(config.prompt)
            self.sides, self.question_length = (ids, ids), len(ids)
        for side, ids in zip(("train", "test"), self.sides, strict=True):
            if len(ids) < self.question_length:
                raise UserError(f"task.length={config.length}: found {len(ids)} {side} tokens in "
                                f"{config.data}; legal: as many as there are, or more text, or "
                                "another task.held_out")

    def _only(self, prompt: str) -> Ids:
        """(Q,): a prompt; of none, end-of-text, behind which texts begin."""
        words = self.vocabulary
        ids = words.encode(prompt) or [words.end_of_text]
        if words.decode(ids) != prompt:
            raise UserError(f"task.prompt={prompt}: found {words.decode(ids)!r}, cut into the "
                            "tokens of the model; legal: a text of characters that it knows")
        return np.array(ids)

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` prompts that begin anywhere in the training text."""
        last = len(self.sides[0]) - self.question_length + 1
        return self._prompts(0, torch.randint(last, (count,), generator=generator).numpy())

    def test(self) -> Problems:
        """Held-out prompts, with even gaps; where there are too few, some come again."""
        room, count = len(self.sides[1]) // self.question_length, self.config.test_passages
        return self._prompts(1, np.arange(count) * room // count * self.question_length)

    def _prompts(self, side: int, places: np.ndarray) -> Problems:
        rows = self.sides[side][places[:, None] + np.arange(self.question_length)]
        tokens = torch.from_numpy(rows.astype(np.int64))
        return Problems(tokens, tokens[:, :0], None, self.vocabulary.pad)

    def problems(self) -> list[tuple[str, Problem]]:
        """The held-out prompts, and as many to learn from, as text."""
        test = self.test()
        train = self.sample(len(test), torch.Generator().manual_seed(self.config.seed))
        return [(split, Problem(self.vocabulary.text(question), ""))
                for split, part in (("train", train), ("test", test))
                for question in part.question.tolist()]

    def hinted(self, problems: Problems) -> Problems:
        return replace(problems)

    def examples(self, count: int, generator: torch.Generator) -> Problems:
        return self.sample(count, generator)
