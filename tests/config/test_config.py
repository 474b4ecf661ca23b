"""Every choice composes, every name is declared once, and nonsense is refused before torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ponder.cli.shorthand import DEFAULT_VARIANTS, rewrite
from ponder.config.checker import check_leaf, leaves
from ponder.config.errors import UserError
from ponder.config.registry import REWARDS, STRATEGIES, TASKS
from ponder.config.resolve import read
from ponder.config.spine import (
    CONF,
    GROUPS,
    VARIANTS,
    Config,
    choices,
    config_hash,
    register,
    schemas,
    variants,
)

SUBSETS = [subset for size in range(7) for subset in itertools.combinations(VARIANTS, size)]
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
Compose = Callable[..., Any]


@pytest.fixture
def composed() -> Iterator[Compose]:
    """Words of a command line -> the composed node, not yet checked."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *words: compose("config", overrides=rewrite(list(words), CONF))


# --- variants -----------------------------------------------------------------------------------


def test_there_are_64_subsets_of_which_33_make_sense() -> None:
    legal = [subset for subset in SUBSETS if not subset or "think" in subset]
    assert (len(SUBSETS), len(legal)) == (64, 33)


@pytest.mark.slow
@pytest.mark.parametrize("subset", [
    pytest.param(subset, id="+".join(subset), marks=[] if len(subset) < 3 else pytest.mark.slow)
    for subset in SUBSETS])
def test_every_subset_composes_and_only_sense_is_let_through(subset: tuple[str, ...],
                                                             composed: Compose) -> None:
    node = composed(f"variant=[{','.join(subset)}]")
    if not subset or "think" in subset:
        config = read(node)
        assert variants(config) == list(subset)
        assert config.thinker.tokens == (2 if subset else 0)
    else:
        with pytest.raises(UserError) as error:
            read(node)
        flags = ",".join(subset)
        assert str(error.value) == (f"variant=[{flags}]: found thinker.tokens=0; legal: together "
                                    f"with think, as in variant=[think,{flags}]")


@pytest.mark.slow
def test_each_flag_patches_its_key_and_no_other(composed: Compose) -> None:
    """The differences to `variant=[think]`, or of think to the plain baseline."""
    def flat(node: Any) -> dict[str, Any]:
        return dict(_flat(OmegaConf.to_container(node, resolve=True)))

    think, plain = flat(composed("variant=[think]")), flat(composed("variant=[]"))
    assert _changes(plain, think) == {"thinker.tokens": 2}
    expected = {"fixed": {"thinker.stops": False}, "blind": {"answerer.sees": ["thought"]},
                "super": {"answerer.learns_from": "gold"},
                "clean": {"reward.gold_thought": 1.0, "reward.log_likelihood": None}}
    for flag, changes in expected.items():
        assert _changes(think, flat(composed(f"variant=[think,{flag}]"))) == changes
    search = _changes(think, flat(composed("variant=[think,search]")))
    assert {key.split(".")[0] for key in search} == {"rollout", "strategy"}
    assert (search["rollout.kind"], search["strategy.name"]) == ("search", "star")


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {key: new.get(key) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_no_two_variant_files_patch_the_same_key() -> None:
    patched: dict[str, str] = {}
    files = sorted((CONF / "variant").glob("*.yaml"))
    assert {file.stem for file in files} >= {*VARIANTS}
    for file in files:
        content = yaml.safe_load(file.read_text())
        groups = [key for entry in content.pop("defaults", []) for key in entry]
        assert all(key.startswith("override /") for key in groups)
        keys = [*groups, *(key for key, _ in _flat(content))]
        assert keys
        for key in keys:
            assert patched.setdefault(key, file.stem) == file.stem
    assert len(patched) >= 7  # search patches two groups, every other variant one key


def test_the_default_run(composed: Compose) -> None:
    config = read(composed())
    assert variants(config) == [*DEFAULT_VARIANTS]
    assert (config.task.name, config.task.max, config.action) == ("add", 100, "train")
    assert yaml.safe_load((CONF / "config.yaml").read_text())["defaults"].count(
        {"variant": [*DEFAULT_VARIANTS]}) == 1


@pytest.mark.slow
def test_a_typed_choice_outranks_the_variant_that_patches_it(composed: Compose) -> None:
    config = read(composed("strategy=grpo", "rollout.samples=4"))
    assert (config.strategy.name, config.rollout.kind) == ("grpo", "search")
    config = read(composed("think=true", "clean=true", "reward=softmax"))
    assert config.reward == {"softmax": 1.0}


@pytest.mark.slow
def test_a_name_says_what_its_flags_say(composed: Compose) -> None:
    assert (composed("experiment=add_think_fixed_blind_super_clean")
            == composed("variant=[think,fixed,blind,super,clean]", "task=add"))
    assert composed("experiment=add_normal") == composed("think=false")


@pytest.mark.slow
def test_thoughts_are_as_long_as_the_gold_thought(composed: Compose) -> None:
    for words, tokens in [(["task.max=1000"], 3), (["task.max=1001"], 4),
                          (["task.modular=false"], 3), (["task.gold=scratchpad"], 4)]:
        config = read(composed("think=true", *words))
        assert (config.task.thought_length, config.thinker.tokens) == (tokens, tokens)
    assert read(composed("think=true", "thinker.tokens=7")).thinker.tokens == 7


# --- files --------------------------------------------------------------------------------------


QUESTIONS = ["task=qa", "task.data=questions.csv"]
NEEDS = {"model=hf": ["model.name=gpt2", *QUESTIONS],
         **{f"model={name}": QUESTIONS for name in choices("model")
            if name not in ("hf", "tiny", "small", "nano")},
         **{f"task={one.name}": ["model=gpt2"] for one in TASKS
            if "hf_model" in one.requires}, "task=qa": ["model=gpt2", *QUESTIONS[1:]],
         **{f"task={name}": ["model=gpt2", *QUESTIONS[1:]] for name in ("free", "passage")},
         "task=text": ["task.data=text.txt", "variant=[]"],
         "task=corpus": ["task.data=text.txt", "variant=[think]", "rollout=sample",
                         "strategy=ppo", "reward=whitespace"],
         "experiment=ppo_corpus": ["task.wanted=e"], "experiment=ppo_smollm2": ["task.wanted=e"],
         "experiment=rollout_think": ["model.ref_name=normal"]}  # no experiment needs a file


@pytest.mark.slow
@pytest.mark.parametrize("word", [
    *(f"{file.parts[0]}={file.stem}" for file in FILES if file.parts[0] != "variant"),
    *(f"{group}={name}" for group in ("task", "strategy", "rollout") for name in choices(group)),
    f"reward=[{','.join(choices('reward'))}]",
    f"variant=[{','.join(file.stem for file in FILES if file.parts[0] == 'variant')}]",
])
def test_every_file_composes(word: str, composed: Compose, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions.csv").touch()
    Path("text.txt").touch()
    Path("normal").mkdir()
    Path("normal/config.json").touch()
    if word.startswith("task=gym"):
        pytest.importorskip("reasoning_gym")
    node = composed(word, *NEEDS.get(word, []))
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    if word.startswith("reward"):
        assert config.reward == {entry.name: entry.weight for entry in REWARDS}
    elif not word.startswith(("rollout", "strategy")):
        assert read(node) == config


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_begins_with_its_sentence_of_help(file: Path) -> None:
    lines = (CONF / file).read_text().splitlines()
    if file.parts[0] in ("variant", "experiment") or "@package" in lines[0]:
        assert lines.pop(0) == "# @package _global_"
    assert lines[0].startswith("# ") and lines[0].endswith(".") and len(lines[0]) <= 100


def test_a_schema_says_its_own_name() -> None:
    for group, key in GROUPS:
        for name, schema in schemas(group).items():
            assert getattr(schema(), key) == name


def test_everything_registered_has_its_sentence_of_help() -> None:
    for entry in (*TASKS, *STRATEGIES, *REWARDS):
        assert 10 < len(entry.about) <= 100, entry.name


def test_rewards_can_be_combined_and_weighted(composed: Compose) -> None:
    config = read(composed("think=true", "reward=[log_likelihood,repetition]",
                           "reward.repetition=-0.5", "reward.length=-0.25"))
    assert config.reward == {"log_likelihood": 1.0, "repetition": -0.5, "length": -0.25}


def test_every_key_has_its_sentence_of_help_and_a_default_within_its_limits() -> None:
    groups = ("task", "model", "rollout", "strategy", "trainer", "logger")
    for schema in (Config, *(schema for group in groups for schema in schemas(group).values())):
        for key, value, about in leaves(schema()):
            assert about.get("doc"), key
            if not isinstance(value, str) or "${" not in value:
                check_leaf(key, value, about)


@pytest.mark.parametrize("words, count", [
    ("task=add", 10), ("task=addition", 10), ("task=cups task.cups=5", 10), ("task=graph", 14),
    ("task=sort task.max=30", 30), ("task=sort task.numbers=3 task.max=4", 10),
    ("task=graph thinker.vocabulary=20", 20), ("task=chase task.min_steps=9", 10)])
def test_thought_tokens_are_as_many_as_gold_thoughts_need(words: str, count: int,
                                                          composed: Compose) -> None:
    assert composed(*words.split()).thinker.vocabulary == count


# --- the hash -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_hashes_mean_equal_results(composed: Compose) -> None:
    def changed(key: str, value: Any) -> str:
        node = composed_once.copy()
        OmegaConf.update(node, key, value)
        return config_hash(OmegaConf.to_object(node))

    composed_once = composed()
    base = config_hash(read(composed_once))
    assert len(base) == 16
    assert base == "de236fb76d250444"  # without keys that came later, where they have defaults
    assert changed("thinker.filler", False) == base != changed("thinker.filler", True)
    for key, value in (("run_type", "other"), ("logger.kind", "wandb"), ("out", "x.csv"),
                       ("action", "evaluate"), ("runs", ["a"])):
        assert changed(key, value) == base
    for key, value in (("seed", 1), ("task.max", 101), ("trainer.lr", 0.001), ("task.seed", 1),
                       ("rollout.samples", 9), ("answerer.sees", ["question", "thought"])):
        assert changed(key, value) != base


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("word", [
    "model.layers=1000000", "model.d_model=1000000", "rollout.samples=100000000",
    "thinker.tokens=100000", "trainer.train_batch_size=1000000000",
    "trainer.gen_batch_size=1000000000"])
def test_what_cannot_fit_is_refused_by_its_key(word: str, composed: Compose,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.config.checker.memory_bytes", lambda: 8.0 * 2**30)
    with pytest.raises(UserError, match=f"{word}: found a run that needs at least .* GiB .*; "
                                        "legal: what fits into the 8 GiB of this machine"):
        read(composed(word))


@pytest.mark.slow
def test_what_fits_is_let_through(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 2 networks of 2 blocks of 12 * 64^2 parameters take 3.1 MB; 256 rows of 3 tokens
    of 2 blocks at least 3.9 MB.
    """
    monkeypatch.setattr("ponder.config.checker.memory_bytes", lambda: 7.1e6)
    assert read(composed()).thinker.tokens == 2
    monkeypatch.setattr("ponder.config.checker.memory_bytes", lambda: 7.0e6)
    with pytest.raises(UserError, match="needs at least 0 GiB"):
        read(composed())
