"""Tokens of any length, learnt from a corpus; encoding takes the longest match.

Tokens are byte strings and include the 256 single bytes, so every text can be encoded, and decoding
gives it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from ponder.core.lazy_imports import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = [bytes([byte]) for byte in range(256)]
CHUNK = 1 << 20  # bytes that are looked at together
GROWTH = 4  # each round of learning adds a GROWTH-th of the tokens there are
Ids: TypeAlias = "NDArray[np.int64]"


class Trie:
    """Greedy longest match over tokens, numbered in their order.

    One table gives the next node for every node and byte, -1 for none. All positions of a text are
    looked up at once: one step for each byte of the longest token, over the positions where a
    longer token is still possible. Bytes that are in no longer token share the first column.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """Raises ValueError unless the first tokens are the 256 single bytes and all differ."""
        if list(tokens[:256]) != BYTES or len(set(tokens)) != len(tokens):
            raise ValueError("a trie's tokens are the 256 single bytes, then others, each once")
        self.tokens = list(tokens)
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

    # --- text and tokens ------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self.cut(text.encode("utf-8", "surrogatepass")).tolist()

    def decode(self, tokens: Sequence[int], errors: str = "surrogatepass") -> str:
        """The text of tokens; `errors` as in bytes.decode."""
        return b"".join([self.tokens[token] for token in tokens]).decode("utf-8", errors)

    def cut(self, data: bytes) -> Ids:
        """(T,): the tokens of bytes."""
        codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        return np.concatenate([*self._chunks(codes), np.empty(0, np.int64)])

    def _chunks(self, codes: Ids) -> Iterator[Ids]:
        """The tokens of bytes (n,), chunk by chunk; one that crosses a border is in the first."""
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
        """`size` tokens of at most `longest` bytes that cut a corpus into few.

        The most frequent neighbours become tokens, some at a time; then those that longest match
        hardly uses make room for better ones (the merges of Sennrich et al. 2016, without order).
        Fewer where the corpus has no more neighbours that come twice.
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
        """The most frequent pairs of neighbouring tokens that are none yet, as tokens."""
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

    # --- on disk --------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """As a JSON list of texts in which a character is a byte."""
        path.write_text(json.dumps([token.decode("latin-1") for token in self.tokens]))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises OSError or ValueError where no trie was saved there."""
        content = json.loads(path.read_text())
        if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
            raise ValueError("no list of tokens")
        return cls([item.encode("latin-1") for item in content])
