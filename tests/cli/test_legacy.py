"""Command lines of the program before this one: what they mean today."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ponder.cli.legacy import KEYS, MODEL, modern, thought_tokens_of
from ponder.cli.shorthand import rewrite
from ponder.config.resolve import read
from ponder.config.spine import CONF
from ponder.training.trackers import parameter_name
from support.commands import (
    DECAY_SWEEP,
    KEPT,
    OTHER_MODEL,
    PROMPTS,
    SINGLE_BATCH,
    TRANSLATED,
    VALIDATION,
    composed,
    today,
    words_of,
)
from support.small import Door

GROUPS = ["task=mmlu", "model=hf", "variant=[think]", "rollout=sample", "reward=exact_match",
          "trainer=text"]
REINFORCE = ["strategy=star", "strategy.keep=correct"]
WHOLE = ["trainer.max_epochs=10", "seed=2"]


# --- rewriting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line, expected", [
    (SINGLE_BATCH, [
        *GROUPS, f"model.name={MODEL}", *REINFORCE, "rollout.samples=1", *WHOLE,
        "trainer.single_batch=true", "trainer.gen_batch_size=8", "trainer.train_batch_size=8",
        "trainer.warmup=0"]),
    (TRANSLATED, [
        "-m", *GROUPS, f"model.name={MODEL}", *REINFORCE, "rollout.samples=1", *WHOLE,
        "trainer.gen_batch_size=24", "trainer.train_batch_size=16", "logger=wandb",
        "logger.naming=parameters", "task.language=YO-NG", "run_type=train_translate"]),
    (DECAY_SWEEP, [
        "-m", *GROUPS, f"model.name={MODEL}", "trainer.max_epochs=1", "seed=2",
        "run_type=train_dpo_english", "trainer.gen_batch_size=64", "trainer.train_batch_size=6",
        "trainer.train_gradient_accumulation_steps=32", "strategy=dpo", "rollout.samples=3",
        "logger=wandb", "logger.naming=parameters", "task.language=EN", "trainer.lr=5e-6",
        "strategy.beta=0.1", "trainer.weight_decay=0,100", "model.lora_r=64",
        "trainer.internal_epochs=1", "trainer.warmup=45", "hydra.launcher.partition=overcap",
        "task.shuffle=true"]),
    (OTHER_MODEL, [
        "-m", *GROUPS, "model.name=unsloth/Llama-3.2-3B", "rollout.samples=1", *WHOLE,
        "run_type=train_english_3B", *REINFORCE, "trainer.reset_model_every_epoch=false,true",
        "model.ref_name=unsloth/Llama-3.2-3B", "model.chat_name=unsloth/Llama-3.2-3B-Instruct",
        "trainer.val_every_n_steps=9999999"]),
    (PROMPTS, [
        "-m", *GROUPS, f"model.name={MODEL}", "rollout.samples=1", "trainer.max_epochs=1",
        "seed=2", "run_type=prompt_perf", "trainer.internal_epochs=0",
        "task.train_questions=1000", *REINFORCE,
        "task.preamble=Please cook.,Think dummy.,Think logically."]),
    (VALIDATION, [
        *GROUPS, "model.name=star_runs/train_2024-10-01/03-06-34_0/checkpoint_2", "run_type=val",
        "trainer.gen_batch_size=48", "task.language=YO-NG", "step=2", "action=evaluate"]),
])
def test_a_line_as_today(line: str, expected: list[str]) -> None:
    assert today(*words_of(line)) == expected


@pytest.mark.parametrize("words", [
    [], ["trainer.single_batch=true", "trainer.gen_batch_size=32"], ["run_type=val"],
    ["-m", "logger=wandb", "seed=1,2"], ["think=true", "trainer.warmup=0"], ["--cfg", "job"],
])
def test_lines_of_today_stay_as_they_are(words: list[str]) -> None:
    assert modern(words) == (words, [])


@pytest.mark.parametrize("line", KEPT)
def test_the_new_spelling_is_said_and_means_the_same(line: str) -> None:
    words, notes = modern(words_of(line))
    said, = (note for note in notes if note.startswith("old spelling; today: "))
    assert words_of(said.removeprefix("old spelling; today: ")) == words
    assert modern(words) == (words, [])


def test_the_last_word_for_a_key_counts() -> None:
    lr = "trainer.agent.model_handler.optimizer_partial.lr"
    assert today(f"{lr}=1", "trainer.lr=2")[-1:] == ["trainer.lr=2"]
    assert "trainer.lr=2" not in today("trainer.lr=2", f"{lr}=1")
    found = today("trainer.train_strategy=reinforce", "trainer.train_strategy=dpo")
    assert found[-1] == "strategy=dpo" and not set(REINFORCE) & set(found)


def test_what_is_typed_outranks_what_the_old_program_did() -> None:
    found = today("trainer.dpo_beta=0.5", "strategy=dpo", "model=smollm2", "task=qa", "seed=0",
                  "trainer=default", "trainer.max_epochs=null", "variant=[think,blind]")
    assert found == ["task=qa", "model=smollm2", "variant=[think,blind]", "rollout=sample",
                     "reward=exact_match", "trainer=default", "trainer.max_epochs=null", "seed=0",
                     "strategy.beta=0.5", "strategy=dpo"]


def test_an_experiment_is_of_today() -> None:
    words = ["experiment=star_smollm2", "trainer.agent.model_handler.lora_r=8"]
    assert today(*words) == ["experiment=star_smollm2", "model.lora_r=8"]


def test_signs_in_front_of_old_keys_go_and_others_stay() -> None:
    found = today("++current_global_step=3", "+reward.length=-0.1", "~reward.exact_match")
    assert {"step=3", "+reward.length=-0.1", "~reward.exact_match"} <= set(found)


def test_languages_may_be_swept() -> None:
    assert "task.language=EN,YO-NG,SW-KE" in today(
        "-m", 'trainer.dataset_name="mmlu",mmlu_yo-ng,mmlu_SW_KE')


@pytest.mark.slow
def test_every_old_key_is_a_key_of_today() -> None:
    dpo = "trainer.train_strategy=dpo"
    for old, new in KEYS.items():
        value = {"trainer.dataset_name": "mmlu", "trainer.train_strategy": "dpo"}.get(old, "1")
        found: Any = composed(rewrite(today(dpo, f"{old}={value}"), CONF))
        for part in new.split("."):
            found = found[part]
        assert found is not None, old


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word, line", [
    ("trainer.agent.model_handler.warmpu=1", "trainer.agent.model_handler.warmpu: no such key (did "
     "you mean trainer.agent.model_handler.warmup?); legal: trainer.agent.model_handler.warmup, "
     "which is trainer.warmup today"),
    ("trainer.agent.model_handler.lr=1", "trainer.agent.model_handler.lr: no such key (did you "
     "mean trainer.agent.model_handler.optimizer_partial.lr?); legal: "
     "trainer.agent.model_handler.optimizer_partial.lr, which is trainer.lr today"),
    ("trainer.agent.model_handler.foo=1", "trainer.agent.model_handler.foo: no such key; legal: "
     "trainer.agent.model_handler.optimizer_partial.lr (today trainer.lr), "),
    ("+trainer.agent.x=1", "trainer.agent.x: no such key; legal: "
     "trainer.agent.model_handler.optimizer_partial.lr (today trainer.lr), "),
    ("trainer.datset_name=mmlu", "trainer.datset_name: no such key (did you mean "
     "trainer.dataset_name?); legal: trainer.dataset_name, which is task.language today"),
    ("trainer.dataset_name=arc", "trainer.dataset_name=arc: found 'arc'; legal: mmlu, "
     "mmlu_<language>, or task=qa task.data=<file>"),
    ("trainer.train_strategy=dpo,reinforce", "trainer.train_strategy=dpo,reinforce: found "
     "reinforce among others, which have other keys today; legal: one of them in each call"),
])
def test_mistakes_get_one_line(word: str, line: str, door: Door, tmp_path: Path) -> None:
    code, out, err = door(word)
    assert (code, out) == (2, "") and err.startswith(f"error: {line}") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_keys_near_to_those_of_today_are_not_taken_for_old_ones(door: Door) -> None:
    for word in ("trainer.train_batch_sise=1", "trainer.max_epoch=1"):
        assert "; legal here: max_steps, " in door(word)[2]


def test_a_beta_without_dpo_is_left_out_and_said_so() -> None:
    words, notes = modern(["trainer.dpo_beta=0.1"])
    assert "strategy=star" in words and not any("beta" in word for word in words)
    assert notes[0] == ("trainer.dpo_beta=0.1: left out, as it means nothing without "
                        "trainer.train_strategy=dpo")


def test_a_line_is_said_once_and_stdout_is_clean(door: Door) -> None:
    code, out, err = door(*words_of(SINGLE_BATCH), "hydra.launcher.partition=overcap", "--cfg",
                          "job")
    assert code == 0 and out.startswith("action: train\n")
    partition, spelling = err.splitlines()
    assert partition == ("hydra.launcher.partition=overcap: left out, as nothing is launched "
                         "without -m; running here")
    assert spelling.startswith("old spelling; today: python run.py --cfg job task=mmlu model=hf ")
    assert "partition" not in spelling


# --- names --------------------------------------------------------------------------------------


def configured(*words: str) -> tuple[dict[str, Any], list[str]]:
    """The checked configuration of a line without -m, and its words for Hydra."""
    typed = rewrite(today(*words), CONF)
    return asdict(read(composed(typed))), typed


HANDLER = "trainer.agent.model_handler."


@pytest.mark.parametrize("words, name", [
    (["run_type=train_dpo_english", "trainer.dpo_beta=0.9", "trainer.samples_per_train_question=10",
      "trainer.train_strategy=dpo", f"{HANDLER}optimizer_partial.lr=1e-5",
      f"{HANDLER}optimizer_partial.weight_decay=0.0", f"{HANDLER}lora_r=64",
      f"{HANDLER}warmup=45", "trainer.shuffle_dataloader=true"],
     "train_dpo_english_beta=0.9_samples=10_ts=dpo_ds=mmlu_lr=1e-05_wd=0.0_lora=64_gaccum=4_"
     "warmup=45_gnorm=1.0_shuff=True_seed=2"),
    (["run_type=train_dpo_english", "trainer.dpo_beta=0.1", "trainer.samples_per_train_question=3",
      "trainer.train_strategy=dpo", f"{HANDLER}optimizer_partial.lr=0.000005",
      f"{HANDLER}optimizer_partial.weight_decay=100", f"{HANDLER}lora_r=64",
      f"{HANDLER}warmup=45"],
     "train_dpo_english_beta=0.1_samples=3_ts=dpo_ds=mmlu_lr=5e-06_wd=100_lora=64_gaccum=4_"
     "warmup=45_gnorm=1.0_shuff=True_seed=2"),
    (["run_type=train_translate", "trainer.dataset_name=mmlu_YO-NG", "seed=1"],
     "train_translate_beta=None_samples=1_ts=reinforce_ds=mmlu_YO-NG_lr=2e-05_wd=0.0_lora=0_"
     "gaccum=4_warmup=5_gnorm=1.0_shuff=True_seed=1"),
])
def test_names_in_wandb(words: list[str], name: str) -> None:
    assert parameter_name(*configured(*words)) == name


@pytest.mark.slow
def test_any_run_can_be_named_by_its_parameters() -> None:
    name = parameter_name(*configured("think=true"))
    assert name.startswith("train_beta=None_samples=8_ts=reinforce_ds=add_lr=0.002_wd=0.5_lora=Non")


# --- runs of earlier versions -------------------------------------------------------------------


@pytest.mark.parametrize("told, words", [
    ("thinker:\n  tokens: ${task.thought_length}\n  vocabulary: 10\n  stops: true\n",
     ["thinker.vocabulary=10"]),
    ("thinker:\n  tokens: 4\n  vocabulary: ${ponder.thought_vocabulary:}\n", []),
    ("thinker:\n  tokens: 4\ntask:\n  vocabulary: 7\n", []), (None, [])])
def test_a_run_goes_on_with_as_many_thought_tokens(told: str | None, words: list[str],
                                                   tmp_path: Path) -> None:
    """They were 10 whatever the task, before the task decided."""
    if told is not None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "config.yaml").write_text("seed: 0\n" + told)
    assert thought_tokens_of(tmp_path) == words
