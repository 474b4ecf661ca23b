"""Who writes texts: the same rows from our own decoding and from continuous batching."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ponder.config.errors import EngineFailed
from ponder.core.math import GREEDY, Sampling
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts import sampled
from ponder.rollouts.engines import Engine, Order, tabled
from ponder.rollouts.engines.batching import ContinuousBatching
from ponder.rollouts.engines.handshake import Handshake
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import WORDS, file_of, language_model, save_language_model, task
from support.runs import lines, summary
from support.small import Door, generator

ROOM, PLAIN = 6, Sampling()


@pytest.fixture
def problems(tmp_path: Path) -> Any:
    return task(file_of(tmp_path / "questions.csv", 20), WORDS).sample(5, generator())


def order_of(problems: Any, sampling: Sampling = PLAIN, **more: Any) -> Order:
    return Order(problems, 3, ROOM, sampling, 7, **more)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 5, 0.9), GREEDY,
                                      Sampling(epsilon=0.3)])
def test_continuous_batching_writes_what_our_own_decoding_writes(
        sampling: Sampling, problems: Any) -> None:
    """Each row has its own uniform numbers, so texts agree although batches do not: four rows side
    by side here, all of them there. Tokens are barred, and two of them end a text.
    """
    net = Model(language_model(), len(WORDS), barred=(3, 70))
    words = TextVocabulary(WORDS.tokenizer, ends=[1, *range(30, 60)])
    own, logprobs = Engine().write(net, words, order_of(problems, sampling))
    heard: list[tuple[int, int]] = []
    order = order_of(problems, sampling, at_once=4, heard=lambda *told: heard.append(told))
    tokens, found = ContinuousBatching().write(net, words, order)
    assert torch.equal(tokens, own)
    torch.testing.assert_close(found, logprobs, atol=1e-5, rtol=0)
    ended = {int((row != words.pad).sum()) for row in tokens}
    assert len(ended) > 1 and not (tokens == 3).any()  # some rows end early
    assert sum(rows for _, rows in heard) == 15
    assert sum(count for count, _ in heard) == int((own[:, :-1] != words.pad).sum())
    assert net.network.config._attn_implementation != net.attention  # ours is put back


@pytest.mark.slow
def test_continuous_batching_ends_with_its_order(problems: Any) -> None:
    """What `heard` raises stops the library's thread."""
    class Stop(Exception):
        pass

    def heard(tokens: int, rows: int) -> None:
        raise Stop

    before = threading.active_count()
    with pytest.raises(Stop):
        ContinuousBatching().write(Model(language_model(), len(WORDS)), WORDS,
                                   order_of(problems, heard=heard))
    assert threading.active_count() == before


def test_rows_of_another_program_are_cut_where_ours_are(problems: Any) -> None:
    """Greedy rows of a writer that knows no stop strings, cut afterwards, are those of one that
    does.
    """
    net, order = Model(language_model(), len(WORDS)), order_of(problems)
    plain, logprobs = Engine().write(net, WORDS, order)
    often = WORDS.tokenizer.decode(plain[:, 1].mode()[0][None])
    words = WORDS.stopped_by([often])
    rows = [(row[row != WORDS.pad][:ROOM].tolist(), likely.tolist())
            for row, likely in zip(plain, logprobs, strict=True)]
    expected = Engine().write(net, words, order)
    found = tabled([(tokens, likely[:len(tokens)]) for tokens, likely in rows], net, words, order)
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[0], plain)
    torch.testing.assert_close(found[1], expected[1])
    with pytest.raises(EngineFailed, match="found token 258, which the thinker does not have"):
        tabled([([258], [0.0])], net, words, order)


def test_rows_have_seeds_of_their_own(problems: Any) -> None:
    seeds = order_of(problems).seeds()
    assert len(set(seeds)) == 15 and seeds == order_of(problems).seeds()
    assert seeds != replace(order_of(problems), seed=8).seeds()
    assert [seeds[i + 1] - seeds[i] for i in (0, 1)] == [1, 1]  # of one question


# --- the handshake ------------------------------------------------------------------------------


def test_numbers_that_are_not_the_thinkers_are_refused(problems: Any) -> None:
    """Log-probabilities that are 0.1 too low in every token, in half of them, or in none."""
    net = Model(language_model(), len(WORDS))
    policy = ChoicePolicy(net, WORDS, Rules(ROOM, True), "letter")
    for sampling in (Sampling(), Sampling(0.7, 5), GREEDY):
        order = order_of(problems, sampling)
        right = sampled(problems, 3, *Engine().write(net, WORDS, order))
        check = Handshake("vllm", 0.06, 15)
        check.compare(policy, right, sampling, "a")
        assert check.numbers["engine/logprob_gap_max"] < 1e-5
        wrong = replace(right, logprobs=right.logprobs - 0.1)
        check.compare(policy, wrong, sampling, "a")  # these weights have been compared
        with pytest.raises(EngineFailed, match=r"engine.gap=0.06: found .* 0\.1 nats"):
            check.compare(policy, wrong, sampling, "b")
        half = right.logprobs.clone()
        half[:, ::2] -= 0.1
        check.compare(policy, replace(right, logprobs=half), sampling, "b")
        assert check.numbers["engine/logprob_gap"] == pytest.approx(0.05, abs=0.01)
        assert check.numbers["engine/logprob_gap_max"] == pytest.approx(0.1, abs=1e-4)


def test_a_token_that_may_not_be_written_is_infinitely_far(problems: Any) -> None:
    net = Model(language_model(), len(WORDS))
    found = sampled(problems, 3, *Engine().write(net, WORDS, order_of(problems)))
    barred = int(found.thought[0, 0])
    policy = ChoicePolicy(Model(net.model, len(WORDS), barred=(barred,)), WORDS, Rules(ROOM, True),
                          "letter")
    with pytest.raises(EngineFailed, match="are inf nats"):
        Handshake("vllm", 100.0, 15).compare(policy, found, Sampling(), "a")


# --- runs ---------------------------------------------------------------------------------------

TINY = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=hf", "model.name=model", "strategy=grpo",
        "task.data=questions.csv", "task.test_questions=4", "task.train_questions=8",
        "task.answer=letter", "thinker.tokens=4", "rollout.samples=3", "trainer.lr=1e-2",
        "trainer.train_batch_size=4", "trainer.train_gradient_accumulation_steps=1",
        "trainer.gen_batch_size=8", "trainer.max_steps=3", "trainer.max_epochs=2",
        "hydra.run.dir=run"]


@pytest.mark.slow
def test_a_run_is_the_same_whoever_writes(door: Door) -> None:
    """Metrics of three steps agree up to rounding, and each new set of weights is compared."""
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 12)
    assert door(*TINY)[0] == 0
    own = lines()
    code, _, err = door(*TINY, "rollout.engine=transformers", "hydra.run.dir=other")
    assert (code, err) == (0, "") and summary("other")["steps"] == 3
    found = lines("other")
    gaps = [line["engine/logprob_gap_max"] for line in found if "loss" in line]
    assert len(gaps) == 3 and max(gaps) < 1e-4
    assert not any("engine/logprob_gap" in line for line in own)
    for mine, theirs in zip(own, found, strict=True):
        for name in ("loss", "reward", "accuracy"):
            assert theirs.get(name) == pytest.approx(mine.get(name), abs=1e-4)


@pytest.mark.parametrize("words, said", [
    (["rollout.engine=vllm"], "engine.command=vllm serve: found no program 'vllm'; legal: "),
    (["rollout.engine=vlm"], "rollout.engine=vlm: found 'vlm' (did you mean vllm?); legal: own, "),
    (["rollout.engine=vllm", "engine.url=127.0.0.1:1"], "engine.url=127.0.0.1:1: found no address"),
    (["rollout.engine=vllm", "engine.url=http://a:1", "rollout.epsilon=0.1"],
     "rollout.epsilon=0.1: found rollout.engine=vllm, which does not explore; legal: 0, "),
    (["rollout.engine=vllm", "engine.url=http://a:1", "rollout.top_k=5", "rollout.top_p=0.9"],
     "rollout.top_k=5: found rollout.top_p=0.9 with rollout.engine=vllm"),
    (["rollout.engine=transformers", "trainer.data_parallel=shard"],
     "trainer.data_parallel=shard: found rollout.engine=transformers"),
    (["strategy.engine_correction=mask"], "strategy.engine_correction=mask: found "
     "rollout.engine=own, whose log-probabilities are the thinker's; legal: none, or "),
    (["engine.gap=-1"], "engine.gap=-1.0: found -1.0; legal: at least 0"),
])
def test_what_an_engine_cannot_do_is_refused_at_once(words: list[str], said: str,
                                                     door: Door) -> None:
    file_of(Path("questions.csv"), 12)
    code, out, err = door(*TINY, *words)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_thoughts_that_are_no_texts_have_no_engine(engine: str, door: Door) -> None:
    code, _, err = door(f"rollout.engine={engine}")
    assert code == 2 and err.startswith(f"error: rollout.engine={engine}: found "
                                        "model.kind=transformer, which decodes by itself; legal: ")
    Path("x.txt").write_text("a b c " * 500)
    code, _, err = door(f"rollout.engine={engine}", "task=text", "model=hf", "model.name=x",
                        "variant=[think]", "task.data=x.txt", "answerer.model=shared",
                        "strategy=reinforce", "reward=gain")
    assert code == 2 and f"rollout.engine={engine}: found task=text, whose" in err
