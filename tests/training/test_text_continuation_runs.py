"""Whole runs of language models of Hugging Face that continue texts for a reward."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from ponder.core.metrics import known
from support.processes import run_processes
from support.questions import WORDS, load_plain, save_language_model
from support.runs import lines, summary
from support.small import Door
from support.texts import TEXT

PPO, THINK = ["experiment=ppo_corpus"], ["experiment=rollout_think", "model.ref_name=small"]
FREE = ["task=corpus", "variant=[think,fixed]", "rollout=sample", "reward=wanted",
        "rollout.samples=4"]
SMALL = ["model=hf", "model.name=model", "task.data=text.txt", "task.wanted=e", "task.length=4",
         "task.thought_length=5", "task.test_passages=8", "trainer.train_batch_size=4",
         "trainer.gen_batch_size=8", "trainer.threads=1", "trainer.save_every_n_steps=4",
         "trainer.log_every_n_steps=1", "trainer.max_steps=2", "trainer.val_every_n_steps=100",
         "hydra.run.dir=run"]


@pytest.fixture
def run(door: Door) -> Door:
    """Words -> a small run of one of two models; each key as said last."""
    Path("text.txt").write_text(TEXT)
    save_language_model(Path("model"), "llama")
    save_language_model(Path("small"), "gpt2", seed=1)
    return lambda *words: door(*{word.partition("=")[0]: word for word in (
        *SMALL, *words)}.values())


def newest(path: str = "run") -> Path:
    return max(Path(path).glob("checkpoint_*"), key=lambda one: int(one.name.rpartition("_")[2]))


# --- learning -----------------------------------------------------------------------------------

LEARNERS = [
    [*PPO], [*PPO, "model.lora_r=4"], [*FREE, "strategy=grpo", "strategy.kl=0.1"],
    [*THINK, "model.lora_r=4", "variant=[think]"],
    [*FREE, "strategy=grpo", "strategy.kl=0.1", "model.lora_r=4"],
    [*FREE, "strategy=reinforce", "strategy.kl=0.1"],
    [*FREE, "strategy=reinforce", "strategy.kl=0.1", "model.lora_r=4"],
    [*FREE, "strategy=rloo"], [*FREE, "strategy=star"], [*THINK],
    [*PPO, "strategy.value=separate", "model.lora_r=4"],
    [*PPO, "strategy.kl_place=loss", "strategy.kl_estimator=k3", "model.ref_name=model"],
    [*PPO, "variant=[think]", "rollout.epsilon=linear(0.5,0,4)", "rollout.temperature=1.5"],
    [*PPO, "task.interim=true", "strategy.discount=0.9", "strategy.entropy=0.01"],
    [*PPO, "task.prompt='the '", "reward=[wanted,length,words]", "task.words=[cat]"],
    [*PPO, "trainer.dtype=bfloat16", "model.dtype=bfloat16"]]


@pytest.mark.parametrize("words", [
    pytest.param(words, marks=pytest.mark.slow if number > 3 else [], id=" ".join(words))
    for number, words in enumerate(LEARNERS)])
def test_everything_that_learns_from_thoughts_learns_from_texts(words: list[str],
                                                                run: Door) -> None:
    code, _, err = run(*words)
    assert (code, err) == (0, "")
    assert summary()["steps"] == 2
    assert all(known(name) for line in lines() for name in line)
    if "experiment" in words[0]:  # the reference may write what the thinker may, and is it so far
        assert lines()[0]["val/kl"] == pytest.approx(0, abs=1e-6)
    assert ("val/kl" in lines()[-1]) == ("strategy.kl=" in str(words) or "experiment" in words[0])


def test_a_run_leaves_prompts_and_continuations(run: Door) -> None:
    code, _, err = run(*PPO, "variant=[think]")
    assert (code, err) == (0, "")
    with Path("run/val_2/generated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(row["question"] in TEXT for row in rows)
    share = [row["thought"].count("e") / max(len(row["thought"]), 1) for row in rows]
    assert [float(row["reward"]) for row in rows] == pytest.approx(share)
    metrics = summary()["metrics"]
    assert metrics["val/reward"] == pytest.approx(sum(share) / 8)
    assert summary()["accuracy"] == sum(value == 1 for value in share) / 8
    assert lines()[0]["val/kl"] == pytest.approx(0, abs=1e-6) and metrics["val/kl"] > 0
    assert not list(Path("run").glob("train_*"))
    code, _, err = run(*PPO, "variant=[think]", "action=evaluate", f"model.name={newest()}",
                       "hydra.run.dir=again")
    assert (code, err) == (0, "") and "val/kl" not in summary("again")["metrics"]
    assert summary("again")["metrics"]["val/reward"] == metrics["val/reward"]


@pytest.mark.parametrize("words", ["trainer.lr=2e-2 trainer.max_steps=80", pytest.param(
    "model.lora_r=8 trainer.lr=5e-2 trainer.max_steps=120", marks=pytest.mark.slow)])
def test_what_is_wanted_comes_more_often(words: str, run: Door) -> None:
    """From one token in twenty to nearly all of them."""
    code, _, err = run(*PPO, "trainer.max_steps=60", "strategy.kl=0.001",
                       "trainer.train_batch_size=8", "trainer.gen_batch_size=16",
                       "rollout.samples=8", "trainer.warmup=0", "task.wanted=etaoinshrdlu",
                       "trainer.save_every_n_steps=0", *words.split())
    assert (code, err) == (0, "")
    first, last = lines()[0]["val/reward"], lines()[-1]["val/reward"]
    assert first < 0.2 and last > 0.8, (first, last)


# --- going on, and elsewhere --------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    "model.lora_r=4", *(pytest.param(words, marks=pytest.mark.slow) for words in (
        "strategy.value=separate variant=[think]",
        "thinker.writes=both thinker.vocabulary=3 model.lora_r=4"))])
def test_a_run_cut_off_ends_with_the_same_weights(words: str, run: Door) -> None:
    """Its last checkpoint and its end are taken away: it goes on in the middle of a round."""
    more = [*PPO, "trainer.max_steps=10", *words.split()]
    assert run(*more)[0] == 0
    shutil.copytree("run", "whole")
    for path in Path("run").glob("checkpoint_*/manifest.json"):
        if json.loads(path.read_text())["step"] == 10:
            shutil.rmtree(path.parent)
    Path("run/summary.json").unlink()
    shutil.rmtree("scratch/generated")  # what was written may be gone
    code, out, err = run(*more)
    assert (code, err) == (0, "") and "going on from step 8" in out
    assert summary()["weights_sha256"] == summary("whole")["weights_sha256"]
    assert [line["step"] for line in lines()] == [line["step"] for line in lines("whole")]


@pytest.mark.parametrize("words", ["model.lora_r=4 thinker.writes=both thinker.vocabulary=3",
                                   *(pytest.param(words, marks=pytest.mark.slow) for words in (
                                       "", "model.lora_r=4", "thinker.writes=both"))])
def test_plain_libraries_and_generate_go_on_alike(words: str, run: Door, door: Door) -> None:
    """And neither as the model did before; a checkpoint is a model to begin with, too."""
    more = [*PPO, "variant=[think]", "trainer.lr=3e-2", "trainer.warmup=0", *words.split()]
    code, _, err = run(*more)
    assert (code, err) == (0, "")
    model, tokenizer = load_plain(newest())
    count = 4 if "vocabulary" in words else 11 if "both" in words else 0
    assert len(tokenizer) == len(WORDS) + count
    prompt = torch.tensor([tokenizer.encode("the cat")])
    found, before = (net.generate(input_ids=prompt, do_sample=False, max_new_tokens=12,
                                  attention_mask=torch.ones_like(prompt), pad_token_id=0)
                     for net in (model, load_plain(Path("model"))[0]))
    code, out, err = door("action=generate", f"model.name={newest()}", "prompt=the cat",
                          "generate.tokens=12", "generate.temperature=0")
    assert code == 0, err
    said = tokenizer.decode(found[0], skip_special_tokens=True)
    shown = said.replace("<t0>", "</think>")
    for number in range(1, count):
        shown = shown.replace(f"<t{number}>", f"<t{number - 1}>")
    assert out.startswith(shown) and len(said) > 10
    assert tokenizer.decode(before[0], skip_special_tokens=True) != said
    code, _, err = run(*more, f"model.name={newest()}", "hydra.run.dir=on")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_two_processes_write_and_learn_what_one_does(run: Door) -> None:
    """A batch is two prompts here, so that both have their turn."""
    here = Path.cwd()
    words = [*(word for word in SMALL if "run.dir" not in word), *PPO, "trainer.device=cpu",
             "model.rows_at_once=8", f"model.name={here}/model", f"task.data={here}/text.txt"]
    said = list({word.partition("=")[0]: word for word in words}.values())
    (one, last), (two, other) = (run_processes(here / name / "run", count, *said)
                                 for name, count in (("alone", 1), ("both", 2)))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "value_loss", "kl", "reward", "val/reward", "val/kl"):
            assert first.get(name, 0) == pytest.approx(second.get(name, 0), abs=1e-5)
    assert last["accuracy"] == other["accuracy"]


# --- what is refused ----------------------------------------------------------------------------

@pytest.mark.parametrize("words, said", [
    ("task.tokens=trie", "task.tokens=trie: found model=hf, which reads its own tokens; legal:"),
    ("model.thought_tokens=3", "model.thought_tokens=3: found thinker.writes=text, of which none "
     "is part; legal: 0, or thinker.writes=both"),
    ("model.thought_tokens=3 thinker.writes=both thinker.vocabulary=4", "model.thought_tokens=3: "
     "found thinker.vocabulary=4, whose tokens and an end of thoughts are added anyway; legal: 0, "
     "5"),
    ("trainer.engine=trl", "trainer.engine=trl: found task=corpus"),
    ("trainer.compile=true", "trainer.compile=true: found model=hf with task=corpus"),
    ("task.thought_length=600", "thinker.tokens=600: found model.name=model, which reads 512 "
     "tokens at most; legal: at most 508"),
    ("model.name=null", "model.name=null: found no model"),
    ("reward=plausibility", "reward=plausibility: found model.ref_name=null"),
    ("reward=plausibility model.ref_name=none", "model.ref_name=none: cannot be read"),
    ("reward=plausibility model.ref_name=other", "model.ref_name=other: found other tokens than"),
    ("task.data=null", "task.data=null: found no text"),
    ("model.name=endless", "model.name=endless: found a tokenizer without an end-of-sequence"),
    ("model.lora_r=4 model.lora_targets=[foo]", "model.lora_targets=[foo]: found no place for"),
])
def test_what_means_nothing_gets_one_line(words: str, said: str, run: Door) -> None:
    for name, change in (("other", {"add": ["hello"]}), ("endless", {"end": None})):
        if name in words:
            shutil.copytree("model", name)
            changed(Path(name), **change)
    if "endless" in words:  # the model does not say it either
        for file in ("config.json", "generation_config.json"):
            path = Path("endless") / file
            path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    code, _, err = run(*PPO, *words.split())
    assert code == 2 and err.count("\n") == 1 and said in err, err


def changed(path: Path, add: list[str] | None = None, end: str | None = "<end>") -> None:
    """Give a directory another tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(add or [])
    tokenizer.eos_token = end
    tokenizer.save_pretrained(path)


def test_other_thought_tokens_than_the_model_has_are_refused(run: Door) -> None:
    assert run(*PPO, "thinker.writes=both", "thinker.vocabulary=3")[0] == 0
    for number in (2, 4):
        code, _, err = run(*PPO, "thinker.writes=both", f"thinker.vocabulary={number}",
                           f"model.name={newest()}", "hydra.run.dir=on")
        assert code == 2 and err == (
            f"error: thinker.vocabulary={number}: found model.name={newest()}, which has 3 thought "
            "tokens and their end; legal: 3\n")
    code, _, err = run(*PPO, f"model.name={newest()}", "hydra.run.dir=on")  # text alone again
    assert (code, err) == (0, "") and summary("on")["metrics"]["text/thoughts"] == 0
