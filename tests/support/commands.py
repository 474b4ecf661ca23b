"""Command lines of the program before this one, and what Hydra makes of command lines."""

from __future__ import annotations

import copy
import functools
import shlex
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from ponder.cli.legacy import modern
from ponder.config.spine import CONF, register

SINGLE_BATCH = ("python run.py trainer.single_batch=true trainer.gen_batch_size=8 "
                "trainer.train_batch_size=8 trainer.agent.model_handler.warmup=0")
TRANSLATED = ("python run.py -m trainer.gen_batch_size=24 trainer.train_batch_size=16 "
              "logger=CustomWandBLogger trainer.dataset_name=mmlu_YO-NG run_type=train_translate")
DECAY_SWEEP = (
    "python run.py -m run_type=train_dpo_english trainer.gen_batch_size=64 "
    "trainer.train_batch_size=6 trainer.train_gradient_accumulation_steps=32 "
    "trainer.train_strategy=dpo trainer.samples_per_train_question=3 logger=CustomWandBLogger "
    "trainer.dataset_name=mmlu trainer.agent.model_handler.optimizer_partial.lr=5e-6 "
    "trainer.dpo_beta=0.1 trainer.max_epochs=1 "
    "trainer.agent.model_handler.optimizer_partial.weight_decay=0,100 "
    "trainer.agent.model_handler.lora_r=64 trainer.interal_epochs=1 "
    "trainer.agent.model_handler.warmup=45 hydra.launcher.partition=overcap "
    "trainer.shuffle_dataloader=true")
OTHER_MODEL = (
    'python run.py -m run_type=train_english_3B trainer.train_strategy=reinforce '
    'trainer.samples_per_train_question=1 trainer.reset_model_every_star_epoch=false,true '
    'trainer.model_name="unsloth/Llama-3.2-3B" trainer.ref_model_name="unsloth/Llama-3.2-3B" '
    'trainer.agent.model_handler.checkpoint_base="unsloth/Llama-3.2-3B-Instruct" '
    'trainer.val_every_n_steps=128 trainer.val_every_n_steps=9999999')
PROMPTS = ('python run.py -m run_type=prompt_perf trainer.samples_per_train_question=1 '
           'trainer.max_epochs=1 trainer.interal_epochs=0 trainer.num_train_questions=1000 '
           'trainer.train_strategy=reinforce '
           'trainer.meta_prompt_to_preamble="Please cook.","Think dummy.","Think logically."')
VALIDATION = ('python run.py run_type=val trainer.gen_batch_size=48 '
              '"trainer.dataset_name=mmlu_YO-NG" "+current_global_step=2" '
              '"+model_checkpoint_to_eval=star_runs/train_2024-10-01/03-06-34_0/checkpoint_2"')
KEPT = [SINGLE_BATCH, TRANSLATED, DECAY_SWEEP, OTHER_MODEL, PROMPTS, VALIDATION]
ONE_VALUE = ("action", "run_type", "seed", "step")


def words_of(line: str) -> list[str]:
    """The words of a command line, as a shell hands them over."""
    python, run, *words = shlex.split(line)
    assert (python, run) == ("python", "run.py")
    return words


def today(*words: str) -> list[str]:
    return modern(list(words))[0]


def composed(words: list[str]) -> Any:
    """What Hydra makes of the words of a job. Composing is slow, so it is done once for the same
    choices; Hydra applies single values."""
    parsed = OverridesParser.create().parse_overrides(words)
    values = [one for one in parsed if "." in one.key_or_group or one.key_or_group in ONE_VALUE]
    node = copy.deepcopy(_chosen(tuple(str(one.input_line) for one in parsed if one not in values)))
    ConfigLoaderImpl._apply_overrides_to_config(values, node)
    return node


@functools.lru_cache
def _chosen(words: tuple[str, ...]) -> Any:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))
