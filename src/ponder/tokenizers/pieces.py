"""Tokenizers of running text (characters, a trie, one of Hugging Face), and the vocabulary that
adds thought tokens to their pieces.

Pieces are numbered from 0; in the vocabulary, padding and end-of-text precede them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from ponder.config.errors import UserError, brief
from ponder.core.lazy_imports import Tensor, library
from ponder.core.lazy_imports import numpy as np
from ponder.tokenizers.vocabulary import END_OF_TEXT, TORN, Vocabulary, plain_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "tokens.json"  # in a checkpoint: its tokenizer
UNKNOWN = "\ufffd"
BYTES = [bytes([byte]) for byte in range(256)]
CHUNK = 1 << 20  # bytes that a trie cuts together
GROWTH = 4  # each round of learning a trie adds a GROWTH-th of the pieces there are
Ids: TypeAlias = "NDArray[np.int64]"


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


class Trie:
    """Pieces of any length that are learnt from a text; encoding takes the longest match.

    They are byte strings (`tokens`) and include the 256 single bytes, so every text can be encoded,
    and decoding gives it back. One table gives the next node for every node and byte, -1 for none.
    All positions of a text are looked up at once: one step for each byte of the longest token, over
    the positions where a longer token is still possible. Bytes that are in no longer token share
    the first column.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """Raises ValueError unless the first tokens are the 256 single bytes and all differ."""
        if list(tokens[:256]) != BYTES or len(set(tokens)) != len(tokens):
            raise ValueError("a trie's tokens are the 256 single bytes, then others, each once")
        self.tokens = list(tokens)
        names = [token.decode("utf-8", "backslashreplace") for token in tokens]
        first = {name: number for number, name in reversed(list(enumerate(names)))}
        self.names = tuple(name if first[name] == number else f"{name}#{number}"
                           for number, name in enumerate(names))
        self.longest = max(map(len, tokens))
        used = sorted({byte for token in tokens[256:] for byte in token})
        self.column = np.zeros(256, np.int64)
        self.column[used] = np.arange(1, len(used) + 1)
        children: list[dict[int, int]] = [{}]
        ends = [-1]
        for number, token in enumerate(tokens[256:], 256):
            node = 0
            for byte in token:
                if byte not in children[node]:
                    children[node][byte] = len(children)
                    children.append({})
                    ends.append(-1)
                node = children[node][byte]
            ends[node] = number
        self.next = np.full((len(children), len(used) + 1), -1, np.int32)
        for node, known in enumerate(children):
            self.next[node, self.column[list(known)]] = list(known.values())
        self.ends = np.array(ends)

    def __len__(self) -> int:
        return len(self.tokens)

    def state(self) -> dict[str, Any]:
        return {"kind": "trie", "tokens": [token.decode("latin-1") for token in self.tokens]}

    def encode(self, text: str) -> list[int]:
        return self.cut(text.encode("utf-8", "surrogatepass")).tolist()

    def decode(self, pieces: Sequence[int]) -> str:
        data = b"".join([self.tokens[piece] for piece in pieces])
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # sampled bytes need not be a text
            return data.decode("utf-8", "replace")

    def cut(self, data: bytes) -> Ids:
        """(T,): the tokens of bytes."""
        codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        return np.concatenate([*self._chunks(codes), np.empty(0, np.int64)])

    def _chunks(self, codes: Ids) -> Iterator[Ids]:
        """The tokens of bytes (n,), chunk by chunk; one that crosses a border is in the earlier."""
        start = 0
        for offset in range(0, len(codes), CHUNK):
            end = min(offset + CHUNK, len(codes))
            token, length = self._matches(codes[offset:end + self.longest - 1], end - offset)
            steps, places, at = length.tolist(), list[int](), start - offset
            while at < end - offset:
                places.append(at)
                at += steps[at]
            start = offset + at
            yield token[np.array(places, dtype=np.int64)]

    def _matches(self, codes: Ids, count: int) -> tuple[Ids, Ids]:
        """(token, length), each (count,): the longest token at each of the first positions."""
        token, length = codes[:count].copy(), np.ones(count, np.int64)
        column = self.column[codes]
        place, node = np.arange(count), np.zeros(count, np.int64)
        for depth in range(self.longest):
            if len(place) and place[-1] + depth >= len(codes):
                room = place + depth < len(codes)
                place, node = place[room], node[room]
            node = self.next[node, column[place + depth]]
            there = node >= 0
            place, node = place[there], node[there]
            end = self.ends[node]
            whole = end >= 0
            token[place[whole]], length[place[whole]] = end[whole], depth + 1
        return token, length

    # --- learning -------------------------------------------------------------------------------

    @classmethod
    def learn(cls, corpus: str, size: int, longest: int = 16) -> Self:
        """A trie of `size` tokens of at most `longest` bytes, by which a corpus has few tokens.

        The most frequent pairs of neighbours become tokens, some at a time (as the merges of
        Sennrich et al. 2016, but without their order). Then tokens that longest match hardly uses
        are replaced by better ones. Fewer tokens where no more pairs occur twice.
        """
        data = corpus.encode("utf-8", "surrogatepass")
        trie = cls(BYTES)
        while len(trie) < size:
            more = trie._neighbours(data, min(size - len(trie), max(16, len(trie) // GROWTH)),
                                    longest)
            if not more:
                return trie
            trie = cls([*trie.tokens, *more])
        for _ in range(3):
            used = np.bincount(trie.cut(data), minlength=len(trie))[256:]
            order = np.argsort(-used * np.array([len(token) - 1 for token in trie.tokens[256:]]),
                               kind="stable")
            kept = sorted(order[:len(order) * 15 // 16].tolist())
            trie = cls([*BYTES, *(trie.tokens[256 + number] for number in kept)])
            trie = cls([*trie.tokens, *trie._neighbours(data, size - len(trie), longest)])
        return trie

    def _neighbours(self, data: bytes, count: int, longest: int) -> list[bytes]:
        """The most frequent pairs of neighbouring tokens that are not one token yet, joined."""
        tokens = self.cut(data)
        pairs, often = np.unique(tokens[:-1] * len(self) + tokens[1:], return_counts=True)
        known, found = set(self.tokens), dict[bytes, None]()
        for number in np.argsort(-often, kind="stable"):
            if often[number] < 2 or len(found) == count:
                break
            first, second = divmod(int(pairs[number]), len(self))
            joined = self.tokens[first] + self.tokens[second]
            if len(joined) <= longest and joined not in known:
                found[joined] = None
        return list(found)


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
        try:
            return cls(library().AutoTokenizer.from_pretrained(name))
        except Exception as error:  # the network, the hub, the disk: each has errors of its own
            reason = brief(error)
            raise UserError(f"task.tokenizer={name}: cannot be loaded ({reason}); legal: a name on "
                            "the hub, or a directory with a tokenizer") from None

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def decode(self, pieces: Sequence[int]) -> str:
        return self.tokenizer.decode(list(pieces), clean_up_tokenization_spaces=False)

    def state(self) -> dict[str, Any]:
        """With a hash of the tokenizer's rules, as tokenizers of one name may differ, and those of
        two names may be equal.
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

    def ended_by(self, tokens: list[int], room: int) -> str:
        """As of `TextVocabulary`."""
        return END_OF_TEXT if self.end_of_text in tokens[:room] else ""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return [2 + piece for piece in self.pieces.encode(text)]

    def opening(self, text: str) -> list[int]:
        """Token ids of a text from its beginning; of an empty one end-of-text, which precedes
        every document.
        """
        return self.encode(text) or [self.end_of_text]

    def prompt(self, turns: list[tuple[str, str]]) -> list[int]:
        """Tokens of a dialogue of (role, text) turns, one turn a line."""
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
        """The text of the pieces among the tokens, without special and thought tokens."""
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
        return Trie([token.encode("latin-1") for token in state["tokens"]])
    pieces = HfPieces.load(state["name"])
    if pieces.state()["sha256"] != state.get("sha256", pieces.state()["sha256"]):
        raise ValueError(f"the tokenizer {state['name']} has changed")
    return pieces
