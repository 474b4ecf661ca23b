"""Rewards of texts, by numbers a reader can check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ponder.config.registry import REWARDS
from ponder.core.credit import sequence_reward
from ponder.core.types import Problems, Rollouts
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts import given
from ponder.tasks.text.passages import CorpusKeys
from ponder.tokenizers.pieces import Characters, PieceVocabulary

LETTERS = Characters("abc de.")
WORDS, NORMAL = PieceVocabulary(LETTERS, 2), PieceVocabulary(LETTERS, 0)
END, CLOSE, T0, T1 = 1, WORDS.end, WORDS.end + 1, WORDS.end + 2
TASK = CorpusKeys(seed=0, wanted="ae", unwanted="b", pattern="a.", words=["bad", "a"])


def ids(text: str) -> list[int]:
    return WORDS.encode(text)


def author(vocabulary: PieceVocabulary, tokens: int = 6) -> ContinuationPolicy:
    torch.manual_seed(2)
    net = Transformer(Shape(len(vocabulary), 16, 16, 2, 2), Init(*[0.4] * 5))
    return ContinuationPolicy(net, None, vocabulary, Rules(tokens, True, writes="both"))


def rollouts_of(*rows: list[int], prompt: str = "de", samples: int = 1) -> Rollouts:
    """Continuations of one prompt, ended and padded."""
    width = max(map(len, rows)) + 1
    thought = torch.tensor([[*row, END, *[0] * (width - len(row) - 1)] for row in rows])
    question = torch.tensor([ids(prompt)]).expand(len(rows) // samples, -1)
    return given(Problems(question, question[:, :0], None, 0), thought, samples)


def earned(name: str, rollouts: Rollouts, reference: ContinuationPolicy | None = None,
           **changes) -> torch.Tensor:
    found = Reward({name: 1.0}, reference, replace(TASK, **changes))(author(WORDS), rollouts)
    return found.parts[name]


@pytest.mark.parametrize(("name", "worth"), [
    ("wanted", [2 / 5, 1, 0]), ("unwanted", [1 / 5, 0, 0]), ("whitespace", [1 / 5, 0, 0]),
    ("pattern", [2 / 5, 1, 0]), ("matches", [1, 1, 0]), ("words", [1 / 2, 0, 0])])
def test_rewards_by_hand(name: str, worth: list[float]) -> None:
    """`bad e` has wanted a and e, a match `ad`, one listed word of two; `ae` is wanted and a match
    as a whole; the third text is empty.
    """
    rollouts = rollouts_of(ids("bad e"), ids("ae"), [])
    assert earned(name, rollouts).tolist() == pytest.approx(worth)


def test_each_token_earns_what_it_adds() -> None:
    """Of `ab a`: wanted is 1, 1/2, 1/3, 1/2 of the text so far."""
    rollouts = rollouts_of(ids("ab a"), ids("b"))
    found = earned("wanted", rollouts, interim=True)
    assert found[0].tolist() == pytest.approx([1, -1 / 2, -1 / 6, 1 / 6])
    assert found[1].tolist() == [0, 0, 0, 0]  # an end, and what is after it, add nothing


@pytest.mark.parametrize("name", [entry.name for entry in REWARDS if "text" in entry.requires])
def test_what_tokens_add_sums_to_what_the_text_is_worth(name: str) -> None:
    rollouts = rollouts_of(ids("bad e"), [T0, *ids("a"), CLOSE, *ids("ab")], ids("ad"), [])
    reference = author(NORMAL)
    each = earned(name, rollouts, reference, interim=True)
    assert each.shape == (4, 5)
    assert torch.allclose(each.sum(1), earned(name, rollouts, reference), atol=1e-6)


def test_rewards_are_kept_within_0_and_1() -> None:
    rollouts = rollouts_of(ids("adada"), ids("d"))
    assert earned("matches", rollouts).tolist() == [2, 0]
    assert earned("matches", rollouts, unit=True).tolist() == [1, 0]
    assert earned("matches", rollouts, unit=True, interim=True)[0].tolist() == [0, 1, 0, 0, 0]


def test_words_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("Bad\nbed\n")
    words = [str(tmp_path / "list.txt"), "a"]
    assert earned("words", rollouts_of(ids("bad bed a de")), words=words).tolist() == [0.75]


def test_weighted_sums_of_rows_and_tokens() -> None:
    rollouts = rollouts_of(ids("ab a"))
    found = Reward({"wanted": 2.0, "length": -0.5}, None, replace(TASK, interim=True))(
        author(WORDS), rollouts)
    assert float(found.total_reward[0]) == pytest.approx(2 * 0.5 - 0.5)


# --- the reference ------------------------------------------------------------------------------

@torch.no_grad()
def by_hand(reference: ContinuationPolicy, prompt: str, text: list[int]) -> list[float]:
    """log p of each token, by one plain pass over a prompt and the text alone."""
    row = torch.tensor([[*ids(prompt), *text]])
    logits = reference.thinker.logits(reference.thinker(row)[0], slice(0, NORMAL.end))
    logprobs = logits.log_softmax(-1)[0]
    start = len(ids(prompt)) - 1
    return [float(logprobs[start + k, token]) for k, token in enumerate(text)]


@pytest.mark.parametrize("samples", [1, 3])
def test_the_reference_sees_only_ordinary_tokens(samples: int) -> None:
    """Thought tokens stand in front of, between and after words; it reads the words alone."""
    reference = author(NORMAL)
    rows = [[T0, *ids("ab"), T1, CLOSE, *ids("c")], ids("ab c"), [T1, T1]]
    found = reference.plausible(rollouts_of(*rows, samples=samples))
    a, b, c = by_hand(reference, "de", ids("abc"))
    assert found[0].tolist() == pytest.approx([0, a, b, 0, 0, c], abs=1e-5)
    assert found[1].tolist() == pytest.approx(
        [*by_hand(reference, "de", [*ids("ab c"), END]), 0], abs=1e-5)
    assert found[2].tolist() == pytest.approx(
        [0, 0, *by_hand(reference, "de", [END]), 0, 0, 0], abs=1e-5)


def test_thoughts_change_nothing_of_what_the_reference_says() -> None:
    reference = author(NORMAL)
    plain = reference.plausible(rollouts_of(ids("abca")))[0]
    mixed = reference.plausible(rollouts_of([*ids("ab"), T0, T0, CLOSE, *ids("ca")]))[0]
    assert mixed[[0, 1, 5, 6]].tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    assert mixed[[2, 3, 4]].tolist() == [0, 0, 0]


def test_a_thought_earns_nothing_by_itself_and_a_word_its_own() -> None:
    """Rewards of tokens with weights 1 and 3 as PPO sees them: log p + 3 over K for words."""
    reference = author(NORMAL)
    rollouts = rollouts_of([T0, *ids("a"), T1, *ids("b")])
    rollouts = Reward({"plausibility": 1.0, "ordinary": 3.0}, reference,
                      replace(TASK, interim=True))(author(WORDS), rollouts)
    assert rollouts.reward is not None and rollouts.token_reward is not None
    tokens = sequence_reward(rollouts.reward, rollouts.token_reward, rollouts.learn)
    a, b = by_hand(reference, "de", ids("ab"))
    assert tokens[0].tolist() == pytest.approx([0, (a + 3) / 4, 0, (b + 3) / 4], abs=1e-5)


def test_what_an_author_calls_ordinary() -> None:
    row = torch.tensor([[0, END, *ids("a"), CLOSE, T0, T1]])
    assert author(WORDS).ordinary(row)[0].tolist() == [False, True, True, False, False, False]
