"""What is registered where it is written, and what a plugin adds to it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ponder.config.errors import UserError
from ponder.config.option import WithOptions, option
from ponder.config.registry import (
    ENGINES,
    REWARDS,
    SEARCHES,
    STRATEGIES,
    TASKS,
    TRACKERS,
    Entry,
    Registry,
    keys_of,
    lines_of,
    plugins_of,
    strategy,
)
from ponder.strategies.base import Strategy
from ponder.tasks.choice.qa import Qa, QaKeys
from support.plugin import PLUGINS, write_plugins

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "pandas", "transformers")


class Base(WithOptions):
    held_out: float = option(0.2, "share that is held out", low=0, high=1)
    gold: str = option("none", "gold thoughts", legal=("none",))

    def contradictions(self) -> Iterator[str]:
        if self.held_out == 0:
            yield "nothing is held out"


class Sums(Base):
    """Sums of numbers.

    More about them.
    """

    held_out: float = option(0.5, "share that is held out", low=0, high=1)
    words: list[str] = option(["a"], "words")

    def contradictions(self, config: object) -> Iterator[str]:
        if self.words == config:
            yield "words"


def test_keys_are_the_options_of_a_class_and_its_bases() -> None:
    keys = keys_of(Sums, "task", "sums")
    assert keys is not None and keys.__doc__ == "Sums of numbers."
    found = keys()
    assert vars(found) == {"name": "sums", "held_out": 0.5, "gold": "none", "words": ["a"]}
    assert keys().words is not keys().words
    assert {item.name: item.metadata["legal"] for item in fields(keys)}["name"] == ("sums",)
    assert pickle.loads(pickle.dumps(OmegaConf.structured(keys))) == vars(found)
    assert Sums.of(keys(held_out=0.1)).held_out == 0.1


def test_contradictions_of_bases_come_first_and_may_see_the_whole_configuration() -> None:
    keys = keys_of(Sums, "task", "sums")
    assert keys is not None
    stated = keys.contradictions  # type: ignore[attr-defined]
    assert [*lines_of(stated, keys(held_out=0), ["a"])] == ["nothing is held out", "words"]
    assert [*lines_of(stated, keys(), ["b"])] == []


def test_a_name_belongs_to_one_module() -> None:
    registry = Registry("task")
    registry.add(Entry("task", "sums", Sums, "a", ""))
    registry.add(Entry("task", "sums", Sums, "a", "again"))
    with pytest.raises(UserError, match=r"task=sums: found it in b and in a"):
        registry.add(Entry("task", "sums", Sums, "b", ""))
    with pytest.raises(UserError, match=r"found 'sumz' \(did you mean sums\?\); legal: sums"):
        registry["sumz"]


def test_what_comes_with_the_package_is_found() -> None:
    assert {"add", "addition", "qa", "mmlu", "text", "corpus"} <= {*TASKS.names()}
    assert {"dpo", "exact", "grpo", "ppo", "reinforce", "sft", "star"} <= {*STRATEGIES.names()}
    assert {"balanced", "beam", "exhaustive", "tree"} <= {*SEARCHES.names()}
    assert {"ponder", "trl"} <= {*ENGINES.names()}
    assert {"none", "wandb", "tensorboard"} <= {*TRACKERS.names()}
    assert REWARDS["length"].weight == -0.1 and REWARDS["words"].requires == {"text"}


def test_plugins_are_read_from_words_and_from_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "ponder.json").write_text('{"config": {"plugins": ["saved"]}}')
    assert plugins_of(["plugins=[a,b.c]", "seed=1", f"model.name={tmp_path}"]) == [
        "a", "b.c", "saved"]
    assert plugins_of(["+plugins=a", "model.name=gpt2"]) == ["a"]


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_registering_loads_nothing_heavy(tmp_path: Path) -> None:
    """Neither what comes with the package nor a plugin written the same way."""
    write_plugins(tmp_path)
    said = python("import sys; from ponder.config import registry; "
                  f"registry.discover(registry.plugins_of([{PLUGINS!r}])); "
                  f"print(sorted({{*{HEAVY!r}}} & {{*sys.modules}}), "
                  "'plain' in registry.STRATEGIES)", tmp_path)
    assert said == "[] True\n"


@pytest.mark.slow
def test_a_plugin_is_known_to_help_and_to_the_command_line(tmp_path: Path) -> None:
    write_plugins(tmp_path)
    preset = tmp_path / "my" / "experiment" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\n# Mine.\nplugins: [my_rewards]\n"
                      "trainer:\n  lr: 0.125\n")
    words = ["plugins=my_strategies,my_searches", "--config-dir", "my"]
    code = f"from ponder.cli.main import main; main([*{words!r}, '--help'])"
    said = python(code, tmp_path)
    for line in ("plain ", "guess ", "mine ", "together "):
        assert f"\n      {line}" in said
    words += ["experiment=mine", "think=true", "strategy=plain", "strategy.scaled=2",
              "reward=half", "rollout=search", "rollout.method=guess", "rollout.guess.tries=5",
              "together=true", "--cfg", "job"]
    said = python(f"from ponder.cli.main import main; main({words!r})", tmp_path)
    for line in ("lr: 0.125", "scaled: 2", "half: 0.5", "tries: 5", "model: shared"):
        assert f"  {line}" in said, line


def test_an_option_without_a_type_is_refused() -> None:
    class Untyped:
        bits = option(3, "bits")

    with pytest.raises(UserError) as error:
        keys_of(Untyped, "task", "untyped")
    assert str(error.value).startswith("Untyped.bits: found an option without a type; legal: ")


def test_a_subclass_adds_to_the_keys_of_a_registered_class() -> None:
    """Those of Qa are in a dataclass of their own."""
    class Capitals(Qa):
        countries: int = option(3, "how many")

    keys = keys_of(Capitals, "task", "capitals")
    assert keys is not None and issubclass(keys, QaKeys)
    assert {**vars(QaKeys()), "name": "capitals", "countries": 3} == vars(keys())
    assert QaKeys().name == "qa"


def test_a_class_without_what_is_called_later_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=bare: found \S*Bare without credit\(\); legal: "
                                        "a class with credit, loss$"):
        @strategy("bare")
        class Bare(Strategy):
            pass
    assert "bare" not in STRATEGIES


def test_a_plugin_that_registers_nothing_gets_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    said = python("from ponder.config.registry import discover; "
                  "print(discover(['empty']), discover(['empty']))", tmp_path)
    assert said.startswith("['plugins=[empty]: registers nothing") and said.endswith("] []\n")
