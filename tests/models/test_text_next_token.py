"""Language models of Hugging Face that learn text."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

import ponder.tasks.text.passages as packing
from ponder.core.math import Sampling
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.next_token import NextTokenPolicy
from ponder.rollouts.sampler import Gold
from ponder.tasks.text.documents import TextKeys
from ponder.tasks.text.passages import Text
from support.questions import WORDS, language_model, load_plain, save_language_model
from support.runs import lines
from support.small import Door

SENTENCE = "the cat sat on the mat and the rat sat on the cat. "
RUN = ["experiment=normal_smollm2", "model=hf", "model.name=model", "task.data=text.txt",
       "task.length=16", "task.test_passages=4", "trainer.dtype=float32", "trainer.threads=1",
       "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    monkeypatch.setattr(packing, "SCRATCH", tmp_path / "scratch")
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}: {SENTENCE}"}) + "\n"
                            for number in range(60)))
    return Text(TextKeys(data=str(path), length=32, test_passages=6, seed=0), words=WORDS)


def test_passages_are_in_the_tokens_of_the_model(task: Text) -> None:
    """Each document ends in the model's own end-of-sequence; an answer is the question, one on."""
    problems = task.sample(50, torch.Generator().manual_seed(0))
    tokens = torch.cat([problems.question, problems.answer[:, -1:]], 1)
    assert torch.equal(problems.question[:, 1:], problems.answer[:, :-1])
    assert (tokens == WORDS.end).any() and int(tokens.max()) < len(WORDS)
    whole = "\0".join(f"{number}: {SENTENCE}" for number in range(60))
    for row in tokens.tolist():
        parts = [WORDS.text(part) for part in split_at(row, WORDS.end)]
        assert all(part in whole for part in parts)
        assert all(". ".endswith(part[-2:]) for part in parts[:-1])


def split_at(row: list[int], sign: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in row:
        parts.append([]) if token == sign else parts[-1].append(token)
    return parts


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loss_and_gradient_are_those_of_transformers(kind: str, task: Text) -> None:
    net, plain = language_model(kind), language_model(kind)
    policy = NextTokenPolicy(Model(net, len(WORDS)), WORDS, Rules(0, False))
    passages = task.test()
    rollouts = Gold().collect(policy, passages, 0)
    ours = -policy.score(rollouts, Sampling()).answer.mean()
    theirs = torch.nn.functional.cross_entropy(plain(passages.question).logits.flatten(0, 1),
                                               passages.answer.flatten())
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    ours.backward()
    theirs.backward()
    for (name, one), other in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-12, msg=name)
    loss, guess = policy.predict(passages)
    assert loss.mean().item() == pytest.approx(theirs.item(), abs=1e-10)
    assert torch.equal(guess, plain(passages.question).logits.argmax(-1))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_tokens_further_ahead_are_as_likely_as_behind_each_prefix_alone(kind: str, task: Text,
                                                                        ) -> None:
    """log p of the next token and of the two after it, by `transformers` from every prefix by
    itself: the mean over positions of each, then of the three.
    """
    torch.manual_seed(1)
    policy = NextTokenPolicy(Model(language_model(kind), len(WORDS)), WORDS, Rules(0, False), 3)
    assert policy.further is not None
    for weight in policy.further.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    plain, problems = language_model(kind), task.test()[:2]
    expected = []
    for question, answer in zip(problems.question, problems.answer, strict=True):
        found: list[list[torch.Tensor]] = [[], [], []]
        for end in range(1, len(question) + 1):
            state = plain(question[None, :end], output_hidden_states=True).hidden_states[-1][0, -1]
            for far, target in enumerate(answer[end - 1:end + 2]):
                layer = policy.further.layers[far - 1]
                ahead = state + torch.nn.functional.gelu(layer(state)) if far else state
                found[far].append(plain.lm_head(ahead).log_softmax(-1)[target])
        expected.append(torch.stack([torch.stack(values).mean() for values in found]).mean())
    scores = policy.score(Gold().collect(policy, problems, 0), Sampling())
    torch.testing.assert_close(scores.answer, torch.stack(expected), rtol=0, atol=1e-9)


def test_a_checkpoint_keeps_what_predicts_further_ahead(door: Door) -> None:
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "llama")
    words = [*RUN, "task.ahead=3", "trainer.max_steps=4", "trainer.save_every_n_steps=2"]
    assert door(*words)[0] == 0
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    saved = max(Path("run").glob("checkpoint_*"), key=lambda path: path.stat().st_mtime_ns)
    assert (saved / "further.safetensors").is_file()
    shutil.rmtree(saved)
    Path("run/summary.json").unlink()
    code, out, err = door(*words)
    assert code == 0 and "going on from step 2" in out + err, out + err
    assert json.loads(Path("run/summary.json").read_text())["weights_sha256"] == whole


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "trainer.optimizer=muon", "model.lora_r=4",
                                   "model.lora_r=4 trainer.optimizer=muon trainer.lr=3e-2"])
def test_a_language_model_learns_text_and_goes_on(words: str, door: Door) -> None:
    """What is saved opens in plain transformers or peft, and training begins there again."""
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "llama")
    code, _, err = door(*RUN, "trainer.max_steps=30", "trainer.lr=3e-3", *words.split())
    assert code == 0, err
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    saved = max(Path("run").glob("checkpoint_*"))
    assert loss_of(saved, "lora" in words) == pytest.approx(losses[-1], abs=1e-5)
    code, _, err = door(*RUN[:-1], f"model.name={saved}", "trainer.max_steps=0",
                        "hydra.run.dir=again")
    assert code == 0, err
    found = json.loads(Path("again/summary.json").read_text())["metrics"]["val/loss"]
    assert found == pytest.approx(losses[-1], abs=1e-6)
    assert len(list(Path("scratch/text").iterdir())) == 1  # cut once: the tokens are the same
    if "lora" in words:
        code, _, err = door(*RUN[:-1], f"model.name={saved}", "model.lora_r=2", "hydra.run.dir=no")
        assert code == 2 and "model.lora_r=2: found an adapter of rank 4" in err
    code, out, err = door("action=generate", f"model.name={saved}", "prompt=the cat",
                          "generate.tokens=8")
    assert code == 0 and out.startswith("the cat"), err


def loss_of(saved: Path, adapted: bool) -> float:
    """Of the held-out passages, the last tenth of the text, as plain libraries find it."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = AutoPeftModelForCausalLM if adapted else AutoModelForCausalLM
    net, words = kind.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    text = SENTENCE * 60
    tokens = words.encode(text[int(len(text) * 0.9):])
    room = (len(tokens) - 1) // 16
    rows = torch.tensor([tokens[place * room // 4 * 16:][:17] for place in range(4)])
    logits = net(input_ids=rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


def test_it_goes_on_as_if_it_had_never_stopped(door: Door) -> None:
    """Also with dropout, which is there from the first step to the last, and only where it learns.
    """
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "gpt2")
    told = json.loads(Path("model/config.json").read_text())
    told |= {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
    Path("model/config.json").write_text(json.dumps(told))
    words = [*RUN, "trainer.max_steps=6", "trainer.save_every_n_steps=3"]
    assert door(*words)[0] == 0
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    shutil.rmtree(max(Path("run").glob("checkpoint_*"), key=lambda path: path.stat().st_mtime_ns))
    Path("run/summary.json").unlink()
    code, out, err = door(*words)
    assert code == 0 and "going on from step 3" in out + err, out + err
    assert json.loads(Path("run/summary.json").read_text())["weights_sha256"] == whole


@pytest.mark.slow
@pytest.mark.parametrize("model, to_machine_code", [
    ("model=hf model.name=model", "compiled"), ("model=nano model.d_model=16", "half")])
def test_compiled_and_in_half_precision_it_learns_the_same(
        model: str, to_machine_code: str, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss by loss, of a model of one layer. Compiling to machine code takes most of the time, so
    of each model one graph gets as far as that; of the other one the operators are called."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "llama")
    model_of_two = load_plain(Path("model"))[0]
    model_of_two.config.num_hidden_layers = 1
    model_of_two.model.layers = model_of_two.model.layers[:1]
    model_of_two.save_pretrained("model")
    words = [word for word in RUN if not word.startswith(("model", "hydra"))]
    before, found = torch.compile, {}
    for name, more in {"plain": [], "compiled": ["trainer.compile=true"],
                       "half": ["trainer.compile=true", "trainer.dtype=bfloat16"]}.items():
        monkeypatch.setattr(torch, "compile", before if name == to_machine_code else
                            functools.partial(before, backend="aot_eager"))
        code, _, err = door(*words, *model.split(), *(
            ["model.layers=1"] if "nano" in model else []), *more, "trainer.max_steps=8",
            "trainer.lr=1e-2", "trainer.warmup=0", f"hydra.run.dir={name}")
        assert code == 0, err
        found[name] = [line["loss"] for line in lines(name) if "loss" in line]
    assert found["plain"][-1] < found["plain"][0] - 0.1
    assert found["compiled"] == pytest.approx(found["plain"], abs=1e-4)
    assert found["half"] == pytest.approx(found["plain"], abs=0.05)
    assert found["half"] != pytest.approx(found["plain"], abs=1e-4)


@pytest.mark.parametrize("words, said", [
    ("task.tokens=trie", "task.tokens=trie: found model=hf, which reads its own tokens"),
    ("model.lora_r=4 model.lora_targets=[foo]", "model.lora_targets=[foo]: found no place for"),
    ("task.length=600", "task.length=600: found model.name=model, which reads 512 tokens"),
])
def test_what_it_does_not_do_is_one_line(words: str, said: str, door: Door) -> None:
    Path("text.txt").write_text(SENTENCE * 600)
    save_language_model(Path("model"), "gpt2")
    code, _, err = door(*RUN, *words.split())
    assert code == 2 and err.count("\n") == 1 and said in err
