"""Generation with a thought before each token, against all positions computed at once."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from ponder.config.running import GenerateConfig
from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Problems
from ponder.generation.contexts import ThinkingContext
from ponder.generation.decoding import (
    BeamSearch,
    beam_search,
    completions_of,
    ordinary_text,
    sample_steps,
    thought_text,
)
from ponder.generation.generators import ThinkingTextGenerator
from ponder.generation.terminal import Conversation
from ponder.models.policies.base import Rules
from ponder.models.policies.next_token import PositionPolicy
from ponder.rollouts.sampler import think_at_positions
from ponder.tokenizers.pieces import PieceVocabulary, Trie
from support.small import generator
from support.texts import SENTENCE, network, thinker

KINDS = pytest.mark.parametrize(("stops", "mixes"), [(False, True), (True, True), (True, False)])
GREEDILY = GenerateConfig(temperature=0.0, tokens=12)


def thinking_generator(stops: bool = True, mixes: bool = True, ahead: int = 1,
                       ) -> ThinkingTextGenerator:
    """24 positions, of which a thought of three and its end leave 20."""
    policy = thinker(stops, ahead, mixes).requires_grad_(False)
    if policy.mixer is not None:
        torch.nn.init.normal_(policy.mixer.out.weight)
        torch.nn.init.zeros_(policy.mixer.out.bias)
    return _generator_of(policy)


def _generator_of(policy: PositionPolicy) -> ThinkingTextGenerator:
    vocabulary = policy.vocabulary
    assert isinstance(vocabulary, PieceVocabulary)
    ends = (vocabulary.end_of_text,)
    context = ThinkingContext(policy, vocabulary.written(True, False), ends)
    return ThinkingTextGenerator(context, vocabulary)


def policy_of(model: ThinkingTextGenerator) -> PositionPolicy:
    assert isinstance(model.context, ThinkingContext)
    return model.context.policy


def parted(model: ThinkingTextGenerator, tokens: list[int]) -> tuple[Tensor, list[int]]:
    """What was told as thoughts (N, K + 1) and the N words that they stand in front of."""
    rows, words, begun = [], [], list[int]()
    for token in tokens:
        if model.is_separate(token):
            begun.append(token)
            continue
        rows.append([*begun, *[0] * (4 - len(begun))])
        words.append(token)
        begun = []
    assert not begun
    return torch.tensor(rows), words


def foreseen(model: ThinkingTextGenerator, prompt: list[int], words: list[int], thought: Tensor,
             ) -> Tensor:
    """log p (N,) of words behind a prompt and given thoughts (N, K + 1), all places at once: by the
    definition of `foresight`, among the words that may come.
    """
    policy, problems = policy_of(model), passage(prompt, words)
    found = policy.predictions(problems, thought, len(words))[0, :, 0]
    return found[:, 1:].log_softmax(-1).gather(1, torch.tensor(words)[:, None] - 1)[:, 0]


def passage(prompt: list[int], words: list[int]) -> Problems:
    """A text as a passage, with the places that words stand behind."""
    line = torch.tensor([[*prompt, *words]])
    places = torch.arange(len(prompt) - 1, line.shape[1] - 1)[None]
    return Problems(line[:, :-1], line[:, 1:], None, 0, positions=places)


# --- samples ------------------------------------------------------------------------------------


@KINDS
def test_log_probabilities_are_those_of_the_policy(stops: bool, mixes: bool) -> None:
    model = thinking_generator(stops, mixes)
    prompt = model.prompt("abca")
    config = GenerateConfig(samples=6, tokens=12, temperature=1.3)
    texts, lengths = model.sample(prompt, config, generator()), set()
    for text in texts:
        thought, words = parted(model, text.tokens)
        lengths |= {len(row[row > 0]) for row in thought}
        expected = foreseen(model, prompt, words, thought)
        assert text.logprob == pytest.approx(float(expected.sum()), abs=1e-8)
        assert model.scored_tokens(text.tokens) == words and text.ended == (words[-1] == 1)
    assert lengths == ({1, 2, 3, 4} if stops else {4}) and len({text.logprob for text in texts}) > 1
    streamed = list(model.stream(prompt, config, generator()))
    assert [token for token, _ in streamed] == texts[0].tokens  # company changes nothing
    thought, words = parted(model, texts[0].tokens)
    each = [logprob for token, logprob in streamed if not model.is_separate(token)]
    assert each == pytest.approx(foreseen(model, prompt, words, thought).tolist(), abs=1e-8)
    assert all(logprob == 0 for token, logprob in streamed if model.is_separate(token))


@pytest.mark.slow
@KINDS
def test_greedy_thoughts_are_those_of_all_positions_at_once(stops: bool, mixes: bool) -> None:
    model = thinking_generator(stops, mixes)
    prompt = model.prompt("dabe")
    text, = model.sample(prompt, GREEDILY, generator())
    thought, words = parted(model, text.tokens)
    problems = passage(prompt, words)
    assert torch.equal(think_at_positions(policy_of(model), problems, 1, GREEDY).thought, thought)
    for number, word in enumerate(words):
        others = [float(foreseen(model, prompt, [*words[:number], other],
                                 thought[:number + 1])[-1]) for other in range(1, 8)]
        assert others[word - 1] == max(others)


@pytest.mark.slow
def test_a_thought_does_not_depend_on_the_other_samples() -> None:
    context, sampling = thinking_generator().context, Sampling()
    assert isinstance(context, ThinkingContext)
    context.ends = (1, 2)  # of seven words: texts end soon
    context.prepare(sampling, 7, seed=3)
    steps = sample_steps(context, [3, 4], sampling, 7, 12, generator(2))
    many = completions_of(steps, 7, context.ends)
    thought = [context.thoughts(text.tokens, number) for number, text in enumerate(many)]
    for number, text in enumerate(many):
        random = generator(2)
        torch.rand(number, 12, generator=random)
        context.prepare(sampling, 1, seed=3 + number)
        steps = sample_steps(context, [3, 4], sampling, 1, 12, random)
        alone, = completions_of(steps, 1, context.ends)
        assert (alone.tokens, context.thoughts(alone.tokens)) == (text.tokens, thought[number])
    assert len({len(text.tokens) for text in many}) > 2


def test_more_tokens_ahead_change_nothing() -> None:
    one, three = thinking_generator(), thinking_generator(ahead=3)
    policy_of(three).load_state_dict(policy_of(one).state_dict())
    config = GenerateConfig(tokens=8)
    assert [list(one.stream([2, 3], config, generator()))] == [
        list(three.stream([2, 3], config, generator()))]


@pytest.mark.slow
def test_thoughts_are_drawn_as_likely_as_they_are() -> None:
    """Chi-square of 4,000 first tokens, against 5 standard deviations; by top_k the likeliest."""
    model, count = thinking_generator(), 4000
    policy, prompt = policy_of(model), model.prompt("abc")
    state = policy.thinker(torch.tensor([prompt]))[0][0, -1]
    allowed, share = policy.allowed, 1 / 0.8
    p = (policy.thinker.logits(state, allowed) * share).softmax(-1)
    config = GenerateConfig(samples=count, tokens=1, temperature=0.8)
    often = Counter(text.tokens[0] for text in model.sample(prompt, config, generator()))
    square = sum((often[allowed.start + number] - count * float(one))**2 / (count * float(one))
                 for number, one in enumerate(p))
    freedom = len(p) - 1
    assert sum(often.values()) == count and square < freedom + 5 * (2 * freedom)**0.5
    likeliest = model.sample(prompt, GenerateConfig(samples=9, tokens=5, top_k=1), generator())
    greedy, = model.sample(prompt, GenerateConfig(tokens=5, temperature=0.0), generator())
    assert {tuple(text.tokens) for text in likeliest} == {tuple(greedy.tokens)}


# --- beams --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_beams_find_the_most_likely_tokens_given_the_most_likely_thoughts(alpha: float) -> None:
    """Against every text of up to three words, each computed from nothing, thoughts and all."""
    model = thinking_generator()
    policy, prompt, best = policy_of(model), model.prompt("ab"), []
    for length in (1, 2, 3):
        for words in itertools.product(range(1, 8), repeat=length):
            if 1 in words[:-1] or (length < 3 and words[-1] != 1):
                continue
            thought = think_at_positions(policy, passage(prompt, [*words]), 1, GREEDY).thought
            logprob = float(foreseen(model, prompt, [*words], thought).sum())
            told = [token for row, word in zip(thought.tolist(), words, strict=True)
                    for token in (*filter(None, row), word)]
            best.append((logprob / length**alpha, logprob, told))
    best.sort(key=lambda one: -one[0])
    model.sample(prompt, GenerateConfig(samples=3, tokens=2), generator())  # changes nothing
    config = GenerateConfig(beams=300, samples=300, tokens=3, length_penalty=alpha)
    found = model.search(prompt, config)
    assert len(found) == len(best) == 1 + 6 + 6 * 6 * 7
    search = BeamSearch(300, alpha)
    assert len(beam_search(model.context, prompt, search, 3)) == len(found)  # begun anew
    for text, (score, logprob, told) in zip(found[:20], best, strict=False):
        assert text.tokens == told
        assert (text.score, text.logprob) == (pytest.approx(score), pytest.approx(logprob))


# --- the cache, positions, conversations ----------------------------------------------------------


def test_no_token_of_a_text_is_read_twice() -> None:
    model = thinking_generator(stops=False)
    context, prompt = model.context, model.prompt("abcab")
    model.context.ends = ()
    model.sample(prompt, GenerateConfig(samples=3, tokens=6), generator())
    assert context.tokens_read == 5 + 3 * 5
    before = context.tokens_read
    model.sample([*prompt, 3, 4], GenerateConfig(tokens=1), generator())
    assert context.tokens_read - before <= 2


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [3, 128])
def test_a_text_is_truncated_before_its_thoughts_lack_positions(
        chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.generation.contexts.CHUNK", chunk)
    model = thinking_generator()
    model.context.ends = ()
    assert model.limit == 20
    held = model.prompt("abc")
    config = GenerateConfig(tokens=50)
    streamed = list(model.stream(held, config, generator()))
    thought, words = parted(model, [token for token, _ in streamed])
    each = [logprob for token, logprob in streamed if not model.is_separate(token)]
    for number, word in enumerate(words):
        if len(held) > 20:
            held = held[-10:]
        expected = foreseen(model, held, [word], thought[number:number + 1])
        assert each[number] == pytest.approx(float(expected), abs=1e-8)
        held = [*held, word]
    assert model.context.truncations == 3


def test_thoughts_are_no_part_of_a_conversation_nor_of_the_text_around_them() -> None:
    """Signs of several bytes stay whole, whatever is thought between the bytes."""
    vocabulary = PieceVocabulary(Trie.learn(SENTENCE * 5, 260), 4)
    policy = PositionPolicy(network(len(vocabulary), 60), vocabulary, Rules(3, True), 1, True)
    model = _generator_of(policy.double().requires_grad_(False))
    words, end = vocabulary.encode("é<b, 日"), vocabulary.end
    told = [token for number, word in enumerate(words)
            for token in (end + 1 + number % 4, end, word)]
    parts = model.decoder([2]).all(told)
    assert ordinary_text(parts) == "é<b, 日"
    assert thought_text(parts) == " ".join(f"<t{number % 4}>" for number in range(len(words)))
    assert [part.text for part in parts[:2]] == ["<t0>", "</think>"]
    conversation = Conversation(model, 30)
    prompt = conversation.ask("the")
    conversation.add_reply([*told, end + 1])  # stopped within a thought
    assert conversation.ask("cat") == [*prompt, *words, *vocabulary.encode("\ncat\n")]
