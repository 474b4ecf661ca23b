"""Beam search against brute force and transformers, samples against the distribution they are drawn
from, and networks that read no token twice.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from ponder.core.math import GREEDY, Sampling, distribution
from ponder.generation.contexts import DecodingContext
from ponder.generation.decoding import (
    BeamSearch,
    Completion,
    LanguageModel,
    beam_search,
    completions_of,
    sample_steps,
)
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.huggingface.model import Model
from ponder.tokenizers.vocabulary import Vocabulary
from ponder.training.checkpoint import save_pretrained
from support.questions import language_model
from support.small import generator

EARLY: dict[str, Any] = {"first": True, "bound": False, "exact": "never"}


class Table:
    """A language model of random log-probabilities: the next token depends on all before it."""

    def __init__(self, words: int, ends: tuple[int, ...] = (), seed: int = 0,
                 forbidden: tuple[int, ...] = ()) -> None:
        self.words, self.ends, self.seed, self.forbidden = words, ends, seed, forbidden
        self.rows: list[tuple[int, ...]] = []

    def next(self, text: tuple[int, ...]) -> Tensor:
        random = torch.Generator().manual_seed(hash((self.seed, text)) % 2**31)
        logits = 2 * torch.randn(self.words, generator=random, dtype=torch.double)
        logits[list(self.forbidden)] = -torch.inf
        return logits.log_softmax(-1)

    def start(self, prompt: list[int]) -> Tensor:
        self.rows = [tuple(prompt)]
        return self.next(self.rows[0])[None]

    def extend(self, rows: Tensor, tokens: Tensor) -> Tensor:
        self.rows = [(*self.rows[row], token) for row, token in zip(
            rows.tolist(), tokens.tolist(), strict=True)]
        return torch.stack([self.next(row) for row in self.rows])


def brute_force(table: Table, prompt: list[int], room: int, alpha: float) -> list[Completion]:
    """All texts: those that end, and those of `room` tokens that do not."""
    found = []
    for length in range(1, room + 1):
        for text in itertools.product(range(table.words), repeat=length):
            inner, last = text[:-1], text[-1]
            if any(token in table.ends for token in inner):
                continue
            if last not in table.ends and length < room:
                continue
            logprob = sum(float(table.next((*prompt, *text[:place]))[token])
                          for place, token in enumerate(text))
            if logprob > -math.inf:
                found.append(Completion(list(text), logprob, last in table.ends,
                                  logprob / length**alpha))
    return sorted(found, key=lambda text: -(text.score or 0))


def sampled_from(model: LanguageModel, prompt: list[int], sampling: Sampling, samples: int,
                 max_tokens: int, random: torch.Generator | None = None) -> list[Completion]:
    steps = sample_steps(model, prompt, sampling, samples, max_tokens, random or generator())
    return completions_of(steps, samples, model.ends)


# --- beam search and brute force ----------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(words=some.integers(2, 4), room=some.integers(1, 4), alpha=some.sampled_from(
    [0.0, 0.5, 1.0, 2.0, -0.5]), ends=some.sampled_from([(), (0,), (1,), (0, 1)]),
    stopping=some.sampled_from(["bound", "exact"]), seed=some.integers(0, 10**6))
def test_with_beams_for_all_prefixes_it_finds_the_best_texts(
        words: int, room: int, alpha: float, ends: tuple[int, ...], stopping: str,
        seed: int) -> None:
    table = Table(words, ends, seed)
    expected = brute_force(table, [1, 0], room, alpha)
    found = beam_search(table, [1, 0], BeamSearch(words**room, alpha, stopping), room)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.ended) == (other.tokens, other.ended)
        assert one.logprob == pytest.approx(other.logprob)
        assert one.score == pytest.approx(other.score)


@pytest.mark.slow
def test_a_narrow_beam_is_worth_what_it_says_and_no_more_than_the_best() -> None:
    missed = 0
    for seed in range(30):
        table = Table(4, (0,), seed)
        best = {tuple(text.tokens): text for text in brute_force(table, [2], 4, 1.0)}
        found = beam_search(table, [2], BeamSearch(2), 4)
        top = max(text.score or 0 for text in best.values())
        assert 1 <= len(found) <= 2 and found == sorted(found, key=lambda text: -(text.score or 0))
        for text in found:
            assert best[tuple(text.tokens)].score == pytest.approx(text.score)
        missed += (found[0].score or 0) < top - 1e-9
    assert 0 < missed < 15


def test_one_beam_is_greedy_until_the_end() -> None:
    table = Table(5, (0,), 3)
    found, = beam_search(table, [1], BeamSearch(1, stopping="first"), 6)
    greedy, = sampled_from(Table(5, (0,), 3), [1], GREEDY, 1, 6)
    assert (found.tokens, found.ended) == (greedy.tokens, greedy.ended)
    assert found.logprob == pytest.approx(greedy.logprob)


def test_the_length_penalty_by_hand() -> None:
    """log p is log(1/2) for the end at once, log(1/2) + 3 log(9/10) for three words and no end."""
    class Two(Table):
        def next(self, text: tuple[int, ...]) -> Tensor:
            p = [0.5, 0.5] if len(text) == 1 else [0.1, 0.9]
            return torch.tensor(p, dtype=torch.double).log()

    short, long = math.log(0.5), math.log(0.5) + 2 * math.log(0.9)
    for alpha, first in ((0.0, [0]), (1.0, [1, 1, 1])):
        found = beam_search(Two(2, (0,)), [1], BeamSearch(8, alpha), 3)
        score = {tuple(text.tokens): text.score for text in found}
        assert found[0].tokens == first
        assert score[(0,)] == pytest.approx(short)
        assert score[(1, 1, 1)] == pytest.approx(long / 3**alpha)


@pytest.mark.parametrize("stopping, found", [("first", [0]), ("bound", [0]), ("exact", [1, 1, 1])])
def test_the_end_of_a_search_by_hand(stopping: str, found: list[int]) -> None:
    """The end has p = 0.6, score -0.51. A word has log 0.4 = -0.92, less now; two more words that
    are nearly certain, and it is -0.94 / 3 = -0.31.
    """
    class Late(Table):
        def next(self, text: tuple[int, ...]) -> Tensor:
            p = [0.6, 0.4] if len(text) == 1 else [0.01, 0.99]
            return torch.tensor(p, dtype=torch.double).log()

    text, = beam_search(Late(2, (0,)), [1], BeamSearch(1, 1.0, stopping), 3)
    assert text.tokens == found and text.score == pytest.approx(
        math.log(0.6) if found == [0] else (math.log(0.4) + 2 * math.log(0.99)) / 3)


def test_forbidden_tokens_are_never_generated() -> None:
    table = Table(3, (0,), 0, forbidden=(0, 1))
    found = beam_search(table, [2], BeamSearch(4), 3)
    assert [text.tokens for text in found] == [[2, 2, 2]]
    sampled = sampled_from(table, [2], Sampling(top_p=0.9), 50, 3)
    assert {tuple(text.tokens) for text in sampled} == {(2, 2, 2)}


# --- transformers -------------------------------------------------------------------------------


def own(seed: int = 0, words: int = 23, positions: int = 40, d_model: int = 16, layers: int = 2,
        tied: bool = False) -> Transformer:
    torch.manual_seed(seed)
    shape = Shape(words, positions, d_model, layers, 2, tied=tied)
    return Transformer(shape, Init(*[0.4] * 5)).requires_grad_(False)


def opened(net: Transformer, directory: Path) -> Any:
    """A checkpoint of ours in transformers; its words have no meaning."""
    from transformers import AutoModelForCausalLM

    words = tuple(chr(97 + number) for number in range(net.shape.vocabulary - 2))
    save_pretrained(net, directory, Vocabulary(words, 0))
    return AutoModelForCausalLM.from_pretrained(directory)


def as_texts(found: Any, prompt: list[int], end: int) -> list[list[int]]:
    """The new tokens of sequences (N, T), up to the first end."""
    rows = found[:, len(prompt):].tolist()
    return [row[:row.index(end) + 1] if end in row else row for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("stopping", EARLY)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, -1.0])
def test_beam_search_is_that_of_transformers(stopping: str, alpha: float, tmp_path: Path) -> None:
    for seed, (words, d_model, layers, beams, room) in enumerate([
            (23, 16, 2, 4, 12), (50, 32, 1, 3, 20), (11, 8, 3, 5, 9)]):
        net = own(seed, words, d_model=d_model, layers=layers, tied=seed == 1)
        prompt, end = [3, 1, 4, 1, 5], seed + 2
        theirs = opened(net, tmp_path / str(seed)).generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=beams,
            num_return_sequences=beams, do_sample=False, max_new_tokens=room, eos_token_id=end,
            pad_token_id=end, length_penalty=alpha, early_stopping=EARLY[stopping],
            return_dict_in_generate=True, output_scores=True)
        context = DecodingContext(net, slice(None), (end,))
        found = beam_search(context, prompt, BeamSearch(beams, alpha, stopping), room)
        assert [text.tokens for text in found] == as_texts(theirs.sequences, prompt, end)
        torch.testing.assert_close(torch.tensor([text.score for text in found]),
                                   theirs.sequences_scores, atol=1e-4, rtol=0)
        assert all(text.ended == (text.tokens[-1] == end) for text in found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_beam_search_with_several_end_tokens(kind: str) -> None:
    model = language_model(kind)
    prompt, ends = [40, 41, 42], [7, 90, 200]
    theirs = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 3), num_beams=4, do_sample=False,
        num_return_sequences=4, max_new_tokens=15, eos_token_id=ends, pad_token_id=0,
        return_dict_in_generate=True, output_scores=True)
    net = Model(model)
    found = beam_search(DecodingContext(net, None, tuple(ends)), prompt, BeamSearch(4), 15)
    for text, row, score in zip(found, theirs.sequences, theirs.sequences_scores, strict=True):
        assert row[3:3 + len(text.tokens)].tolist() == text.tokens
        assert text.score == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_that_of_transformers(seed: int, tmp_path: Path) -> None:
    net = own(seed)
    theirs = opened(net, tmp_path).generate(
        torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3), do_sample=False,
        max_new_tokens=25, eos_token_id=2, pad_token_id=2)
    text, = sampled_from(DecodingContext(net, slice(None), (2,)), [5, 6, 7], GREEDY, 1, 25)
    assert [text.tokens] == as_texts(theirs, [5, 6, 7], 2)


# --- samples ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(top_k=3),
                                      Sampling(1.5, top_p=0.8)])
def test_samples_are_as_frequent_as_they_should_be(sampling: Sampling) -> None:
    """Chi-square of 20,000 texts of two tokens, against 5 standard deviations."""
    net, count = own(4, words=6), 20_000
    context = DecodingContext(net, slice(None), (0,))
    texts = sampled_from(context, [1, 2], sampling, count, 2)
    often = Counter(tuple(text.tokens) for text in texts)
    expected = {}
    first = distribution(_plain(net, [1, 2]), sampling).exp()
    for one in range(6):
        if one == 0:
            expected[(0,)] = float(first[0])
            continue
        second = distribution(_plain(net, [1, 2, one]), sampling).exp()
        expected.update({(one, two): float(first[one] * second[two]) for two in range(6)})
    assert set(often) <= {text for text, p in expected.items() if p > 0}
    likely = {text: p for text, p in expected.items() if p * count >= 5}
    rare = 1 - sum(likely.values())
    square = sum((often[text] - p * count)**2 / (p * count) for text, p in likely.items())
    freedom = len(likely) - (rare < 1e-6)
    assert square < freedom + 5 * math.sqrt(2 * freedom) + 1
    text = max(texts, key=lambda one: one.logprob)  # log p is the model's, whatever was drawn from
    own_p = sum(float(_plain(net, [1, 2, *text.tokens[:place]]).log_softmax(-1)[token])
                for place, token in enumerate(text.tokens))
    assert text.logprob == pytest.approx(own_p, abs=1e-4)


def _plain(net: Transformer, tokens: list[int]) -> Tensor:
    """Logits (V,) after tokens, computed from nothing."""
    return net.logits(net(torch.tensor([tokens]), last=1)[0][0, 0])


def test_a_sample_does_not_depend_on_the_other_samples() -> None:
    context = DecodingContext(own(5, words=6), slice(None), (0, 1))
    many = sampled_from(context, [3, 4], Sampling(), 7, 12, generator(2))
    for number, text in enumerate(many):
        random = generator(2)
        torch.rand(number, 12, generator=random)
        alone, = sampled_from(context, [3, 4], Sampling(), 1, 12, random)
        assert alone.tokens == text.tokens
    assert len({len(text.tokens) for text in many}) > 2  # some left early
    for text in many:
        assert text.ended == (text.tokens[-1] in (0, 1))
        assert not {0, 1} & set(text.tokens[:-1])


# --- contexts ------------------------------------------------------------------------------------


def contexts() -> list[tuple[DecodingContext, Any]]:
    """A context of each kind, and what says the same from nothing: tokens -> log-probabilities."""
    net, model = own(1, positions=24), language_model("gpt2")
    model.config.max_position_embeddings = 24
    model.config.n_positions = 24
    text = Model(model)
    return [(DecodingContext(net, slice(2, 20), ()), lambda tokens: _padded(net, tokens)),
            (DecodingContext(text, None, ()), lambda tokens: text.logits(
                text.read(torch.tensor([tokens]), keep=False)[0][0, -1]).log_softmax(-1))]


def _padded(net: Transformer, tokens: list[int]) -> Tensor:
    some = net.logits(net(torch.tensor([tokens]), last=1)[0][0, 0], slice(2, 20)).log_softmax(-1)
    return torch.nn.functional.pad(some, (2, 3), value=-torch.inf)


@pytest.mark.parametrize("kind", [0, 1])
def test_texts_are_selected_repeated_and_dropped(kind: int) -> None:
    context, plain = contexts()[kind]
    texts, random = [[4, 5, 6]], torch.Generator().manual_seed(0)
    found = context.start([4, 5, 6])
    for _ in range(8):
        rows = torch.randint(len(texts), (3,), generator=random)
        tokens = torch.randint(3, 19, (3,), generator=random)
        texts = [[*texts[row], token] for row, token in zip(rows.tolist(), tokens.tolist(),
                                                            strict=True)]
        found = context.extend(rows, tokens)
    expected = torch.stack([plain(text) for text in texts])
    torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-5, rtol=1e-5)
    assert context.tokens_read == 3 + 8 * 3 and context.truncations == 0


@pytest.mark.parametrize("kind", [0, 1])
def test_a_new_prompt_reuses_the_cache_of_their_common_beginning(kind: int) -> None:
    context, plain = contexts()[kind]
    context.start([4, 5, 6, 7])
    context.extend(torch.tensor([0, 0]), torch.tensor([8, 9]))
    context.extend(torch.tensor([0, 1]), torch.tensor([10, 11]))
    before = context.tokens_read
    for tokens, new in (([4, 5, 6, 7, 8, 10, 12, 13], 2), ([4, 5, 6, 14], 1), ([4, 5, 6], 1),
                        ([7, 5, 6], 3)):
        found = context.start(tokens)
        torch.testing.assert_close(found[0], plain(tokens).to(found.dtype), atol=1e-5, rtol=1e-5)
        assert context.tokens_read - before == new
        before = context.tokens_read


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1])
def test_a_text_longer_than_the_positions_is_truncated_to_its_later_half(kind: int) -> None:
    context, plain = contexts()[kind]
    random = torch.Generator().manual_seed(1)
    held, found = [[4, 5, 6], [4, 5, 6]], context.start([4, 5, 6])
    rows = torch.tensor([0, 0])
    for _ in range(60):
        tokens = torch.randint(3, 19, (2,), generator=random)
        found = context.extend(rows, tokens)
        held = [[*text, token] for text, token in zip(held, tokens.tolist(), strict=True)]
        if len(held[0]) > 24:
            held = [text[-12:] for text in held]
        rows = torch.arange(2)
        expected = torch.stack([plain(text) for text in held])
        torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-5, rtol=1e-5)
    assert context.truncations == 3 and context.tokens_read == 3 + 2 * (60 + 3 * 11)
    assert context.start([4, 5, 6]).shape[0] == 1 and context.truncations == 0
    with pytest.raises(ValueError, match="25 tokens, with 24 positions"):
        context.start([4] * 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1])
def test_the_cache_grows(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.generation.contexts.CHUNK", 3)
    test_texts_are_selected_repeated_and_dropped(kind)
    test_a_text_longer_than_the_positions_is_truncated_to_its_later_half(kind)
