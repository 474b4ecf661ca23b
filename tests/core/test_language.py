"""Measures of a language against numbers worked by hand, brute force, and the formulas of EGG
(facebookresearch/EGG, egg/core/language_analysis.py) written out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ponder.core.language import (
    assignment,
    edit_distance,
    information,
    pair_counts,
    positional_disentanglement,
    ranks,
    topographic_similarity,
)
from support.small import generator

Rows = list[list[int]]


def random_codes(rows: int, width: int, values: int, seed: int = 0, shortest: int = 0) -> Tensor:
    """(rows, width): random codes, -1 behind a random length."""
    found = torch.randint(values, (rows, width), generator=generator(seed))
    lengths = torch.randint(shortest, width + 1, (rows, 1), generator=generator(seed + 1))
    return found.masked_fill(torch.arange(width) >= lengths, -1)


def test_information_by_hand() -> None:
    """Of 8 pairs in [[3, 1], [1, 3]]: 2 ln 2 - H(3/8, 1/8, 1/8, 3/8), and chance adds 1/16."""
    both = -2 * (3 / 8 * math.log(3 / 8) + 1 / 8 * math.log(1 / 8))
    plain = 2 * math.log(2) - both
    pairs = torch.tensor([[[3, 1], [1, 3]], [[4, 0], [0, 4]], [[2, 2], [2, 2]], [[0, 0], [0, 0]]])
    assert information(pairs, corrected=False).tolist() == pytest.approx(
        [plain, math.log(2), 0, 0])
    assert information(pairs).tolist() == pytest.approx([plain - 1 / 16, math.log(2), 0, 0])


def test_the_correction_takes_off_what_chance_adds() -> None:
    """Independent symbols: plain counts say 9 / 2 N = 0.045 nats of 4 x 4 cells, N = 100."""
    pairs = pair_counts(*(random_codes(100, 60, 4, seed, shortest=60) for seed in (1, 5)))
    plain, left = information(pairs, corrected=False).mean(), information(pairs).mean()
    assert 0.04 < plain < 0.05 and left < 0.3 * plain


def test_pairs_are_counted_where_both_are_there() -> None:
    symbols, values = random_codes(40, 3, 4), random_codes(40, 2, 5, seed=7)
    counts = pair_counts(symbols, values)
    assert counts.shape == (3, 2, 4, 5)
    for k, a in itertools.product(range(3), range(2)):
        for pair in itertools.product(range(4), range(5)):
            wanted = sum((x[k], y[a]) == pair for x, y in zip(symbols.tolist(), values.tolist(),
                                                             strict=True))
            assert counts[k, a][pair] == wanted


# --- beside EGG ----------------------------------------------------------------------------------

def egg_entropy(values: list) -> float:
    shares = [count / len(values) for count in Counter(values).values()]
    return -sum(share * math.log2(share) for share in shares)


def egg_posdis(attributes: Rows, messages: Rows) -> float:
    """gap_mi_first_second: I[x, y] = H[x] + H[y] - H[x, y]."""
    gaps = []
    for symbols in zip(*messages, strict=True):
        informations = sorted((egg_entropy([*values]) + egg_entropy([*symbols]) - egg_entropy(
            [*zip(values, symbols, strict=True)]) for values in zip(*attributes, strict=True)),
            reverse=True)
        if egg_entropy([*symbols]) > 0:
            gaps.append((informations[0] - informations[1]) / egg_entropy([*symbols]))
    return sum(gaps) / len(gaps)


def levenshtein(one: list[int], other: list[int]) -> int:
    row = [*range(len(other) + 1)]
    for i, x in enumerate(one):
        new = [i + 1]
        for j, y in enumerate(other):
            new.append(min(row[j] + (x != y), row[j + 1] + 1, new[-1] + 1))
        row = new
    return row[-1]


def average_ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + ([*values].count(value) + 1) / 2
            for value in values]


def egg_topsim(meanings: Rows, messages: Rows) -> float:
    """Spearman's correlation of edit(x, y) / ((len(x) + len(y)) / 2) and Hamming distance."""
    pairs = [*itertools.combinations(range(len(messages)), 2)]
    said = [levenshtein(messages[i], messages[j]) / ((len(messages[i]) + len(messages[j])) / 2)
            for i, j in pairs]
    meant = [sum(a != b for a, b in zip(meanings[i], meanings[j], strict=True)) for i, j in pairs]
    ranked = torch.tensor([average_ranks(said), average_ranks(meant)])
    return float(torch.corrcoef(ranked)[0, 1])


def test_positional_disentanglement_is_that_of_egg() -> None:
    """Its own worked example is 0.978656; -1 is a symbol of its own."""
    torch.manual_seed(0)
    attributes = torch.cat([torch.randint(low=0, high=10, size=(1000, 1)) for _ in range(2)], 1)
    assert positional_disentanglement(attributes, attributes) == pytest.approx(0.978656, abs=1e-6)
    longer = torch.cat([attributes, torch.zeros_like(attributes)], 1)  # constant ones do not count
    assert positional_disentanglement(longer, attributes) == pytest.approx(0.978656, abs=1e-6)
    messages, meanings = random_codes(60, 4, 3, seed=3), random_codes(60, 3, 4, shortest=3)
    messages[:, 0] = meanings[:, 1]
    assert positional_disentanglement(messages, meanings) == pytest.approx(
        egg_posdis(meanings.tolist(), messages.tolist()), abs=1e-9)
    assert positional_disentanglement(torch.zeros(5, 2).long(), meanings[:5]) == 0.0


def test_topographic_similarity_is_that_of_egg() -> None:
    words = torch.tensor([[ord(letter) for letter in word]
                          for word in ("cat", "dog", "pen", "ben", "ten")])
    assert topographic_similarity(words, words) == pytest.approx(1.0)  # its own example
    messages, meanings = random_codes(24, 5, 3, seed=3, shortest=1), random_codes(24, 4, 3, seed=9)
    messages[:, :3] = torch.where(messages[:, :3] < 0, -1, meanings[:, :3] + 1)
    ragged = [[symbol for symbol in row if symbol >= 0] for row in messages.tolist()]
    found = topographic_similarity(messages, meanings)
    messages = torch.tensor([row + [-1] * (5 - len(row)) for row in ragged])
    assert found != 0.0 and topographic_similarity(messages, meanings) == pytest.approx(
        egg_topsim(meanings.tolist(), ragged), abs=1e-6)
    assert topographic_similarity(words[:1].expand(4, -1), words[:4]) == 0.0


def test_edit_distance_by_hand_and_against_the_table() -> None:
    words = torch.tensor([[*map(ord, "kitten"), -1], [*map(ord, "sitting")], [-1] * 7])
    found = edit_distance(words, torch.tensor([0, 1, 0, 2, 2]), torch.tensor([1, 0, 2, 1, 2]))
    assert found.tolist() == [3, 3, 6, 7, 0]
    messages = random_codes(30, 9, 3)
    one, other = torch.triu_indices(30, 30, 1)
    ragged = [[symbol for symbol in row if symbol >= 0] for row in messages.tolist()]
    assert edit_distance(messages, one, other).tolist() == [
        levenshtein(ragged[i], ragged[j]) for i, j in zip(one, other, strict=True)]


def test_equal_values_share_a_rank() -> None:
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1, 2.5, 4]


def test_the_best_assignment_is_that_of_all_permutations() -> None:
    for seed in range(100):
        rows, columns = sorted(torch.randint(1, 6, (2,), generator=generator(seed)).tolist())
        gains = torch.randint(7, (rows, columns), generator=generator(seed))
        found, gains = assignment(gains).tolist(), gains.tolist()
        assert len({*found}) == rows
        assert sum(gains[i][j] for i, j in enumerate(found)) == max(
            sum(gains[i][j] for i, j in enumerate(columns_of))
            for columns_of in itertools.permutations(range(columns), rows))
