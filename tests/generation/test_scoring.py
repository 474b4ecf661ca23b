"""What a checkpoint says about given texts, against transformers and against the evaluations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ponder.config.errors import UserError
from ponder.config.resolve import checkpoint_config
from ponder.core.math import GREEDY, Sampling
from ponder.generation.contexts import ThinkingContext
from ponder.generation.generators import ThinkingTextGenerator
from ponder.generation.scoring import (
    OfQuestions,
    Scorer,
    Thinking,
    ThinkingBeforeEach,
    cut,
    scorer_of,
)
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.qa import Qa, QaKeys
from support.questions import CHAT, WORDS, file_of, load_plain, save_language_model, vocabulary
from support.small import Door
from support.texts import thinker

PAIRS = [("Which is blue?", " the sky"), ("Which is blue?", " grass"), ("Which is blue?", " a"),
         ("One, two, ", "three"), ("", "Once"), ("A longer text stands in front of it:", " yes")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama."""
    return save_language_model(tmp_path_factory.mktemp("model"))


def scorer(path: Path, **keys: Any) -> Any:
    return scorer_of(checkpoint_config(str(path), "cpu", {key.replace("__", "."): value
                                                          for key, value in keys.items()}))


def logprob(net: Any, before: list[int], text: list[int]) -> tuple[float, bool]:
    """log p of a text after other tokens by plain transformers, and whether it is the likeliest."""
    with torch.no_grad():
        logits = net(torch.tensor([before + text])).logits[0, len(before) - 1:-1, :len(WORDS)]
    logprobs = logits.log_softmax(-1)
    return (float(logprobs[range(len(text)), text].sum()),
            logprobs.argmax(-1).tolist() == text)


def greedily(net: Any, before: list[int], tokens: int) -> list[int]:
    """Up to so many tokens that transformers writes, without the end."""
    found = net.generate(torch.tensor([before]), max_new_tokens=tokens, do_sample=False,
                         pad_token_id=0)[0, len(before):].tolist()
    return found[:found.index(WORDS.end)] if WORDS.end in found else found


def agree(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    for (one, greedy), (other, likeliest) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4) and greedy == likeliest


# --- without thoughts -----------------------------------------------------------------------------


def test_texts_are_as_likely_as_transformers_says(saved: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = load_plain(saved)
    own = scorer(saved)
    assert type(own) is Scorer
    rows = [(WORDS.encode(context.rstrip()) or [WORDS.end],
             WORDS.encode(context[len(context.rstrip()):] + text)) for context, text in PAIRS]
    expected = [logprob(net, *row) for row in rows]
    counted: list[int] = []
    agree(own.likelihoods(PAIRS, counted.append), expected)
    assert sum(counted) == len(PAIRS) and not expected[0][1]
    before = WORDS.encode("One,")
    written = before, greedily(net, before, 3)
    agree(own.of_tokens([written]), [(logprob(net, *written)[0], True)])
    monkeypatch.setattr("ponder.models.backbone.tokens_at_once", lambda device: 1)  # one by one
    agree(own.likelihoods(PAIRS), expected)
    own.limit = 12  # the beginning of a context is left out
    whole = [before + text for before, text in rows]
    agree(own.likelihoods(PAIRS), [
        logprob(net, one[-13:-len(text)], text)
        for one, (_, text) in zip(whole, rows, strict=True)])
    with pytest.raises(UserError, match="'': found no token behind its context"):
        own.likelihoods([("One", "")])


def test_completions_are_those_of_transformers_up_to_a_stop(saved: Path) -> None:
    net, _ = load_plain(saved)
    own = scorer(saved)
    contexts = ["One,", "Which is blue?"]
    expected = [WORDS.text(greedily(net, WORDS.encode(text), 9)) for text in contexts]
    assert own.completions(contexts, [], 9) == expected and all(expected)
    stop = next(sign for sign in expected[0][1:] if sign.isascii())
    assert own.completions(contexts, [stop], 9) == [text.partition(stop)[0] for text in expected]
    assert own.completions(contexts, [], 9, Sampling(1.0)) != expected
    assert cut("a b c", ["c", "b"]) == "a " and cut("a", []) == "a"


# --- with a thought about each context ------------------------------------------------------------

@pytest.mark.parametrize("way", ["cloze", "letter"])
@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_is_scored_behind_the_thought(saved: Path, way: str, chat: bool,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, greedy thought without its end, and what asks for the answer, as transformers reads
    them.
    """
    net, _ = load_plain(saved)
    words = vocabulary(CHAT if chat else None)
    monkeypatch.setattr("ponder.generation.checkpoint_model.load_vocabulary",
                        lambda *given, **more: words)
    monkeypatch.setattr("ponder.training.build_policies.load_vocabulary",
                        lambda *given, **more: words)
    own = scorer(saved, task="qa", task__answer=way, thinker__tokens=5)
    assert isinstance(own, Thinking)
    asked = "Question: Which is blue?" + "\nA. the sky\nB. grass" * (way == "letter")
    texts = [" A", " B"] if way == "letter" else [" the sky", " grass"]
    context = f"{asked}\nAnswer:"
    before = words.prompt([("user", f"{prompts.PREAMBLES[way]}\n\n{asked}")])
    thought = greedily(net, before, 5)
    between = f"\n{context}" if way == "cloze" else "\nAnswer:"
    row = [*before, *thought, *WORDS.encode(between)]
    expected = [logprob(net, row, WORDS.encode(text)) for text in texts]
    agree(own.likelihoods([(context, text) for text in texts]), expected)
    assert own.thoughts == {context: WORDS.text(thought)}
    assert own.completions([context], [], 4) == [WORDS.text(greedily(net, row, 4))]
    without = scorer(saved, task="qa", task__answer=way, lm_eval__prompt="own")
    row = [*before, *WORDS.encode(between)]
    agree(without.likelihoods([(context, text) for text in texts]),
          [logprob(net, row, WORDS.encode(text)) for text in texts])
    assert not without.thoughts


@pytest.mark.parametrize(("way", "tokens"), [("cloze", 6), ("letter", 6), ("cloze", 0)])
def test_options_are_scored_as_by_the_evaluation(saved: Path, tmp_path: Path, way: str,
                                                 tokens: int) -> None:
    """The text of a task of lm_eval, in the prompt of task=qa."""
    own = scorer(saved, task="qa", task__answer=way, thinker__tokens=tokens, lm_eval__prompt="own")
    keys = QaKeys(data=str(file_of(tmp_path / "x.csv", 6)), answer=way, held_out=1, seed=0,
                  score_per="none")
    task = Qa(keys, own.vocabulary, thinks=tokens > 0)
    policy, problems = ChoicePolicy(own.net, task.vocabulary, Rules(tokens, True), way), task.test()
    thoughts = own.written(own.words, [row[row != problems.pad].tolist() for row in
                                       problems.question], tokens, GREEDY) if tokens else [
        [task.vocabulary.end]] * len(problems)
    total, _ = policy.options(problems, torch.tensor(thoughts))
    pairs = []
    for question in task.list:
        context = prompts.shown(question, way) + "\nAnswer:"
        pairs += [(context, text) for text in prompts.options(question, way)]
    found = torch.tensor([one for one, _ in own.likelihoods(pairs)]).view(total.shape)
    assert torch.allclose(found, total, atol=1e-4)


def test_a_text_that_says_its_answer_is_the_completion(saved: Path) -> None:
    own = scorer(saved, task="qa", task__answer="generated", thinker__tokens=7)
    context = "Question: Which is blue?\nAnswer:"
    assert own.completions([context], ["\n"], 3) == [own.thoughts[context]]
    assert own.split(context) == ("Question: Which is blue?", "\nAnswer:")
    assert own.split("no cue ") == ("no cue", "")
    long = scorer(saved, task="qa", task__answer="letter", thinker__tokens=600)
    with pytest.raises(UserError, match=r"thinker.tokens=600: found a prompt of .* with 512 pos"):
        long.likelihoods([(context, " A")])


def test_thoughts_are_sampled_where_evaluations_sample(saved: Path) -> None:
    context = "Question: Which is blue?\nAnswer:"
    said = []
    for keys in ({}, {"trainer__val_samples": 4}, {"trainer__val_samples": 4, "seed": 1}):
        own = scorer(saved, task="qa", task__answer="letter", thinker__tokens=12, **keys)
        own.think([context])
        said.append(own.thoughts[context])
    assert len({*said}) == 3


# --- before every token, and of toy tasks ---------------------------------------------------------


def test_a_model_that_thinks_before_each_token_does_so_in_given_texts() -> None:
    """log p of its own greedy text is that with which it was written."""
    policy = thinker(True, 1, True).requires_grad_(False)
    context = ThinkingContext(policy, slice(1, policy.vocabulary.end), (1,))
    words: Any = policy.vocabulary
    model = ThinkingTextGenerator(context, words)
    config: Any = SimpleNamespace(trainer=SimpleNamespace(dtype="float32"), seed=0)
    own = ThinkingBeforeEach(config, model)
    prompt = model.vocabulary.opening("abc")
    model.context.prepare(GREEDY)
    logprobs, text, total = model.context.start(prompt), [], 0.0
    for _ in range(3):
        token = int(logprobs[0].argmax())
        total += float(logprobs[0, token])
        text.append(token)
        logprobs = model.context.extend(torch.tensor([0]), torch.tensor([token]))
    (found, greedy), = own.of_tokens([(prompt, text)])
    assert found == pytest.approx(total) and greedy
    other = [(token + 1) % 5 + 2 for token in text]
    (found, greedy), = own.of_tokens([(prompt, other)])
    assert found < total and not greedy


@pytest.mark.parametrize("words", ["variant=[think,fixed,blind]", "variant=[]",
                                   "variant=[think,blind] thinker.kind=continuous"])
def test_answers_of_a_toy_task_have_probabilities_that_add_up_to_one(words: str,
                                                                     door: Door) -> None:
    assert door("model.d_model=8", "model.layers=1", "task.max=10", "trainer.max_steps=20",
                "trainer.train_batch_size=8", "hydra.run.dir=run", *words.split())[0] == 0
    path, = Path("run").glob("checkpoint_*")
    own = scorer(path)
    assert isinstance(own, OfQuestions)
    reply, = own.model.think(["3+4="])
    answers = [str(number) for number in range(10)]
    found = own.likelihoods([("3+4=", f" {answer}") for answer in answers])
    total = sum(torch.tensor([one for one, _ in found]).exp())
    assert 0.3 < total <= 1 + 1e-5  # the rest is that of digits and signs
    best = max(range(10), key=lambda number: found[number][0])
    assert found[best][1] == (answers[best] == reply.answer)
    assert found[best][0] == pytest.approx(reply.answer_logprob, abs=1e-5) or not found[best][1]
    assert own.completions(["3+4="], [], 9) == [reply.answer]
    assert own.thoughts == {"3+4=": reply.thought}
    with pytest.raises(UserError, match="prompt=Which"):
        own.likelihoods([("Which is blue?", "sky")])
    for wrong in ("sky", "10", ""):
        with pytest.raises(UserError, match=f"answer '{wrong}' to '3.4=': found no answer of task"):
            own.likelihoods([("3+4=", wrong)])


def test_keys_beside_a_checkpoint_are_checked(saved: Path) -> None:
    for key, value, line in (("thinker.tokenz", 3, "thinker.tokenz=3: cannot be set"),
                             ("thinker.tokens", "x", "thinker.tokens=x: cannot be set"),
                             ("thinker.tokens", -1, "thinker.tokens=-1: found -1; legal: at leas"),
                             ("task", "qua", "task=qua: cannot be set"),
                             ("lm_eval.prompt", "ours", "lm_eval.prompt=ours: found 'ours'")):
        with pytest.raises(UserError, match=line):
            checkpoint_config(str(saved), "cpu", {key: value})
