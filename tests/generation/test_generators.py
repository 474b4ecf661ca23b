"""Generators: tokens into text, conversations into prompts, thoughts and answers of a task."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as some
from omegaconf import OmegaConf

from ponder.cli.shorthand import rewrite
from ponder.config.errors import UserError
from ponder.config.running import GenerateConfig
from ponder.core.types import Problems
from ponder.generation.contexts import DecodingContext
from ponder.generation.decoding import Part, StreamDecoder
from ponder.generation.generators import QuestionGenerator, TextGenerator
from ponder.generation.terminal import Conversation, Renderer
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.huggingface.model import Model
from ponder.rollouts import given as thoughts_given
from ponder.rollouts.sampler import greedy
from ponder.tasks.toy.addition import Addition
from ponder.tokenizers.pieces import Characters, PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import CHAT, WORDS, language_model, vocabulary
from support.small import generator, make_policy, make_task

GREEDILY = GenerateConfig(temperature=0.0)
NO_GENERATOR = torch.Generator()


# --- words of the command line ------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(some.text(some.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_a_prompt_comes_through_as_it_was_typed(text: str) -> None:
    check_quoted(text)


@pytest.mark.parametrize("text", ["31+84=", "", "null", "[a,b]", "a,b", "${seed}", "\\${x}", "\\",
                                  'he said "hi"\\', "it's", "\\\\${a:${b}}", "linear(1,2,3)",
                                  "-m", "--help", "a\nb", "think=true"])
def test_signs_in_a_prompt_mean_nothing(text: str) -> None:
    check_quoted(text)


def check_quoted(text: str) -> None:
    word, = rewrite([f"prompt={text}"], Path())
    value = OverridesParser.create().parse_override(word).value()
    assert OmegaConf.create({"prompt": value, "seed": 5}).prompt == text


# --- tokens into text ---------------------------------------------------------------------------


def test_a_character_of_several_tokens_waits_until_it_is_whole() -> None:
    tokens = WORDS.encode("aé日b")
    decoder = StreamDecoder(WORDS.text)
    said = [decoder.add(token) for token in tokens]
    assert said == [[("a", "ordinary")], [], [("é", "ordinary")], [], [], [("日", "ordinary")],
                    [("b", "ordinary")]]
    assert decoder.end() == []


@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(some.lists(some.one_of(some.integers(2, 257), some.sampled_from(WORDS.encode("é日🙂"))),
                  max_size=40))
@example([96, 96, 96, 96, 158, 96, 96])
def test_token_by_token_the_text_is_that_of_all_tokens(tokens: list[int]) -> None:
    """Also where the bytes are no text."""
    said = "".join(part.text for part in StreamDecoder(WORDS.text).all(tokens))
    whole = WORDS.text(tokens)
    if "\ufffd" not in whole:
        assert said == whole
    assert said.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_tags_are_told_from_words() -> None:
    def kinds(text: str, thinking: bool = False) -> list[Part]:
        decoder = StreamDecoder(lambda tokens: "".join(map(chr, tokens)), thinking)
        return decoder.all(map(ord, text))

    def joined(parts: list[Part]) -> list[tuple[str, str]]:
        return [("".join(part.text for part in group), kind) for kind, group in
                itertools.groupby(parts, lambda part: part.kind)]

    assert joined(kinds("<t3><t10></think>15")) == [
        ("<t3><t10>", "thought"), ("</think>", "special"), ("15", "ordinary")]
    assert joined(kinds("<think>so a<b</think>15<")) == [
        ("<think>", "special"), ("so a<b", "thought"), ("</think>", "special"), ("15<", "ordinary")]
    assert joined(kinds("so</think>1", thinking=True))[0] == ("so", "thought")
    assert joined(kinds("1 < 2 <b> <end>")) == [("1 < 2 <b> ", "ordinary"), ("<end>", "special")]


@pytest.mark.parametrize("mode, shown", [
    ("plain", "31=<t3></think>15\n"), ("hidden", "31=15\n"),
    ("colour", "\x1b[34m31=\x1b[0m\x1b[36m<t3>\x1b[0m\x1b[35m</think>\x1b[0m15\n")])
def test_thoughts_in_colour_plain_or_hidden(mode: str, shown: str, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    renderer = Renderer(mode)
    renderer.coloured = mode == "colour"
    renderer.prompt("31=")
    renderer.parts([Part("<t3>", "thought"), Part("</think>", "special"), Part("15", "ordinary")])
    renderer.end_line()
    renderer.end_line()
    assert capsys.readouterr().out == shown


def test_a_model_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    Renderer("colour").write("a\x1b[2Jb\n\tc")
    assert capsys.readouterr().out == "a\ufffd[2Jb\n\tc"


# --- thinkers of a task -------------------------------------------------------------------------


def question_generator(thoughts: int = 4, **changes) -> tuple[QuestionGenerator, Problems]:
    task = make_task(thoughts, answer="digits", max=100)
    policy = make_policy(task, **{"tokens": 3, **changes}).requires_grad_(False).double()
    problems = task.encode(torch.tensor([[31, 84], [7, 99]]))
    return QuestionGenerator(policy, task.encode_question), problems


WAYS = [{}, {"stops": False}, {"sees": ("thought",)}, {"sees": ("question",)}, {"shared": True},
        {"tokens": 0}]


@pytest.mark.parametrize("way", WAYS)
def test_the_greedy_text_is_the_policys_thought_and_answer(way: dict) -> None:
    model, problems = question_generator(**way)
    policy = model.policy
    rollouts = greedy(policy, problems)
    answers = policy.reply(problems, rollouts.thought)
    filled = replace(problems, answer=answers)
    logprob = rollouts.logprobs.sum(1) + policy.answer(filled, rollouts.thought)[0]
    for row, text in enumerate(("31+84=", "07+99=")):
        prompt = model.prompt(text)
        assert prompt == problems.question[row].tolist()
        found, = model.sample(prompt, GREEDILY, NO_GENERATOR)
        thought = rollouts.thought[row]
        assert found.tokens == [*thought[thought != 0].tolist(), *answers[row].tolist()]
        assert found.logprob == pytest.approx(float(logprob[row]))


@pytest.mark.parametrize("way", WAYS)
def test_wide_beams_find_the_likeliest_thought_and_answer(way: dict) -> None:
    """Against every thought and every answer; padding is no answer, though it has a probability."""
    model, problems = question_generator(2, **{"tokens": 2, **way})
    policy, one = model.policy, problems[:1]
    end, pad, tokens = policy.vocabulary.end, 0, policy.rules.tokens
    words = range(end + 1, end + 3)
    thoughts = [thought for length in range(0 if policy.rules.stops else tokens, tokens + 1)
                for thought in itertools.product(words, repeat=length)]
    rows = torch.tensor([[*thought, end, *[pad] * (tokens - len(thought))] for thought in thoughts])
    answers = torch.cartesian_prod(torch.arange(1, end), torch.arange(1, end))
    many = one[torch.zeros(len(rows), dtype=torch.long)]
    thought_p = policy.think(thoughts_given(many, rows), _plain())[0].sum(1)
    best = []
    for row, first in zip(rows, thought_p, strict=True):
        asked = replace(one[torch.zeros(len(answers), dtype=torch.long)], answer=answers)
        total = first + policy.answer(asked, row.expand(len(answers), -1))[0]
        best += [(float(p), [*row[row != pad].tolist(), *answer])
                 for p, answer in zip(total, answers.tolist(), strict=True)]
    best.sort(key=lambda pair: -pair[0])
    config = GenerateConfig(beams=200, samples=5, length_penalty=0.0)
    found = model.search(model.prompt("31+84="), config)
    assert len(found) == min(200, len(rows) * end**2)
    found = [text for text in found if pad not in text.tokens]
    for text, (logprob, expected) in zip(found[:5], best, strict=False):
        assert text.tokens == expected
        assert text.logprob == text.score == pytest.approx(logprob)


def _plain():
    from ponder.core.math import Sampling

    return Sampling()


@pytest.mark.slow
def test_sampled_thoughts_are_as_likely_as_they_say() -> None:
    model, _ = question_generator(tokens=1, stops=True)
    prompt, count = model.prompt("31+84="), 1000
    texts = model.sample(prompt, GenerateConfig(samples=count), generator())
    end = model.policy.vocabulary.end
    share = sum(text.tokens[0] == end for text in texts) / count
    p = float(model.thinker.start(prompt)[0, end].exp()) if model._to_think() else 0
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / count)


def test_the_question_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = question_generator(shared=True, stops=False)
    config = GenerateConfig(samples=4)
    model.sample(model.prompt("31+84="), config, generator())
    # 6 of the question; of each text 3 + 1 of the thought and 1 of the answer; the question's last
    # token again where a text begins anew after it
    assert model.thinker.tokens_read <= 6 + 4 * 5 + 3


def test_questions_are_typed_as_they_are_written() -> None:
    task = make_task(10, max=100)
    assert task.encode_question(" 3 + 84 ") == task.encode_question("03+84=")
    for text, said in (("3+4+5", "2 whole numbers"), ("100+1=", "found 100; legal: numbers below"),
                       ("a", "found no question"), ("", "found no question")):
        with pytest.raises(UserError, match=said):
            task.encode_question(text)
    sums = Addition(digits=3, thought_length=3, thoughts=20)
    tokens, count = sums.encode_question("23+58=")
    assert sums.vocabulary.text(tokens).endswith("___:32_+85_=") and count == 3
    with pytest.raises(UserError, match="different lengths"):
        sums.encode_question("2+58=")


# --- language models ----------------------------------------------------------------------------


def text_generator(positions: int = 16) -> TextGenerator:
    words = PieceVocabulary(Characters.learn("abc \n"), 2)
    net = Transformer(Shape(len(words), positions, 8, 1, 2), Init(*[0.4] * 5))
    net.requires_grad_(False)
    context = DecodingContext(net, words.written(True, False), (words.end_of_text,))
    return TextGenerator(context, words)


def test_a_text_model_generates_text_tokens_and_the_end_alone() -> None:
    model = text_generator()
    config = GenerateConfig(samples=200, tokens=30)
    texts = model.sample(model.prompt("ab"), config, generator())
    said = {token for text in texts for token in text.tokens}
    assert said == set(range(1, model.vocabulary.end))
    assert model.truncated
    assert model.prompt("") == [1]
    with pytest.raises(UserError, match=r"prompt: found 'x', which the model has never read; leg"):
        model.prompt("abxc")
    with pytest.raises(UserError, match="found 17 tokens; legal: at most 16, the positions"):
        model.prompt("a" * 17)


def hugging_face_generator(template: str | None) -> TextGenerator:
    model = language_model("gpt2")
    words = TextVocabulary(vocabulary(template).tokenizer, ends=[77])
    net = Model(model, len(words))
    return TextGenerator(DecodingContext(net, None, words.ends), words)


def test_a_hugging_face_model_uses_its_template_and_end_tokens() -> None:
    plain, chatty = hugging_face_generator(None), hugging_face_generator(CHAT)
    assert (plain.has_chat_template, chatty.has_chat_template) == (False, True)
    assert plain.decode(plain.prompt("hi")) == "hi" and plain.prompt("") == [WORDS.end]
    assert chatty.decode(chatty.prompt("hi")) == "[user]hi[assistant]"
    assert plain.ends == (WORDS.end, 77)


# --- talks --------------------------------------------------------------------------------------


def test_a_conversation_in_turns_and_one_in_a_text() -> None:
    chatty = Conversation(hugging_face_generator(CHAT), 50)
    assert _heard(chatty, "hi") == "[user]hi[assistant]"
    chatty.add_reply(WORDS.encode("you"))
    assert _heard(chatty, "so") == "[user]hi[assistant]you[user]so[assistant]"
    chatty.reset()
    assert _heard(chatty, "so") == "[user]so[assistant]"
    plain = Conversation(hugging_face_generator(None), 50)
    assert _heard(plain, "hi") == "hi\n"
    plain.add_reply(WORDS.encode("you"))
    assert _heard(plain, "so") == "hi\nyou\nso\n"
    plain.add_reply(WORDS.encode("me\n"))
    assert _heard(plain, "a") == "hi\nyou\nso\nme\na\n" and not plain.truncated


def _heard(conversation: Conversation, line: str) -> str:
    return conversation.generator.decode(conversation.ask(line))


def test_a_long_conversation_loses_its_beginning() -> None:
    conversation = Conversation(text_generator(16), 100)  # 8 of 16 positions are for the reply
    assert _heard(conversation, "abc") == "abc\n"
    conversation.add_reply(conversation.generator.encode("cba"))
    assert _heard(conversation, "a") == "\na\n"[-4:].rjust(4, "a") and conversation.truncated
    turns = Conversation(hugging_face_generator(CHAT), 500)  # 256 of 512
    for number in range(40):
        prompt = turns.ask(f"line {number}")
        assert len(prompt) <= 256
        turns.add_reply(WORDS.encode("yes"))
    assert _heard(turns, "end").startswith("[user]line ") and turns.turns[0] != ("user", "line 0")
    before = list(turns.turns)
    with pytest.raises(UserError, match=r"prompt: found 5\d\d tokens; legal: at most 512"):
        turns.ask("x" * 500)
    assert turns.turns == before


def test_a_thinker_has_no_memory() -> None:
    model, problems = question_generator()
    conversation = Conversation(model, 10)
    assert not model.has_memory
    assert conversation.ask("31+84=") == problems.question[0].tolist()
    conversation.add_reply([1])
    assert conversation.ask("31+84=") == problems.question[0].tolist()
