"""Checkpoints of language models: what plain `transformers` and `peft` make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import families
from ponder.config.players import HfConfig
from ponder.core.lazy_imports import library
from ponder.core.math import GREEDY
from ponder.core.types import Problems
from ponder.models.huggingface import pretrained
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.rollouts.engine import Writer
from ponder.tokenizers.vocabulary import TextVocabulary
from support.questions import WORDS, file_of, load_plain, save_language_model
from support.small import Door

pytestmark = pytest.mark.slow
ROOM = 12
RUN = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
       "model=hf", "task.data=questions.csv", "task.test_questions=4", "task.answer=letter",
       "thinker.tokens=6", "rollout.samples=3", "strategy=grpo", "trainer.lr=3e-2",
       "trainer.warmup=0", "trainer.keep_evaluated=false", "hydra.run.dir=run"]
KINDS = {"adapter": ["model.lora_r=4"], "whole": [],
         "adapter and tokens": ["model.lora_r=4", "model.thought_tokens=3",
                                "model.thought_init=words", "model.thought_words=[a,b]"],
         "whole and tokens": ["model.thought_tokens=3", "model.thought_init=random"]}


@pytest.fixture
def run(door: Door) -> Door:
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 24)
    return lambda *words: door(*RUN, *words)


def ours(path: Path, prompt: list[int]) -> list[int]:
    """What our own writer says, greedily."""
    config = HfConfig(name=str(path))
    words = load_vocabulary(config)
    net = load_text_model(config, len(words)).eval()
    question = torch.tensor([prompt])
    problems = Problems(question, question, None, words.pad, padded=True)
    tokens, _ = Writer(net, words, 1, ROOM, GREEDY).write(problems, torch.zeros(1, ROOM))
    return [token for token in tokens[0, :ROOM].tolist() if token != words.pad]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_libraries_say_the_same(kind: str, run: Door) -> None:
    code, _, err = run("model.name=model", *KINDS[kind])
    assert (code, err) == (0, "")
    path = Path("run/checkpoint_1")
    model, tokenizer = load_plain(path)
    prompt = TextVocabulary(tokenizer).prompt([("user", "Question 1?")])
    found = model.generate(input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=ROOM,
                           attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                           pad_token_id=tokenizer.pad_token_id)
    assert ours(path, prompt) == found[0, len(prompt):].tolist()
    untrained, _ = load_plain(Path("model"))
    before = untrained.generate(input_ids=torch.tensor([prompt]), do_sample=False,
                                max_new_tokens=ROOM, pad_token_id=tokenizer.pad_token_id)
    assert before.tolist() != found.tolist()  # training has changed what it says


@pytest.mark.parametrize("kind", ["adapter and tokens", "whole and tokens"])
def test_thought_tokens_are_trained_and_come_back(kind: str, run: Door) -> None:
    code, _, err = run("model.name=model", *KINDS[kind])
    assert (code, err) == (0, "")
    model, tokenizer = load_plain(Path("run/checkpoint_1"))
    assert [tokenizer.convert_tokens_to_ids(f"<t{i}>") for i in range(4)] == [
        *range(len(tokenizer) - 3, len(tokenizer)), None]
    assert tokenizer.encode("x<t1>", add_special_tokens=False)[-1] == len(tokenizer) - 2
    words = {"thought_init": "words", "thought_words": ["a", "b"]} if kind.startswith(
        "adapter") else {"thought_init": "random"}  # as in KINDS
    config = HfConfig(name="model", thought_tokens=3, **words)
    torch.manual_seed(0)
    fresh = load_text_model(config, len(load_vocabulary(config))).network
    rows = slice(len(tokenizer) - 3, None)
    with torch.no_grad():
        new = model.get_input_embeddings()(torch.arange(len(tokenizer)))[rows]
        first = fresh.get_input_embeddings()(torch.arange(len(tokenizer)))[rows]
    assert not torch.allclose(new, first, atol=1e-3)
    heads = [one.get_output_embeddings().weight[rows].detach() for one in (
        model.merge_and_unload() if kind.startswith("adapter") else model, fresh)]
    moved = (heads[0] - heads[1]).abs().amax(1)
    assert (moved > 1e-3).all()  # each of them was less likely or more, at every step
    if kind.startswith("adapter"):
        said = json.loads(Path("run/checkpoint_1/adapter_config.json").read_text())
        new_ids = list(range(len(tokenizer) - 3, len(tokenizer)))
        assert list(said["trainable_token_indices"].values()) == [new_ids, new_ids]
        # apart from the base, whose own words stay
        base, _ = load_plain(Path("model"))
        size = Path("run/checkpoint_1/adapter_model.safetensors").stat().st_size
        assert size < Path("model/model.safetensors").stat().st_size
        assert torch.equal(model.get_input_embeddings()(torch.arange(9)),
                           base.get_input_embeddings()(torch.arange(9)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_evaluated_and_trained_on(kind: str, run: Door) -> None:
    """`action=evaluate` finds the accuracy of the run; a run may begin where another ended."""
    run("model.name=model", *KINDS[kind])
    first = json.loads(Path("run/summary.json").read_text())
    assert run("action=evaluate", "model.name=run/checkpoint_1", "hydra.run.dir=looked")[0] == 0
    again = json.loads(Path("looked/summary.json").read_text())
    assert again["metrics"]["accuracy"] == first["metrics"]["accuracy"]
    assert again["weights_sha256"] == first["weights_sha256"]
    code, _, err = run("model.name=run/checkpoint_1", "model.ref_name=run/checkpoint_1",
                       "strategy.kl=0.1", *KINDS[kind], "hydra.run.dir=on")
    assert (code, err) == (0, "")
    log = [json.loads(line) for line in Path("on/metrics.jsonl").read_text().splitlines()]
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is where it begins


def test_what_cannot_be_saved_is_refused_before_it_learns(
        run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsaved(*words: object, **more: object) -> None:
        raise ValueError("two names\nfor one weight")

    monkeypatch.setattr(Model, "attending", unsaved)
    monkeypatch.setattr(pretrained, "distance", lambda net: 0.0)
    code, out, err = run("model.name=model")
    assert code == 2 and err.startswith("error: model.name=model: found a model that cannot be "
                                        "saved (two names for one weight); legal: "), err
    assert "step" not in out and not Path("run").exists()


def test_an_adapter_is_read_from_anywhere(run: Door, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Its base, a directory named relative to where it was trained, is looked for above it."""
    run("model.name=model", "model.lora_r=4")
    first = json.loads(Path("run/summary.json").read_text())
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    words = ["action=evaluate", "model.name=../run/checkpoint_1", "task.data=../questions.csv",
             "hydra.run.dir=looked"]

    def found() -> str:
        return json.loads(Path("looked/summary.json").read_text())["weights_sha256"]

    assert run(*words)[0] == 0 and found() == first["weights_sha256"]
    (tmp_path / "model").rename(tmp_path / "moved")
    code, _, err = run(*words)
    assert code == 2 and err.startswith(
        "error: model.base=model, of which model.name=../run/checkpoint_1 is an adapter: cannot be "
        "read (no such directory, "), err
    assert run(*words, "model.base=../moved")[0] == 0 and found() == first["weights_sha256"]
    code, _, err = run(*words, "model.name=../moved", "model.base=../moved")
    assert code == 2 and "model.base=../moved: found model.name=../moved, which is no " in err


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_an_adapter_with_biases(bias: str, run: Door) -> None:
    """peft holds one set of them: the reference model is a copy of its own."""
    families.make("phi", Path())
    peft = library("peft")
    torch.manual_seed(0)
    net = peft.get_peft_model(load_plain(Path("model"))[0], peft.LoraConfig(
        r=4, target_modules="all-linear", bias=bias, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.2)
    net.save_pretrained("adapter")
    WORDS.tokenizer.save_pretrained("adapter")
    assert run("action=evaluate", "model.name=adapter", "hydra.run.dir=looked")[0] == 0
    words = ["model.name=adapter", "strategy.kl=0.1", "trainer.max_epochs=2"]
    assert run(*words, "trainer.max_steps=2")[0] == 0
    assert run(*words, "trainer.max_steps=4")[0] == 0  # goes on
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    told = [line["kl"] for line in log if "kl" in line]
    assert told[0] == pytest.approx(0, abs=1e-6) and told[-1] > 1e-4  # from the adapter as it was
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    run("action=evaluate", "model.name=run/checkpoint_2", "hydra.run.dir=again")
    assert json.loads(Path("again/summary.json").read_text())["weights_sha256"] == whole


def test_weights_that_are_not_finite_are_named(run: Door) -> None:
    net, _ = load_plain(Path("model"))
    with torch.no_grad():
        net.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    net.save_pretrained("model")
    code, _, err = run("model.name=model")
    assert code == 2 and ("found weights that are not finite, the first of them in "
                          "model.layers.1.mlp.up_proj.weight; legal: ") in err, err
