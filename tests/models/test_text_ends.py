"""What ends a text: known in one place, for writing, judging and learning; and ids with gaps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ponder.config.errors import UserError
from ponder.config.players import HfConfig
from ponder.core.math import GREEDY, Sampling
from ponder.evaluation.choice import degenerate
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_vocabulary
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts.engine import Writer
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import CHAT, WORDS, file_of, language_model, task, vocabulary
from support.small import generator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TURN = WORDS.encode("~")[0]  # stands for <end_of_turn>
TURNS = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}~{% endfor %}"
         "{% if add_generation_prompt %}[assistant]{% endif %}")


def saved(directory: Path, ends: Any, template: str | None = None) -> Path:
    model = language_model().float()
    model.generation_config.eos_token_id = ends
    model.save_pretrained(directory)
    vocabulary(template).tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("ends, template, expected", [
    ([1, TURN], None, (1, TURN)), (TURN, None, (1, TURN)), (None, None, (1,)),
    ([1, TURN], CHAT, (1, TURN)),
    ([1, TURN], TURNS, (TURN, 1))])  # the one that an assistant's turn ends with comes first
def test_all_ends_of_a_model_are_known(tmp_path: Path, ends: Any, template: str | None,
                                       expected: tuple[int, ...]) -> None:
    words = load_vocabulary(HfConfig(name=str(saved(tmp_path, ends, template))))
    assert words.ends == expected and words.end == expected[0]


def written(words: TextVocabulary, room: int, sampling: Sampling, rows: int = 40,
            ) -> tuple[list[list[int]], torch.Tensor, Any]:
    problems = task(file_of(QUESTIONS, 20), words).sample(4, generator())
    writer = Writer(Model(language_model(), len(words)), words, rows // 4, room, sampling)
    thought, logprobs = writer.write(problems, torch.rand(rows, room, generator=generator()))
    return thought.tolist(), logprobs, problems


QUESTIONS = Path("questions.csv")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_row_ends_with_any_of_them_and_texts_are_those_of_transformers() -> None:
    """The likeliest tokens of the plain greedy texts are made ends: most rows meet one."""
    model, room = language_model(), 12
    plain = [row[:room] for row in written(WORDS, room, GREEDY, 4)[0]]
    ends = [1, plain[0][5], plain[1][8]]
    words = TextVocabulary(WORDS.tokenizer, ends=ends)
    rows, _, problems = written(words, room, GREEDY, 4)
    shortened = 0
    for row, question in zip(rows, problems.question, strict=True):
        own = question[question != words.pad]
        found = model.generate(own[None], max_new_tokens=room, do_sample=False, eos_token_id=ends,
                               pad_token_id=0)[0, len(own):].tolist()
        ended = found[-1] in ends
        assert row == found + [words.end] * (not ended) + [words.pad] * (
            room + 1 - len(found) - (not ended))
        assert words.truncated(row, room) == (not ended)
        shortened += len(found) < room
    assert shortened >= 2


def test_what_is_behind_an_end_is_neither_judged_nor_learnt(tmp_path: Path) -> None:
    """The case of models whose turns end by another token than the tokenizer's."""
    qa = task(file_of(QUESTIONS, 20), TextVocabulary(WORDS.tokenizer, ends=[TURN]))
    said = "The answer is (A).~"
    room = len(said) + 3
    policy = ChoicePolicy(Model(language_model(), len(WORDS)), qa.vocabulary, Rules(room, True),
                          "generated")
    row = [*WORDS.encode(said), *[WORDS.pad] * 4]
    problems = qa.sample(1, generator())
    assert policy.read_answers(problems, torch.tensor([row]), 1)[:, 1].tolist() == [0]
    assert policy.is_end(torch.tensor(row)).nonzero().flatten().tolist() == [len(said) - 1]


@pytest.mark.slow
def test_a_text_ends_before_a_stop_string() -> None:
    """Sampled bytes: rows end at the first of some strings; all of these were sampled, and what is
    behind them is not. A character may have several tokens.
    """
    room, hot = 60, Sampling(temperature=5.0)
    free = written(WORDS, room, hot)[0]
    stops = [*"eaot#59", re.findall("[ -~]{2}", WORDS.text(free[0]))[1]]
    words = WORDS.stopped_by(stops)
    rows, logprobs, _ = written(words, room, hot)
    ended = 0
    for row, other, each in zip(rows, free, logprobs, strict=True):
        own, whole = [token for token in row[:room] if token != words.pad], other[:room]
        first = next((end for end in range(room) if any(
            stop in WORDS.text(whole[:end]) for stop in stops)), None)
        assert own == [token for token in whole[:first] if token != words.pad]
        assert (each[:len(own)] < 0).all() and (each[len(own):] == 0).all()
        if first is not None:
            ended += 1
            assert not words.truncated(row, room)
            assert words.text(row) + next(
                stop for stop in stops if WORDS.text(own).endswith(stop)) == WORDS.text(own)
    assert 5 < ended < 40
    arabic = WORDS.encode("\u0642")
    words = WORDS.stopped_by(["\u0642"])
    assert len(arabic) == 2 and words.stop_tokens[arabic[1]] and words.stopped([65, *arabic])


def test_base_models_stop_before_they_ask_themselves_the_next_question() -> None:
    def stops(template: str | None, **changes: Any) -> tuple[str, ...]:
        return task(file_of(QUESTIONS), vocabulary(template), **changes).vocabulary.stops

    assert stops(None) == ("\nQuestion:",)
    assert stops(CHAT) == () and stops(None, answer="letter") == ()
    assert stops(CHAT, stop=["\n\n"]) == ("\n\n",) and stops(None, stop=[]) == ()
    qa = task(file_of(QUESTIONS), shots=1)
    shown = WORDS.tokenizer.decode(qa.sample(1, generator()).question[0])
    assert shown.count("Question: ") == 2


# --- ids with gaps ------------------------------------------------------------------------------


def with_gaps() -> Any:
    """The bytes, with three ids left out in the middle, so that the last are above their number."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {word: i + 3 * (i > 100) for i, word in enumerate(["<pad>", "<end>", *letters])}
    inner = Tokenizer(models.BPE(vocab=ids, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def test_padding_is_above_the_largest_id_not_above_their_number() -> None:
    tokenizer = with_gaps()
    words, largest = TextVocabulary(tokenizer), max(tokenizer.get_vocab().values())
    assert len(tokenizer) == largest - 2
    assert words.pad == len(words) == words.plain == largest + 1
    last = tokenizer.convert_ids_to_tokens(largest)
    text = f"a{tokenizer.backend_tokenizer.decoder.decode([last])}b"
    assert words.text(words.encode(text)) == text


def test_new_tokens_never_get_the_id_of_another(tmp_path: Path) -> None:
    """The tokenizers library counts tokens: the first new one would be a letter's id."""
    with_gaps().save_pretrained(tmp_path)
    language_model().float().save_pretrained(tmp_path)
    config = HfConfig(name=str(tmp_path), thought_tokens=2)
    with pytest.raises(UserError, match=r"258 tokens with ids up to 260.*legal: .*gaps"):
        load_vocabulary(config)


def test_special_tokens_are_put_in_front_as_the_tokenizer_does() -> None:
    """A beginning only where the tokenizer has one, and never an end, even if it appends one."""
    from tokenizers import processors

    tokenizer = vocabulary().tokenizer
    tokenizer.add_special_tokens({"bos_token": "~"})
    words, own = TextVocabulary(tokenizer), WORDS.encode("hi\n")
    assert words.prompt([("user", "hi")]) == own
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="~ $A <end>", special_tokens=[("~", TURN), ("<end>", 1)])
    assert words.prompt([("user", "hi")]) == [TURN, *own]
    assert words.opening("hi\n") == [TURN, *own] and words.opening("") == [TURN]


def test_what_ended_a_text_is_named() -> None:
    words = TextVocabulary(WORDS.tokenizer, ends=[1, TURN], stops=["or", "no"])
    for text, ends, expected in (("yes", [1], "<end>"), ("yes", [TURN], "~"), ("yes", [], ""),
                                 ("a no or", [1], "<end>"), ("a no or", [], "no")):
        tokens = [*WORDS.encode(text), *ends, words.end, words.pad]
        assert words.ended_by(tokens, len(tokens) - 2) == expected


@pytest.mark.parametrize("text, loops", [
    ([1, 2, 3] + [4, 5] * 3, True), ([1, 2, 3] + [4, 5] * 2, False), ([7] * 6, True),
    ([7] * 5, False), ([*range(30)], False),
    *(([99, *range(period), *range(period)], period > 16) for period in (16, 17, 19, 20, 45, 200)),
    ([*range(45), *range(45), *range(20)], True),  # cut in the third copy
    ([*range(45), 99, *range(45)], False), ([*range(20)] * 3 + [99, 98, 97], False)])
def test_a_text_that_ends_in_a_loop_is_degenerate(text: list[int], loops: bool) -> None:
    assert degenerate(text) == loops
