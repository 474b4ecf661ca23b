"""Tokens of any length: longest match, exact on every text, quick."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.tokenizers import pieces as module
from ponder.tokenizers.pieces import BYTES, Trie, pieces_of

CORPUS = "the cat sat on the mat, the cat ate the rat; " * 40 + "naïve café 東京東京 " * 9
LEARNT = Trie.learn(CORPUS, 400)


def by_hand(tokens: list[bytes], data: bytes) -> list[int]:
    """Longest match, a place at a time."""
    found, at, number = [], 0, {token: place for place, token in enumerate(tokens)}
    while at < len(data):
        size = max(size for size in range(1, 20) if data[at:at + size] in number
                   and at + size <= len(data))
        found.append(number[data[at:at + size]])
        at += size
    return found


def test_the_longest_token_wins() -> None:
    """`abc` is taken whole; of `abd` only `ab`, though `abcd` begins alike."""
    trie = Trie([*BYTES, b"ab", b"abc", b"abcde", b"cd"])
    assert trie.encode("abcabdabcdabcde") == [257, 256, 100, 257, 100, 258]
    assert trie.encode("cdab") == [259, 256] and trie.encode("") == []
    assert trie.decode([257, 256, 100]) == "abcabd"


@pytest.mark.slow
@given(st.text(alphabet=st.characters(), max_size=60))
@settings(max_examples=500, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    """Surrogates among them."""
    tokens = LEARNT.encode(text)
    assert LEARNT.decode(tokens) == text
    assert tokens == by_hand(LEARNT.tokens, text.encode("utf-8", "surrogatepass"))


@pytest.mark.slow
def test_ten_thousand_random_texts_come_back() -> None:
    """Half of any characters of Unicode, half of those that the tokens were learnt from."""
    draw, letters = random.Random(0), sorted(set(CORPUS))
    for number in range(10_000):
        length = draw.randrange(40)
        text = "".join(chr(draw.randrange(0x110000)) if number % 2 else draw.choice(letters)
                       for _ in range(length))
        assert LEARNT.decode(LEARNT.encode(text)) == text


def test_tokens_cross_the_chunks_that_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    text = CORPUS[:700]
    whole = LEARNT.encode(text)
    for chunk in (1, 3, 50, 699):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert LEARNT.encode(text) == whole


def test_what_is_learnt_cuts_the_corpus_into_few() -> None:
    assert len(LEARNT) == 400 and max(map(len, LEARNT.tokens)) <= 16
    assert len(LEARNT.encode(CORPUS)) < len(CORPUS.encode()) / 5
    assert len(Trie.learn("ababab", 300)) < 300  # no more neighbours that come twice
    assert Trie.learn("", 300).tokens == BYTES


def test_a_trie_is_what_was_saved() -> None:
    assert pieces_of(json.loads(json.dumps(LEARNT.state()))).tokens == LEARNT.tokens
    for tokens in ([], ["a"], [*map(chr, range(256)), "ab", "ab"]):
        with pytest.raises(ValueError):
            pieces_of({"kind": "trie", "tokens": tokens})
