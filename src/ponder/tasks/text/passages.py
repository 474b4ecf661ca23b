"""Language modelling: passages of a fixed length, whose next tokens are predicted."""

from __future__ import annotations

from ponder.config.errors import UserError
from ponder.config.registry import task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.lazy_imports import numpy as np
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task
from ponder.tasks.text.documents import TextKeys
from ponder.tasks.text.packed import Ids, packed
from ponder.tokenizers.pieces import HfPieces, Pieces
from ponder.tokenizers.vocabulary import TextVocabulary


@task("text", keys=TextKeys)
class Text(Task):
    """A problem is a passage: question (P, T) holds its tokens, answer (P, T) the next of each.

    Training passages begin at random positions; held-out ones do not overlap and are evenly spaced.
    pieces: the tokenizer; None: the one that `task.tokens` names. words: the vocabulary of a
    Hugging Face model, whose tokenizer is used.
    """

    policy_kind = "next_token"
    unit = "passages"
    experiment = "normal"
    offers = frozenset({"answers", "positions"})

    def __init__(self, config: TextKeys, thoughts: int = 0, pieces: Pieces | None = None,
                 words: TextVocabulary | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a passage."""
        self.config = config
        self.text = packed(config, pieces if words is None else HfPieces(words.tokenizer), thoughts)
        self.vocabulary = self.text.vocabulary if words is None else words
        self.question_length = config.length
        self.answer_length = 0  # the next tokens lie in the passage itself
        for side, ids in (("train", self.text.train), ("test", self.text.test)):
            if len(ids) <= config.length:
                raise UserError(f"task.length={config.length}: found {len(ids)} {side} tokens in "
                                f"{config.data}; legal: fewer than there are, or more text, or "
                                "another task.held_out")

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """`count` passages that begin at random positions of the training text."""
        last = len(self.text.train) - self.config.length
        return self._passages(self.text.train,
                              torch.randint(last, (count,), generator=generator).numpy())

    def test(self) -> Problems:
        """Held-out passages."""
        room = (len(self.text.test) - 1) // self.config.length
        count = min(room, self.config.test_passages)
        places = np.arange(count) * room // count * self.config.length
        return self._passages(self.text.test, places)

    def _passages(self, ids: Ids, places: np.ndarray) -> Problems:
        rows = ids[places[:, None] + np.arange(self.config.length + 1)].astype(np.int64)
        tokens = self.vocabulary.unpacked(torch.from_numpy(rows))
        return Problems(tokens[:, :-1], tokens[:, 1:], None, self.vocabulary.pad)

    def problems(self) -> list[tuple[str, Problem]]:
        """The held-out passages and as many training ones; the answer is the last token."""
        def text(tokens: Tensor) -> str:
            return self.vocabulary.text(tokens.tolist())

        test = self.test()
        train = self.sample(len(test), torch.Generator().manual_seed(self.config.seed))
        return [(split, Problem(text(question), text(answer[-1:])))
                for split, part in (("train", train), ("test", test))
                for question, answer in zip(part.question, part.answer, strict=True)]
