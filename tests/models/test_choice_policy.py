"""Language models: every way of reading and writing says what plain transformers says."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.config.players import HfConfig, SamplerConfig
from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.huggingface.attention import Buffer
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import (
    load_text_model,
    restore_text_model,
    save_text_model,
)
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts import given
from ponder.rollouts.engine import Writer
from ponder.rollouts.written import Batch, Listener, Store, Written
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tokenizers.vocabulary import TextVocabulary
from ponder.training.console import Plain, ProgressReporter
from support.questions import KINDS as TOKENIZERS
from support.questions import (
    WORDS,
    file_of,
    language_model,
    save_language_model,
    task,
    tokenizer_of,
)
from support.small import generator

KINDS = ("llama", "gpt2")
PLAIN = Sampling()


def plain(model: Any, *parts: Tensor) -> Tensor:
    """Logits (T, V) of one row of tokens by transformers alone."""
    return model(torch.cat(parts)[None]).logits[0]


def qa_of(tmp_path: Path, **changes) -> Qa:
    return task(file_of(tmp_path / "x.csv", 20), **changes)


def policy_of(qa: Qa, tokens: int = 6, kind: str = "llama", sees: bool = True) -> ChoicePolicy:
    net = Model(language_model(kind), len(WORDS))
    return ChoicePolicy(net, WORDS, Rules(tokens, True, sees), qa.config.answer)


def problems_of(qa: Qa, count: int = 4) -> Problems:
    return qa.sample(count, generator())


def written(policy: ChoicePolicy, problems: Problems, samples: int = 3,
            sampling: Sampling = PLAIN, at_once: int = 256) -> Rollouts:
    writer = Writer(policy.thinker, WORDS, samples, policy.rules.tokens, sampling, at_once)
    noise = torch.rand(len(problems) * samples, policy.rules.tokens, generator=generator())
    thought, logprobs = writer.write(problems, noise)
    chosen = thought[:, :-1] != problems.pad
    return Rollouts(problems, samples, thought, chosen, logprobs, learn=chosen)


def real(tokens: Tensor) -> Tensor:
    return tokens[tokens != WORDS.pad]


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_behind_shared_segments_read_as_if_each_stood_alone(kind: str) -> None:
    model, net = language_model(kind), Model(language_model(kind))
    first = torch.randint(2, 200, (2, 5))
    shown = torch.tensor([[False, False, True, True, True], [True] * 5])
    second, some = torch.randint(2, 200, (6, 4)), torch.ones(6, 4, dtype=torch.bool)
    some[2, 2:] = False
    third = torch.randint(2, 200, (12, 3))
    _, one = net.read(first, shown)
    states, two = net.read(second, some, [one])
    last, _ = net.read(third, None, [one, two], keep=False)
    for row in range(12):
        parts = first[row // 6][shown[row // 6]], second[row // 2][some[row // 2]], third[row]
        expected = plain(model, *parts)
        assert torch.allclose(net.logits(last[row]), expected[-3:], atol=1e-9)
        assert torch.allclose(net.logits(states[row // 2][some[row // 2]]),
                              expected[len(parts[0]):-3], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_written_one_by_one_read_as_if_read_at_once(kind: str) -> None:
    model, net = language_model(kind), Model(language_model(kind))
    question, mask = torch.randint(2, 200, (2, 4)), torch.ones(2, 4, dtype=torch.bool)
    mask[0, :2] = False
    tokens = torch.randint(2, 200, (4, 3))
    with torch.no_grad():
        _, segment = net.read(question, mask)
        buffer = Buffer(5, torch.zeros(4, dtype=torch.long))
        for t in range(3):
            state = net.write(tokens[:, t], buffer, segment, t + 1)
    for row in range(4):
        expected = plain(model, question[row // 2][mask[row // 2]], tokens[row])[-1]
        assert torch.allclose(net.logits(state[row]), expected, atol=1e-9)


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_texts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa, 8, kind), problems_of(qa)
    found = written(policy, problems, 1, GREEDY)
    for question, thought in zip(problems.question, found.thought, strict=True):
        tokens = language_model(kind).generate(
            real(question)[None], max_new_tokens=8, do_sample=False, pad_token_id=0)
        expected = tokens[0, len(real(question)):].tolist()
        expected += [] if expected[-1] == WORDS.end else [WORDS.end]
        assert real(thought).tolist() == expected


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(1.2, top_k=20),
                                      Sampling(1.0, top_p=0.8)])
def test_written_logprobs_are_the_recomputed_ones(sampling: Sampling, tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa), problems_of(qa)
    found = written(policy, problems, 3, sampling)
    again = policy.think(found, sampling)[0]
    assert torch.allclose(found.logprobs.double(), again.double(), atol=1e-5)
    assert found.logprobs.abs().sum() > 1


@pytest.mark.slow
def test_rows_that_end_early_make_room_and_change_nothing(tmp_path: Path) -> None:
    """Ends are likely here: rows leave, questions are admitted as others leave."""
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa, 12), problems_of(qa, 16)
    with torch.no_grad():
        policy.thinker.head[WORDS.end] = policy.thinker.head.mean(0) * 40
    together = written(policy, problems, 3)
    lengths = together.lengths
    assert lengths.min() < 6 and lengths.max() == 12 and len(lengths.unique()) > 4
    for at_once in (1, 7, 20):
        apart = written(policy, problems, 3, at_once=at_once)
        assert torch.equal(apart.thought, together.thought)
        assert torch.allclose(apart.logprobs, together.logprobs, atol=1e-5)
    assert (together.thought[:, :-1][together.chosen] != WORDS.pad).all()
    ends = (together.thought == WORDS.end).sum(1)
    assert (ends == 1).all()  # each text ends once, by itself or where there is no more room


def test_judging_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    qa = qa_of(tmp_path, answer="cloze")
    policy, problems, console = policy_of(qa), problems_of(qa), Plain()
    found = written(policy, problems, 2)
    heard: list[tuple[str, int, int]] = []
    policy.on_progress = lambda *how_far: heard.append(how_far)
    monkeypatch.setattr("ponder.models.backbone.tokens_at_once", lambda device: 1)
    policy.answer(problems, found.thought, 2)
    assert heard == [("judging texts", rows, 8) for rows in (0, 2, 4, 6, 8)]
    console.last -= 11  # seconds since a line was printed
    reporter = ProgressReporter(console)
    for how_far in heard[:3]:
        reporter.scoring(*how_far)
    assert capsys.readouterr().out == "judging texts 2/8  0 s left\n"


# --- scores -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["generated", "letter", "cloze"])
@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("samples", [1, 2])
def test_scores_and_gradients_are_those_of_plain_sequences(answer: str, sees: bool, samples: int,
                                                           tmp_path: Path) -> None:
    qa = qa_of(tmp_path, answer=answer)
    policy, problems, model = policy_of(qa, sees=sees), problems_of(qa), language_model()
    rollouts = written(policy, problems, samples)
    scores = policy.score(rollouts, Sampling())
    (scores.logprobs.sum() + scores.answer.sum()).backward()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(rollouts)):
        p = row // samples
        question, thought = real(problems.question[p]), real(rollouts.thought[row])
        ended = thought[:-1] if len(thought) > policy.rules.tokens else thought
        logits = plain(model, question, ended).log_softmax(-1)[len(question) - 1:-1]
        each = logits.gather(1, ended[:, None])[:, 0]
        assert torch.allclose(scores.logprobs[row, :len(ended)].double(), each, atol=1e-6)
        total = total + each.sum()
        if answer != "generated":
            before = torch.cat([*([question] if sees else []), thought[thought != WORDS.end],
                                real(problems.answer_prefix[p])])  # type: ignore[index]
            text = real(problems.answer[p])
            logits = plain(model, before, text).log_softmax(-1)[len(before) - 1:-1]
            whole = logits.gather(1, text[:, None]).sum()
            assert torch.allclose(scores.answer[row].double(), whole, atol=1e-6)
            total = total + whole
    total.backward()
    for own, other in zip(policy.thinker.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, atol=1e-5)


@pytest.mark.parametrize("answer", ["letter", "cloze"])
def test_options_are_weighed_by_their_likelihood(answer: str, tmp_path: Path) -> None:
    qa = qa_of(tmp_path, answer=answer)
    policy, problems, model = policy_of(qa), problems_of(qa), language_model()
    rollouts = written(policy, problems, 2)
    total, score = policy.options(problems, rollouts.thought, 2)
    logprob, right = policy.answer(problems, rollouts.thought, 2)
    assert problems.options is not None and problems.label is not None
    for row in range(len(rollouts)):
        p, thought = row // 2, rollouts.thought[row]
        before = torch.cat([real(problems.question[p]), real(thought)[real(thought) != WORDS.end],
                            real(problems.answer_prefix[p])])  # type: ignore[index]
        for option in range(2):
            text = real(problems.options[p, option])
            logits = plain(model, before, text).log_softmax(-1)[len(before) - 1:-1]
            expected = logits.gather(1, text[:, None]).sum()
            assert torch.allclose(total[row, option].double(), expected, atol=1e-5)
            size = len(text) - 1 if answer == "cloze" else 1  # a token is a byte; without space
            assert torch.allclose(score[row, option].double(), expected / size, atol=1e-5)
        label = int(problems.label[p])
        assert logprob[row] == total[row, label] and right[row] == (score[row].argmax() == label)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("answer, unit, length", [
    ("letter", "none", None), ("cloze", "none", None), ("cloze", "character", len)])
def test_choices_are_those_of_lm_evaluation_harness(kind: str, answer: str, unit: str, length: Any,
                                                    tmp_path: Path) -> None:
    """Its rules by plain transformers, from texts: acc, and acc_norm over characters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = TextVocabulary(tokenizer_of(kind))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)).double().eval()
    options = "cat,the grey wolf,dog at night,ẹ̀yà,barks"
    (tmp_path / "x.csv").write_text("question,A,B,C,D,E,answer\n" + "".join(
        f"Which one is {i}?,{options},A\nWhat barks {i}?,{options.rpartition(',')[0]},,B\n"
        for i in range(4)))
    for thinks in (False, True):
        qa = Qa(QaKeys(data=str(tmp_path / "x.csv"), answer=answer, score_per=unit, held_out=1,
                       preamble="", seed=0), words, thinks=thinks)
        policy = ChoicePolicy(Model(deepcopy(model), len(words)), words,
                              Rules(int(thinks), True), answer)
        problems = qa.test()
        total, score = policy.options(problems, torch.full((len(problems), 1), words.end))
        for row, question in enumerate(qa.list):
            context = prompts.shown(question, answer) + "\n" + prompts.bridge(question, answer)
            found = []
            for number, option in enumerate(prompts.options(question, answer)):
                whole = words.tokenizer.encode(context + option)
                start = len(words.tokenizer.encode(context))
                logits = plain(model, torch.tensor(whole)).detach().log_softmax(-1)[start - 1:-1]
                found.append(float(logits.gather(1, torch.tensor(whole[start:])[:, None]).sum()))
                assert abs(found[-1] - float(total[row, number])) < 1e-5
            best = max(range(len(found)), key=lambda i: found[i] / (
                length(question.choices[i]) if length else 1))
            assert int(score[row].argmax()) == best


def test_generated_answers_are_read_out_of_the_text(tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa, 40), problems_of(qa, 3)
    texts = ["So the answer is (A).", "Blue, thus the answer is B.", "I do not know."]
    rows = [[*WORDS.encode(text), WORDS.end] for text in texts]
    thought = torch.tensor([row + [WORDS.pad] * (41 - len(row)) for row in rows])
    assert policy.read_answers(problems, thought, 1)[:, 1].tolist() == [0, 1, -1]
    assert problems.label is not None
    expected = [problems.label[0] == 0, problems.label[1] == 1, False]
    assert policy.answer(problems, thought)[1].tolist() == expected


def test_of_a_truncated_text_only_complete_statements_count(tmp_path: Path) -> None:
    """The end token tells a whole text from one that was cut at its length limit."""
    qa = qa_of(tmp_path)
    tokens = WORDS.encode("Let us see. The answer is B")
    policy, problems = policy_of(qa, len(tokens)), problems_of(qa, 1)
    for end, option in ((WORDS.end, 1), (WORDS.encode("l")[0], -1)):
        thought = torch.tensor([[*tokens, end, WORDS.end][:len(tokens) + 2]])
        assert policy.read_answers(problems, thought, 1)[:, 1].tolist() == [option]


# --- adapters and checkpoints -------------------------------------------------------------------


def changed(net: Model) -> Model:
    """The model after some training: every weight that may move has moved."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
def test_checkpoints_open_in_plain_transformers_and_peft(lora: int, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    base = save_language_model(tmp_path / "base")
    config = HfConfig(name=str(base), lora_r=lora)
    net = changed(load_text_model(config, len(WORDS)))
    save_text_model(net, tmp_path / "saved", WORDS)
    kind = AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
    other = kind.from_pretrained(tmp_path / "saved")
    tokens = torch.randint(2, 200, (1, 9))
    expected = net.logits(net.read(tokens)[0])
    assert torch.allclose(other(tokens).logits, expected, atol=1e-5)
    again = load_text_model(replace(config, name=str(tmp_path / "saved")), len(WORDS))
    assert torch.allclose(again.logits(again.read(tokens)[0]), expected, atol=1e-5)
    fresh = load_text_model(config, len(WORDS))
    restore_text_model(fresh, tmp_path / "saved")
    assert torch.allclose(fresh.logits(fresh.read(tokens)[0]), expected, atol=1e-6)


@pytest.mark.slow
def test_the_reference_is_the_model_as_it_began(tmp_path: Path) -> None:
    base = save_language_model(tmp_path / "base")
    tokens = torch.randint(2, 200, (1, 9))
    net = load_text_model(HfConfig(name=str(base), lora_r=4), len(WORDS))
    for _ in range(2):  # first with a new adapter, then with one that was trained before
        before = net.logits(net.read(tokens)[0])
        changed(net)
        assert not torch.allclose(net.logits(net.read(tokens)[0]), before, atol=1e-3)
        with net.as_it_began():
            assert torch.allclose(net.logits(net.read(tokens)[0]), before, atol=1e-5)
        assert any(weight.requires_grad for weight in net.parameters())
        save_text_model(net, tmp_path / "saved", WORDS)
        net = load_text_model(HfConfig(name=str(tmp_path / "saved"), lora_r=4), len(WORDS))


# --- the cache ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_written_twice(tmp_path: Path) -> None:
    qa = qa_of(tmp_path, answer="letter")
    policy, problems = policy_of(qa), problems_of(qa, 10)

    def collect() -> tuple[Rollouts, Written]:
        source = Written(SamplerConfig(samples=2), 4, 8, Store(tmp_path / "cache"), "tiny")
        return source.collect(policy, problems, 0, generator()), source

    first, one = collect()
    second, two = collect()
    assert one.tokens == int(first.chosen.sum()) and two.tokens == 0
    assert torch.equal(first.thought, second.thought)
    judged = policy.answer(problems, first.thought, 2)
    assert second.answered is not None
    assert torch.allclose(second.answered[:, 0].double(), judged[0].double(), atol=1e-5)
    assert torch.equal(second.answered[:, 1] > 0, judged[1])
    changed(policy.thinker)
    assert collect()[1].tokens > 0


@pytest.mark.slow
def test_a_round_that_was_cut_off_goes_on_at_its_batch(tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa), problems_of(qa, 10)
    batches: list[bool] = []

    class Stop(Listener):
        def sampled(self, batch: Batch) -> None:
            batches.append(batch.cached)
            if len(batches) == 2:
                raise KeyboardInterrupt

    source = Written(SamplerConfig(samples=2), 4, 8, Store(tmp_path / "cache"), "tiny",
                     listener=Stop())
    whole = Written(SamplerConfig(samples=2), 4, 8, Store(tmp_path / "other"), "tiny")
    with pytest.raises(KeyboardInterrupt):
        source.collect(policy, problems, 0, generator())
    again = source.collect(policy, problems, 0, generator())
    assert batches == [False, False, True, True, False]
    assert torch.equal(again.thought, whole.collect(policy, problems, 0, generator()).thought)


def test_batches_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa), problems_of(qa, 1)
    source = Written(SamplerConfig(samples=8), 1, 8, Store(tmp_path / "cache"), "tiny")
    found = source.collect(policy, problems[torch.tensor([0, 0])], 0, generator())
    assert len(found.thought.unique(dim=0)) > 8  # the same question, in two batches


def test_a_given_text_is_no_choice(tmp_path: Path) -> None:
    qa = qa_of(tmp_path)
    policy, problems = policy_of(qa), problems_of(qa)
    rollouts = written(policy, problems, 1)
    again = given(problems, rollouts.thought)
    assert not again.chosen.any() and torch.equal(again.learn, rollouts.learn)
