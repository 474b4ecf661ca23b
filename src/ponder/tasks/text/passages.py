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
from ponder.tokenizers.pieces import HfPieces, Pieces, PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary


@task("text", keys=TextKeys)
class Text(Task):
    """A problem is a passage: question (P, T) holds its tokens, answer (P, T) the next of each.

    Training passages begin at random positions; held-out ones do not overlap and are evenly spaced.
    pieces: the tokenizer; None: the one that `task.tokens` names.
    """

    policy_kind = "next_token"
    unit = "passages"
    offers = frozenset({"answers", "positions"})

    def __init__(self, config: TextKeys, thoughts: int, pieces: Pieces | None = None) -> None:
        """Raises `UserError` if the text cannot be read, or is shorter than a passage."""
        self.config = config
        self.text = packed(config, pieces, thoughts)
        for side, ids in (("train", self.text.train), ("test", self.text.test)):
            if len(ids) <= config.length:
                raise UserError(f"task.length={config.length}: found {len(ids)} {side} tokens in "
                                f"{config.data}; legal: fewer than there are, or more text, or "
                                "another task.held_out")

    @property
    def vocabulary(self) -> PieceVocabulary:
        return self.text.vocabulary

    @property
    def question_length(self) -> int:
        return self.config.length

    @property
    def answer_length(self) -> int:
        return 0  # the next tokens lie in the passage itself

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
        tokens = self._tokens(torch.from_numpy(rows))
        return Problems(tokens[:, :-1], tokens[:, 1:], None, self.vocabulary.pad)

    def _tokens(self, packed: Tensor) -> Tensor:
        """Ids of the packed text as ids of the vocabulary."""
        return packed

    def problems(self) -> list[tuple[str, Problem]]:
        """The held-out passages and as many training ones; the answer is the last token."""
        def text(tokens: Tensor) -> str:
            return self.vocabulary.text(tokens.tolist())

        test = self.test()
        train = self.sample(len(test), torch.Generator().manual_seed(self.config.seed))
        return [(split, Problem(text(question), text(answer[-1:])))
                for split, part in (("train", train), ("test", test))
                for question, answer in zip(part.question, part.answer, strict=True)]


class ModelText(Text):
    """The same in the tokens of a Hugging Face model; its end-of-sequence ends a document."""

    def __init__(self, config: TextKeys, vocabulary: TextVocabulary) -> None:
        super().__init__(config, 0, HfPieces(vocabulary.tokenizer))
        self.words = vocabulary

    @property
    def vocabulary(self) -> TextVocabulary:  # type: ignore[override]
        return self.words

    def _tokens(self, packed: Tensor) -> Tensor:
        return self.words.unpacked(packed)
