"""Tokenizers of running text (characters, a trie, one of Hugging Face), and the vocabulary that
adds thought tokens to their pieces.

Pieces are numbered from 0; in the vocabulary, padding and end-of-text come before them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from ponder.config.errors import UserError, brief
from ponder.core.lazy_imports import Tensor
from ponder.tokenizers.trie import Trie
from ponder.tokenizers.vocabulary import END_OF_TEXT, TORN, Vocabulary, plain_words

FILE = "tokens.json"  # in a checkpoint: its tokenizer
UNKNOWN = "\ufffd"


class Pieces(Protocol):
    """A tokenizer. names: the pieces as text, all different."""

    names: tuple[str, ...]

    def encode(self, text: str) -> list[int]: ...
    def decode(self, pieces: Sequence[int]) -> str: ...
    def state(self) -> dict[str, Any]:
        """JSON values from which `pieces_of` builds the tokenizer again."""
        ...


class Characters:
    """Every character is a piece; an unknown one becomes U+FFFD."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys([*names, UNKNOWN]))
        self._number = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def learn(cls, text: str) -> Characters:
        return cls(sorted(set(text)))

    def encode(self, text: str) -> list[int]:
        unknown = self._number[UNKNOWN]
        return [self._number.get(character, unknown) for character in text]

    def decode(self, pieces: Sequence[int]) -> str:
        return "".join([self.names[piece] for piece in pieces])

    def state(self) -> dict[str, Any]:
        return {"kind": "chars", "characters": "".join(self.names)}


class TriePieces:
    """Pieces are byte strings learnt from a text; encoding takes the longest match."""

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        names = [token.decode("utf-8", "backslashreplace") for token in trie.tokens]
        first = {name: number for number, name in reversed(list(enumerate(names)))}
        self.names = tuple(name if first[name] == number else f"{name}#{number}"
                           for number, name in enumerate(names))

    def encode(self, text: str) -> list[int]:
        return self.trie.encode(text)

    def decode(self, pieces: Sequence[int]) -> str:
        try:
            return self.trie.decode(pieces)
        except UnicodeDecodeError:  # sampled bytes need not be a text
            return self.trie.decode(pieces, "replace")

    def state(self) -> dict[str, Any]:
        return {"kind": "trie", "tokens": [token.decode("latin-1") for token in self.trie.tokens]}


class HfPieces:
    """Pieces are the tokens of a Hugging Face tokenizer, without thought tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        names = tokenizer.convert_ids_to_tokens(range(plain_words(tokenizer)))
        self.names = tuple(f"<unused{i}>" if name is None else name
                           for i, name in enumerate(names))

    @classmethod
    def load(cls, name: str) -> HfPieces:
        """The tokenizer of that name or directory. Raises `UserError` if there is none."""
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(name))
        except Exception as error:  # the network, the hub, the disk: each has errors of its own
            reason = brief(error)
            raise UserError(f"task.tokenizer={name}: cannot be loaded ({reason}); legal: a name on "
                            "the hub, or a directory with a tokenizer") from None

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def decode(self, pieces: Sequence[int]) -> str:
        return self.tokenizer.decode(list(pieces), clean_up_tokenization_spaces=False)

    def state(self) -> dict[str, Any]:
        """With a hash of the tokenizer's rules: tokenizers of one name may differ, and those of two
        names may be equal.
        """
        inner = getattr(self.tokenizer, "backend_tokenizer", None)
        said: dict[str, Any] = {"names": self.names}
        if inner is not None:
            said = json.loads(inner.to_str())
        said |= {"truncation": None, "padding": None}  # which every call sets anew
        if "added_tokens" in said:
            said["added_tokens"] = [word for word in said["added_tokens"]
                                    if word["id"] < len(self.names)]
        return {"kind": "hf", "name": self.tokenizer.name_or_path,
                "sha256": hashlib.sha256(json.dumps(said).encode()).hexdigest()}


class PieceVocabulary(Vocabulary):
    """Token ids: 0 padding, 1 end-of-text, then the pieces, then `</think>` and the thoughts."""

    pieces: Pieces
    chat = False  # it has no chat template

    def __init__(self, pieces: Pieces, thoughts: int) -> None:
        super().__init__((END_OF_TEXT, *pieces.names), thoughts)
        object.__setattr__(self, "pieces", pieces)

    @property
    def end_of_text(self) -> int:
        """Id of the token that follows every document."""
        return 1

    @property
    def text_ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a text."""
        return (self.end_of_text,)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return [2 + piece for piece in self.pieces.encode(text)]

    def opening(self, text: str) -> list[int]:
        """A text from its beginning; an empty one begins behind the end of the one before."""
        return self.encode(text) or [self.end_of_text]

    def prompt(self, turns: list[tuple[str, str]]) -> list[int]:
        """Tokens of a dialogue of (role, text) turns, which stand below each other."""
        return self.encode("".join(f"{text}\n" for _, text in turns))

    def unknown(self, text: str) -> str:
        """The first character of a text that has no token, or ""."""
        if not isinstance(self.pieces, Characters):
            return ""
        return next((one for one in text if one == UNKNOWN or one not in self.pieces.names), "")

    @property
    def characters(self) -> str:
        """The characters that have a token, where each token is one character."""
        return "".join(self.pieces.names).replace(UNKNOWN, "")

    def is_thought(self, token: int) -> bool:
        """Whether a token is a thought token, or the end of a thought."""
        return token >= self.end

    def packed_prompt(self, prompt: str) -> tuple[list[int], str]:
        """Ids of a prompt in a packed text, and the text they decode to; an empty prompt is
        end-of-text, which precedes every document.
        """
        ids = self.encode(prompt) or [self.end_of_text]
        return ids, self.decode(ids)

    @staticmethod
    def unpacked(ids: Tensor) -> Tensor:
        """Ids of a packed text as ids of this vocabulary: they are the same."""
        return ids

    def written(self, stops: bool, thoughts: bool) -> slice:
        """Ids that may continue a text: the pieces, end-of-text if `stops`, and `</think>` with the
        thought tokens if `thoughts`.
        """
        return slice(self.end_of_text + (not stops), len(self) if thoughts else self.end)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the pieces among the tokens; special and thought tokens are left out."""
        return self.pieces.decode([token - 2 for token in tokens if 1 < token < self.end])

    def begun(self, tokens: Sequence[int]) -> str:
        """`decode`, without an incomplete character at the end."""
        text = self.decode(tokens)
        return text if isinstance(self.pieces, Characters) else text.rstrip(TORN)

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without padding. Neighbouring pieces are decoded together, as a character
        may consist of several.
        """
        words, said = self.words, []
        for ordinary, run in groupby(tokens, lambda token: 1 < token < self.end):
            if ordinary:
                said.append(self.pieces.decode([token - 2 for token in run]))
            else:
                said += [words[token] for token in run if token != self.pad]
        return "".join(said)


def identity(pieces: Pieces) -> dict[str, Any]:
    """A tokenizer's state without its name: equal for tokenizers that encode alike."""
    return {key: value for key, value in pieces.state().items() if key != "name"}


def load_pieces(directory: Path, key: str = "model.name") -> Pieces:
    """The tokenizer of a checkpoint on text. Raises `UserError` if it cannot be read."""
    path = directory / FILE
    try:
        return pieces_of(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = brief(error)
        raise UserError(f"{key}={directory}: cannot be read ({reason}); legal: a checkpoint of a "
                        f"model of text, with its {FILE}") from None


def pieces_of(state: dict[str, Any]) -> Pieces:
    """The tokenizer with this `state`. Raises KeyError or ValueError for any other value."""
    if state["kind"] == "chars":
        return Characters(state["characters"])
    if state["kind"] == "trie":
        return TriePieces(Trie([token.encode("latin-1") for token in state["tokens"]]))
    pieces = HfPieces.load(state["name"])
    if pieces.state()["sha256"] != state.get("sha256", pieces.state()["sha256"]):
        raise ValueError(f"the tokenizer {state['name']} cuts otherwise than it did")
    return pieces
