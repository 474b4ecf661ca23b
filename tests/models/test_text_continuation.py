"""Language models of Hugging Face that continue texts: who writes what, what is likely, who judges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ponder.tasks.text.passages as packing
from ponder.config.errors import UserError
from ponder.config.players import HfConfig, SamplerConfig
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts import given
from ponder.rollouts.written import Store, Written
from ponder.tasks.text.passages import Corpus, CorpusKeys
from ponder.tokenizers.pieces import HfPieces, identity
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import WORDS, language_model, vocabulary
from support.small import generator

TEXT = "the cat sat on the mat. a dog ran to the sea. " * 40
PLAIN = Sampling()


def thinking(count: int = 2) -> TextVocabulary:
    """The words with `count` thought tokens and their end after them."""
    tokenizer = vocabulary().tokenizer
    tokenizer.add_tokens([f"<t{number}>" for number in range(count + 1)])
    return TextVocabulary(tokenizer, closes=True)


THINKING = thinking()
CLOSE, T0, T1 = range(len(WORDS), len(THINKING))


def plain_of(kind: str, words: TextVocabulary) -> Any:
    """A small model of transformers, with rows for thought tokens where there are any."""
    model = language_model(kind)
    if words.thoughts:
        torch.manual_seed(3)
        model.resize_token_embeddings(len(words), mean_resizing=False)
    return model


def author_of(kind: str = "llama", stops: bool = True, tokens: int = 6,
              words: TextVocabulary = WORDS, compares: bool = False) -> ContinuationPolicy:
    net = Model(plain_of(kind, words), len(words))
    net.barred = () if stops else words.ends
    rules = Rules(tokens, stops, writes="both" if words.thoughts else "text")
    return ContinuationPolicy(net, None, words, rules, compares=compares)


def prompts(count: int = 4, words: TextVocabulary = WORDS) -> Problems:
    rows = torch.tensor([words.encode(TEXT[i:i + 5]) for i in range(count)])
    return Problems(rows, rows[:, :0], None, words.pad)


def continued(policy: ContinuationPolicy, problems: Problems, folder: Path, samples: int = 3,
              **sampler: Any) -> Rollouts:
    source = Written(SamplerConfig(samples=samples, **sampler), 2, 64, Store(folder), None)
    return source.collect(policy, problems, 0, generator())


def row_of(text: str, *more: int) -> list[int]:
    return [*THINKING.encode(text), *more]


def rollouts_of(*rows: list[int], words: TextVocabulary = THINKING, samples: int = 1) -> Rollouts:
    """Continuations of one prompt, ended and padded."""
    width = max(map(len, rows)) + 1
    thought = torch.tensor([[*row, words.end, *[words.pad] * (width - len(row) - 1)]
                            for row in rows])
    question = torch.tensor([words.encode("the")]).expand(len(rows) // samples, -1)
    return given(Problems(question, question[:, :0], None, words.pad), thought, samples)


# --- prompts ------------------------------------------------------------------------------------

def test_prompts_are_passages_in_the_tokens_of_the_model(tmp_path: Path, monkeypatch) -> None:
    """Thought tokens after the words change no token, and the text is not cut again for them."""
    monkeypatch.setattr(packing, "SCRATCH", tmp_path / "scratch")
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}: {TEXT[:40]}"}) + "\n"
                            for number in range(60)))
    config = CorpusKeys(data=str(path), length=9, seed=0, test_passages=5)
    task, other = Corpus(config, words=WORDS), Corpus(config, words=THINKING)
    train, test = task.sample(50, generator()), task.test()
    assert torch.equal(train.question, other.sample(50, generator()).question)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert test.question.shape == (5, 9) and test.answer.shape == (5, 0)
    whole = "\0".join(f"{number}: {TEXT[:40]}" for number in range(60)) + "\0"
    for row in [*train.question.tolist(), *test.question.tolist()]:
        said = "\0".join(WORDS.decode(part) for part in split_at(row, WORDS.end))
        assert said in whole
    assert (train.question == WORDS.end).any()


def split_at(row: list[int], sign: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in row:
        parts.append([]) if token == sign else parts[-1].append(token)
    return parts


@pytest.mark.parametrize(("prompt", "ids"), [("caf\u00e9", WORDS.encode("caf\u00e9")), ("", [1])])
def test_one_prompt_again_and_again(prompt: str, ids: list[int]) -> None:
    task = Corpus(CorpusKeys(prompt=prompt, seed=0, test_passages=3), words=WORDS)
    assert task.sample(2, generator()).question.tolist() == [ids] * 2
    assert task.test().question.tolist() == [ids] * 3 and task.question_length == len(ids)


def test_a_prompt_that_its_tokens_do_not_say_is_refused() -> None:
    class Deaf(TextVocabulary):
        def opening(self, text: str) -> list[int]:
            return self.encode(text.lower())

    with pytest.raises(UserError, match=r"task\.prompt=AB: found 'ab', cut into the tokens"):
        Corpus(CorpusKeys(prompt="AB", seed=0), words=Deaf(WORDS.tokenizer))


# --- what is likely -----------------------------------------------------------------------------

@torch.no_grad()
def load_plain(model: Any, rollouts: Rollouts, barred: Sequence[int] = ()) -> Tensor:
    """(B, K, V): log-probabilities before each token of a row, one plain pass for each; 0 after
    its end.
    """
    found = []
    for number, thought in enumerate(rollouts.thought):
        question = rollouts.problems.question[number // rollouts.samples]
        count = int(rollouts.mask[number, :-1].sum())
        logits = model(torch.cat([question, thought[:count]])[None]).logits[0]
        if barred:
            logits[:, list(barred)] = -torch.inf
        rows = logits.log_softmax(-1)[len(question) - 1:-1]
        found.append(torch.nn.functional.pad(rows, (0, 0, 0, thought.shape[0] - 1 - count)))
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("samples", [1, 3])
def test_continuations_are_as_likely_as_transformers_finds_them(
        kind: str, stops: bool, samples: int, tmp_path: Path) -> None:
    """Of a fixed length: as likely as among all words but end-of-sequence."""
    policy = author_of(kind, stops)
    with torch.no_grad():
        head = policy.thinker.head
        head[WORDS.end] = head.mean(0) * 40  # some rows end
    rollouts = continued(policy, prompts(12), tmp_path, samples)
    assert (rollouts.lengths == 6).all() != stops
    model = plain_of(kind, WORDS)
    model.load_state_dict(policy.thinker.model.state_dict())
    full = load_plain(model, rollouts, () if stops else WORDS.ends)
    expected = full.gather(2, rollouts.thought[:, :-1, None].clamp_max(len(WORDS) - 1))[..., 0]
    expected = expected * rollouts.mask[:, :-1]
    assert torch.allclose(rollouts.logprobs.double(), expected, atol=1e-6)
    scores = policy.score(rollouts, PLAIN)
    assert torch.allclose(scores.logprobs, expected, atol=1e-9)
    entropy = -(full.exp() * full.clamp_min(-1e9)).sum(-1) * rollouts.mask[:, :-1]
    assert torch.allclose(scores.entropy, entropy, atol=1e-9)
    assert (scores.answer == 0).all() and not scores.answer.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [{}, {"epsilon": 0.9}, {"top_k": 2}, {"temperature": 3.0}])
def test_a_text_of_fixed_length_never_ends(sampler: dict[str, Any], tmp_path: Path) -> None:
    """However likely its end would be, and whatever is tried besides."""
    for stops in (True, False):
        policy = author_of(stops=stops)
        with torch.no_grad():
            policy.thinker.head[WORDS.end] = policy.thinker.head.mean(0) * 40
        rollouts = continued(policy, prompts(8), tmp_path, 8, **sampler)
        ends = (rollouts.thought == WORDS.end).sum(1)
        assert (ends == 1).all()  # each once, by choice or because there is no room
        assert (rollouts.lengths == 6).all() != stops
        again = policy.think(rollouts, Sampling(**sampler))[0]
        assert torch.allclose(again, rollouts.logprobs.double(), atol=1e-5)
        policy.score(rollouts, Sampling(**sampler)).entropy.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_a_text_is_kept_for_those_who_may_write_the_same_words(tmp_path: Path) -> None:
    """What was written of any length is not taken for what has a fixed one."""
    free = continued(author_of(), prompts(), tmp_path)
    fixed = continued(author_of(stops=False), prompts(), tmp_path)
    assert not torch.equal(free.logprobs, fixed.logprobs)
    assert torch.equal(continued(author_of(), prompts(), tmp_path).thought, free.thought)


# --- who judges ---------------------------------------------------------------------------------

@torch.no_grad()
def by_hand(model: Any, text: list[int]) -> list[float]:
    """log p of each token, by one plain pass over the prompt and the text alone."""
    question = WORDS.encode("the")
    logprobs = model(torch.tensor([[*question, *text]])).logits.log_softmax(-1)[0]
    return [float(logprobs[len(question) - 1 + k, token]) for k, token in enumerate(text)]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_judge_sees_only_ordinary_tokens(kind: str, samples: int) -> None:
    """Thought tokens stand in front of, between and after words; its padding is another number."""
    judge, model = author_of(kind), language_model(kind)
    rows = [[T0, *row_of("ab", T1, CLOSE), *row_of("c")], row_of("ab c"), [T1, T1]]
    found = judge.plausible(rollouts_of(*rows, samples=samples))
    a, b, c = by_hand(model, row_of("abc"))
    assert found[0].tolist() == pytest.approx([0, a, b, 0, 0, c], abs=1e-6)
    assert found[1].tolist() == pytest.approx(
        [*by_hand(model, row_of("ab c", WORDS.end)), 0], abs=1e-6)
    assert found[2].tolist() == pytest.approx(
        [0, 0, *by_hand(model, [WORDS.end]), 0, 0, 0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("stops", [True, False])
def test_distances_are_those_of_whole_distributions(lora: int, stops: bool,
                                                    tmp_path: Path) -> None:
    """From a model of its own, or with LoRA from the weights without the adapter."""
    policy = author_of(stops=stops, compares=True)
    if lora:
        policy.thinker.adapt(HfConfig(lora_r=lora))
        for name, weight in policy.thinker.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    else:
        policy.reference = Model(language_model("llama", seed=1), len(WORDS))
        policy.reference.barred = policy.thinker.barred
    rollouts = continued(policy, prompts(), tmp_path, 1)
    barred = policy.thinker.barred
    with policy.thinker.attending("eager"):
        own = load_plain(policy.thinker.model, rollouts, barred)
    other = load_plain(language_model("llama", seed=0 if lora else 1), rollouts, barred)
    kl = (own.exp() * (own - other).nan_to_num(0)).sum(-1) * rollouts.mask[:, :-1]
    found = policy.distances(rollouts)
    assert torch.allclose(found["kl"], kl.sum(1), atol=1e-6) and (kl.sum(1) > 1e-3).all()
    entropy = -(own.exp() * own.clamp_min(-1e9)).sum(-1) * rollouts.mask[:, :-1]
    assert torch.allclose(found["entropy"], entropy.sum(1), atol=1e-6)


# --- texts --------------------------------------------------------------------------------------

def test_half_a_character_earns_nothing_until_it_is_whole() -> None:
    """`a\u00e9\u20ac` is one token, then two, then three: \u00e9 is wanted, \u20ac is not."""
    rollouts = rollouts_of(row_of("a\u00e9\u20ac"), row_of("\u00e9")[:1])
    task = CorpusKeys(seed=0, wanted="\u00e9\ufffd", interim=True)
    policy = author_of(words=THINKING)
    found = Reward({"wanted": 1.0}, None, task)(policy, rollouts).parts["wanted"]
    assert found[0].tolist() == pytest.approx([0, 0, 1 / 2, 0, 0, 1 / 3 - 1 / 2])
    assert found[1].tolist() == [1, 0, 0, 0, 0, 0]  # at the end half a one is what it is
    whole = Reward({"wanted": 1.0}, None, CorpusKeys(seed=0, wanted="\u00e9\ufffd"))(
        policy, rollouts).parts["wanted"]
    assert torch.allclose(found.sum(1), whole)


def test_thoughts_are_shown_and_are_no_part_of_a_text() -> None:
    row = [T0, *row_of("ab", CLOSE), *row_of("c", T1, WORDS.end, THINKING.pad)]
    assert THINKING.text(row) == "<t0>ab</think>c<t1>" and THINKING.decode(row) == "abc"
    assert identity(HfPieces(THINKING.tokenizer)) == identity(HfPieces(WORDS.tokenizer))
    ordinary = author_of(words=THINKING).ordinary(torch.tensor(row))
    assert ordinary.tolist() == [False, True, True, False, True, False, True, False]
