"""The door: `ponder.cli.main.main`, from the words of a command line to an exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

import ponder.cli.actions
from ponder.cli import main as cli
from ponder.cli.help import CHOSEN, choices, help_text
from ponder.config import resolve
from ponder.config.errors import UserError
from ponder.config.spine import CONF, VARIANTS, Config, program
from ponder.training import run_directory
from support.processes import Forked
from support.small import Door

RUN = Path(__file__).resolve().parents[2] / "run.py"
SMALL = ["model.d_model=8", "model.layers=1", "task.test_questions=20", "trainer.max_steps=1",
         "trainer.train_batch_size=4", "trainer.threads=1"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path]]:
    """What `actions.run` was called with, instead of doing it."""
    calls: list[tuple[Config, Path]] = []
    monkeypatch.setattr(ponder.cli.actions, "run",
                        lambda config, directory: calls.append((config, directory)))
    return calls


# --- one line, code 2, nothing left behind ------------------------------------------------------


@pytest.mark.parametrize("word, line", [
    ("trainer.train_batch_size=abc", "trainer.train_batch_size=abc: found 'abc'; legal: a whole "
     "number"),
    ("task.data=caf\udce9", "task.data: found '\\udce9', half a character, in 'caf\\udce9'; "),
    ("trainer.lr=${foo}", "trainer.lr: found ${foo}, which is no key; legal: a number"),
    ("+foo=1", "foo: no such key; legal here: action, "),
    ("strategy=gpro", "strategy=gpro: found 'gpro' (did you mean grpo?); legal: "),
    ("trainer.lr=[1", "trainer.lr=[1: cannot be read; legal: "),
    ("think=maybe", "think=maybe: found 'maybe'; legal: true or false"),
    ("super=true", "variant=[super]: found thinker.tokens=0; legal: "),
    ("hydra.run.dir=/proc/no", "/proc/no: cannot be made (No such file or directory); legal: "
     "hydra.run.dir=<directory that can be written>"),
    ("--no-such-option", "unrecognized arguments: --no-such-option; legal: "),
    ("--resolve", "The --resolve flag can only be used in conjunction with --cfg"),
    ("--config-name=no", "Cannot find primary config 'no'."),
])
def test_a_mistake_gets_one_line_and_leaves_nothing(word: str, line: str, door: Door,
                                                    ran: list, tmp_path: Path) -> None:
    code, out, err = door(word)
    assert (code, out, ran) == (2, "", [])
    assert err.startswith(f"error: {line}") and err.endswith("\n") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_words_are_utf8_whatever_the_locale_is() -> None:
    """In a locale without such letters Python hands on the bytes of the words, one by one."""
    assert cli.as_utf8("caf\udcc3\udca9") == "café" and cli.as_utf8("é") == "é"
    assert cli.as_utf8("caf\udce9") == "caf\udce9"  # no UTF-8: told by the check


def test_a_mistake_found_by_an_action_gets_one_line_too(door: Door, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config, directory: Path) -> None:
        raise UserError("x=1: found 1; legal: 2")

    monkeypatch.setattr(ponder.cli.actions, "run", refuse)
    assert door() == (2, "", "error: x=1: found 1; legal: 2\n")
    assert not list(tmp_path.iterdir())


def test_a_refused_run_keeps_what_others_have_written(door: Door, ran: list,
                                                      tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "metrics.jsonl").write_text("{}\n")
    assert door("hydra.run.dir=kept", "trainer.lr=nan")[0] == 2
    assert (tmp_path / "kept" / "metrics.jsonl").read_text() == "{}\n"
    (tmp_path / "empty").mkdir()
    assert door("hydra.run.dir=empty", "trainer.lr=nan")[0] == 2
    assert (tmp_path / "empty").is_dir()


def test_a_bug_gets_one_line_and_leaves_its_traceback(door: Door, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config, directory: Path) -> None:
        raise ValueError("a bug\nof two lines")

    with monkeypatch.context() as patch:
        patch.setattr(ponder.cli.actions, "run", fail)
        assert door("hydra.run.dir=run") == (1, "", (
            "error: ValueError: a bug of two lines; the traceback is in run/error.txt\n"))
    text = Path("run/error.txt").read_text()
    assert text.startswith("Traceback (most recent call last):\n") and "in fail\n" in text
    monkeypatch.setattr(ponder.cli.actions, "run", lambda config, directory: None)
    assert door("hydra.run.dir=run", "trainer.lr=nan")[0] == 2
    assert Path("run/error.txt").is_file()  # that call did not run
    assert door("hydra.run.dir=run") == (0, "", "") and not Path("run/error.txt").exists()


def test_a_sweep_goes_on_after_a_bug(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def fail(config: Config, directory: Path) -> None:
        seeds.append(config.seed)
        assert config.seed != 1

    monkeypatch.setattr(ponder.cli.actions, "run", fail)
    code, _, err = door("-m", "seed=0,1,2", "hydra.sweep.dir=sweep")
    assert (code, seeds) == (1, [0, 1, 2]) and len(list(Path("sweep").glob("*/error.txt"))) == 1
    assert err.startswith("error: AssertionError: ") and err.count("\n") == 1


def test_an_interrupted_run_says_130(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: Config, directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ponder.cli.actions, "run", interrupt)
    assert door()[0] == 130


# --- good words ---------------------------------------------------------------------------------


def test_a_run_gets_its_configuration_and_its_directory(door: Door, ran: list) -> None:
    assert door("task.max=10", "think=true", "run_type=quick") == (0, "", "")
    (config, directory), = ran
    assert (config.task.max, config.thinker.tokens, config.thinker.stops) == (10, 1, True)
    assert re.fullmatch(r"star_runs/quick_\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", str(directory))
    assert (directory / ".hydra" / "config.yaml").is_file()


def test_a_sweep_goes_on_after_a_mistake_and_still_says_2(door: Door, ran: list,
                                                          tmp_path: Path) -> None:
    code, _, err = door("seed=1", "-m", "think=false,true", "clean=true", "task.max=10")
    assert code == 2
    assert err == ("error: job 0 (variant=[clean] seed=1 task.max=10): variant=[clean]: found "
                   "thinker.tokens=0; legal: together with think, as in variant=[think,clean]\n")
    assert [(config.seed, config.reward) for config, _ in ran] == [(1, {"gold_thought": 1.0})]
    folders = [path.name for path in tmp_path.glob("star_runs/*/*") if path.is_dir()]
    assert sorted(folders) == sorted(directory.name for _, directory in ran)
    assert all(re.fullmatch(r"\d\d-\d\d-\d\d_\d", name) for name in folders)


@pytest.mark.slow
def test_runs_begun_in_one_second_keep_their_own_configurations(tmp_path: Path) -> None:
    rates = ["0.001", "0.002", "0.003"]
    runs = [Forked(*SMALL, "task.max=10", f"trainer.lr={rate}", "hydra.run.dir=runs/${now:%Y}",
                   cwd=tmp_path) for rate in rates]
    for one in runs:
        assert (one.communicate()[1], one.returncode) == ("", 0)
    found = sorted((tmp_path / "runs").iterdir())
    year = found[0].name
    assert [path.name for path in found] == [year, f"{year}_1", f"{year}_2"]
    told = []
    for path in found:
        trained = json.loads(next(path.glob("checkpoint_*/ponder.json")).read_text())["config"]
        told.append(str(trained["trainer"]["lr"]))
        assert f"  lr: {told[-1]}\n" in (path / ".hydra" / "config.yaml").read_text()
        assert f"- trainer.lr={told[-1]}\n" in (path / ".hydra" / "overrides.yaml").read_text()
        assert f"trainer.lr={told[-1]}" in json.loads((path / "words.json").read_text())
        assert str(path.resolve()) in (path / ".hydra" / "hydra.yaml").read_text()
        assert f"runs/{path.name}: " in (path / "run.log").read_text()
    assert sorted(told) == rates


def test_sweeps_begun_in_one_second_keep_their_own_jobs(door: Door, ran: list) -> None:
    for rate in ("0.1", "0.2"):
        assert door("-m", "seed=0,1", f"trainer.lr={rate}", "sweep.dir=s",
                    "hydra.sweep.subdir=${now:%Y}_${hydra.job.num}")[0] == 0
    names = [directory.name.partition("_")[2] for _, directory in ran]
    assert names == ["0", "1", "0_1", "1_1"]
    for config, directory in ran:
        assert f"  lr: {config.trainer.lr}\n" in (directory / ".hydra/config.yaml").read_text()


def test_nothing_is_written_into_a_directory_before_its_lock(door: Door, ran: list,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             ) -> None:
    there = []
    first = run_directory.lock
    monkeypatch.setattr(run_directory, "lock", lambda directory: (
        there.append([*directory.iterdir()]), first(directory))[1])
    assert door("hydra.run.dir=run")[0] == 0 and there == [[]] and len(ran) == 1


def test_an_action_without_a_directory_touches_nothing(trained: Path, door: Door,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    Path("error.txt").write_text("mine")
    checkpoint, = trained.glob("checkpoint_*")
    assert door("action=generate", f"model.name={checkpoint}", "prompt=1+2=")[0] == 0
    assert door("action=generate", f"model.name={checkpoint}", "prompt=no")[0] == 2
    assert door("action=sweep", f"sweep.dir={trained}")[0] == 2
    monkeypatch.setattr("ponder.generation.terminal.run", lambda config: [][0])
    code, _, err = door("action=generate", f"model.name={checkpoint}", "prompt=1+2=")
    assert code == 1 and err.endswith("error: IndexError: list index out of range\n")
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("error.txt", "mine")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_problems_are_written(suffix: str, door: Door, tmp_path: Path) -> None:
    code, out, err = door("action=problems", f"out=sub/p.{suffix}", "task.max=10",
                          "trainer.threads=1")
    assert (code, err) == (0, "") and out == f"100 problems written to sub/p.{suffix}\n"
    path = tmp_path / "sub" / f"p.{suffix}"
    table = pd.read_csv(path, dtype=str) if suffix == "csv" else pd.read_parquet(path)
    answers = dict(zip(table.question, table.answer, strict=True))
    assert len(answers) == 100 and answers["7+8="] == "5"
    assert set(table.split) == {"train", "test"}
    other = "parquet" if suffix == "csv" else "csv"
    assert door("action=problems", f"out=q.{other}", f"task.data={path}", "task.max=10",
                "trainer.threads=1")[0] == 0


@pytest.mark.parametrize("out", ["/dev/null/x.csv", "/proc/x.parquet"])
def test_problems_that_cannot_be_written(out: str, door: Door) -> None:
    code, said, err = door("action=problems", f"out={out}", "task.max=10", "trainer.threads=1")
    assert (code, said) == (2, "")
    assert err.startswith(f"error: out={out}: cannot be written (") and err.count("\n") == 1


def test_an_existing_file_survives_a_full_disk(door: Door, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: pd.DataFrame, path: Path, **options: Any) -> None:
        Path(path).write_text("half a table")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "p.csv").write_text("kept")
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    code, said, err = door("action=problems", "out=p.csv", "task.max=10", "trainer.threads=1")
    assert (code, said) == (2, "") and err.startswith("error: out=p.csv: cannot be written (")
    assert (tmp_path / "p.csv").read_text() == "kept" and not [*tmp_path.glob(".p.csv*")]


@pytest.mark.parametrize("folder", [[], ["hydra.run.dir=new/run"]])
def test_what_a_full_disk_has_no_room_for_is_named_and_nothing_empty_is_left(
        folder: list[str], door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(node: object, path: Path) -> None:
        path.write_text("half a")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OmegaConf, "save", full)
    code, out, err = door("task.max=10", *folder)
    assert (code, out) == (2, "") and re.fullmatch(
        r"error: \S+/\.hydra/config\.yaml: cannot be written \(No space left on device\); legal: a "
        r"disk with room; what was written before is whole\n", err)
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_written_to_is_not_resumed(door: Door, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.json").write_text("[]")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, said, err = door(f"resume={tmp_path}")
    assert (code, said) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"error: resume={tmp_path}: found a directory that cannot be written")


def test_a_damaged_data_file_gets_one_line(door: Door, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,answer\n1+1=,2\n1+x=,2\n")
    code, out, err = door("task.data=x.csv", *SMALL)
    assert (code, out) == (2, "")
    assert err == ("error: x.csv, line 3: found question '1+x=' and answer '2'; legal: 2 whole "
                   "numbers joined by +, and a whole number\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


# --- evaluating a checkpoint --------------------------------------------------------------------


def fake_checkpoint(folder: Path, config: dict[str, Any] | str) -> str:
    """A directory that looks like a checkpoint from outside."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "ponder.json").write_text(
        config if isinstance(config, str) else json.dumps({"config": config}))
    return f"model.name={folder.name}"


def test_a_checkpoint_brings_its_configuration(door: Door, ran: list, tmp_path: Path) -> None:
    """Of any strategy, rollout and reward, though the default run has others."""
    words = ["experiment=add_think_blind_clean", "task.max=1000", "task.seed=5", "seed=7",
             "model.d_model=32", "strategy=grpo", "strategy.clip=0.5", "trainer.lr=0.5",
             "trainer.device=cpu", "logger=tensorboard", "run_type=first"]
    assert door(*words)[0] == 0
    trained = asdict(ran.pop()[0])
    name = fake_checkpoint(tmp_path / "trained", trained)
    assert door("action=evaluate", name) == (0, "", "")
    found = asdict(ran.pop()[0])
    differing = {key for key in found if found[key] != trained[key]}
    assert differing == {"action", "model", "trainer", "logger", "run_type"}
    assert found["model"] == {**trained["model"], "name": "trained"}
    assert found["trainer"] == {**trained["trainer"], "device": "auto"}
    assert (found["logger"]["kind"], found["run_type"]) == ("none", "train")


def test_typed_words_outrank_the_checkpoint(door: Door, ran: list, tmp_path: Path) -> None:
    assert door("experiment=add_think", "task.max=1000", "seed=7")[0] == 0
    name = fake_checkpoint(tmp_path / "trained", asdict(ran.pop()[0]))
    assert door("action=evaluate", name, "seed=3", "task.test_questions=50",
                "answerer.sees=[thought]", "experiment=add_think")[0] == 0
    config = ran.pop()[0]
    assert (config.seed, config.task.test_questions, config.answerer.sees) == (3, 50, ["thought"])
    assert (config.task.max, config.task.thought_length, config.task.seed) == (1000, 3, 7)
    assert door("action=evaluate", name, "task.max=100000")[0] == 0
    config = ran.pop()[0]
    assert (config.task.thought_length, config.thinker.tokens) == (5, 3)  # computed; as trained


def test_other_variants_than_the_checkpoint_has_are_refused(door: Door, ran: list,
                                                            tmp_path: Path) -> None:
    assert door("experiment=add_think_blind")[0] == 0
    name = fake_checkpoint(tmp_path / "trained", asdict(ran.pop()[0]))
    assert door("action=evaluate", name, "think=true") == (2, "", (
        "error: variant=[think]: found a checkpoint trained otherwise; legal: [think,blind], or "
        "no word about it\n"))


def test_a_key_that_a_run_did_not_know_had_its_default(door: Door, ran: list,
                                                       tmp_path: Path) -> None:
    assert door("experiment=add_think_blind", "seed=3")[0] == 0
    config = asdict(ran.pop()[0])
    older = json.loads(json.dumps(config))
    del older["thinker"]["stage_steps"], older["task"]["thought_length"]
    (tmp_path / "ponder.json").write_text(json.dumps({"config": older}))
    run_directory.same_run(tmp_path, config, {}, print)
    for group, key in (("thinker", "stage_steps"), ("task", "thought_length")):
        other = {**config, group: {**config[group], key: 7}}
        line = f"{group}.{key}=7: found {config[group][key]} in the run that is in "
        with pytest.raises(UserError, match=line):
            run_directory.same_run(tmp_path, other, {}, print)
    newer = {**config, "thinker": {**config["thinker"], "unheard": 1}}
    (tmp_path / "ponder.json").write_text(json.dumps({"config": newer}))
    with pytest.raises(UserError, match="found 1 in the run"):
        run_directory.same_run(tmp_path, config, {}, print)


def test_another_shape_than_the_checkpoint_has_is_refused(door: Door, ran: list,
                                                          tmp_path: Path) -> None:
    """It would be ignored, and comparisons would show it."""
    name = "model.name=trained"
    (tmp_path / "trained").mkdir()
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False}
    (tmp_path / "trained" / "config.json").write_text(json.dumps(shape))
    for words in (["model.d_model=64", "model.tie_embeddings=false"], ["model=tiny"], []):
        assert door(name, *words) == (0, "", "")
        ran.pop()
    assert door(name, "model.layers=3") == (2, "", (
        "error: model.layers=3: found model.name=trained, where it is 2; legal: that, or no word "
        "about it\n"))
    assert door(name, "model=nano")[2].startswith("error: model.d_model=128: found model.name=")
    assert door(name, "model.tie_embeddings=true")[0] == 2
    (tmp_path / "trained" / "config.json").write_text("[]")
    assert door(name, "model.layers=3")[0] == 0 and ran  # told where it is loaded


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": {}}', '{"config": 1}',
                                     '{"config": {"task": {"name": "sub"}}}'])
def test_a_damaged_configuration_gets_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ponder.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        resolve._of_checkpoint(path)
    line = str(error.value)
    assert line.startswith(f"{path}: cannot be read (") and "\n" not in line
    assert line.endswith("; legal: the ponder.json of a checkpoint of this version")


def test_a_key_of_another_version_is_named(door: Door, ran: list, tmp_path: Path) -> None:
    assert door("think=true")[0] == 0
    content = asdict(ran.pop()[0])
    content["trainer"]["momentum"] = 0.9
    code, _, err = door("action=evaluate", fake_checkpoint(tmp_path / "old", content))
    assert code == 2 and err.startswith("error: old/ponder.json: cannot be read (")
    assert "momentum" in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setattr(sys, "argv", ["run.py"])
        words = ["think=true", "clean=true", "task.max=10", "hydra.run.dir=run", *SMALL]
        assert cli.main(words) == 0
        return Path("run").resolve()


def test_a_checkpoint_evaluates_to_the_accuracy_of_its_training(trained: Path, door: Door) -> None:
    first = json.loads((trained / "summary.json").read_text())
    checkpoint, = trained.glob("checkpoint_*")
    code, out, err = door("action=evaluate", f"model.name={checkpoint}")
    assert (Path(out.split("results: ")[1].strip())).is_file()
    assert (code, err) == (0, "") and f"accuracy {first['accuracy']:.4f}" in out
    summary, = Path("star_runs").glob("*/*/summary.json")
    again = json.loads(summary.read_text())
    for key in ("accuracy", "necessity", "weights_sha256", "seed"):
        assert again[key] == first[key], key


@pytest.mark.parametrize("damage", ["weights", "config", "nothing there", "other task"])
def test_a_damaged_checkpoint_gets_one_line(damage: str, trained: Path, door: Door) -> None:
    original, = trained.glob("checkpoint_*")
    checkpoint = shutil.copytree(original, Path("bad"))
    words = ["action=evaluate", "model.name=bad"]
    if damage == "weights":
        weights = checkpoint / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "config":
        (checkpoint / "config.json").write_text("{")
    elif damage == "nothing there":
        (checkpoint / "model.safetensors").unlink()
    else:
        words.append("task.max=9")
    code, out, err = door(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: model.name=bad: ") and err.count("\n") == 1
    assert "legal: " in err and not Path("star_runs").exists()


# --- help and --cfg -----------------------------------------------------------------------------


def test_help_names_every_group_choice_and_flag(door: Door) -> None:
    code, text, err = door("--help")
    assert (code, err) == (0, "") and text == help_text(CONF) + "\n"
    for group in CHOSEN:
        options = choices(group)
        assert f"\n  {group}=\n" in text or group == "variant" or not options
        for name, about in options.items():
            assert about and re.search(rf"^ +{name} +{re.escape(about)}$", text, re.M), name
    assert set(choices("variant")) >= set(VARIANTS)
    assert len(re.findall(r"^  python run\.py", text, re.M)) == 16
    assert door("-h") == door("task.max=10", "--help") == (0, text, "")


def test_the_examples_of_the_help_are_good_words(door: Door, ran: list) -> None:
    lines = re.findall(r"^  python run\.py ?(.*?)(?:   .*)?$", help_text(CONF), re.M)
    for line in lines[:4]:
        code, _, err = door(*line.replace("seed=0,1,2", "seed=2").split())
        assert (code, err) == (0, ""), line
    assert [config.seed for config, _ in ran] == [0, 0, 0, 2]
    assert "seed=0,1,2" in lines[3] and "model.name=" in lines[4]


def test_the_configuration_is_printed_and_nothing_run(door: Door, ran: list,
                                                      tmp_path: Path) -> None:
    code, out, err = door("think=true", "--cfg", "job", "task.max=10")
    assert (code, err, ran) == (0, "", []) and not list(tmp_path.iterdir())
    assert "\n  max: 10\n" in out and out.startswith("action: train\n")


ANSWER = """
import sys
sys.argv = ["run.py", *sys.argv[1:]]
from ponder.cli.main import main
code = main()
heavy = {"torch", "pandas", "numpy", "rich"} & set(sys.modules)
sys.exit(f"{heavy}" if heavy else code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["--cfg", "job", "think=true"]])
def test_quick_answers_load_no_torch(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ANSWER, *words], cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout) > 500


ROWS = """
import sys
from pathlib import Path
from ponder.cli.main import main
for table, *words in {cases!r}:
    Path("x.csv").write_text(table)
    assert main(["task.data=x.csv", *words]) == 2
print({{"torch", "transformers", "pandas"}} & {{*sys.modules}}, "ponder.cli.main" in sys.modules)
"""
SUPER = "variant=[think,super]"
ASKED = ["task=half", "thinker.asked=4", "think=true"]
WRONG_ROWS = [  # (table, words, the line)
    ("question,answer\n1+1=,2\n1+x=,2\n", ["task=add"], "x.csv, line 3: found question '1+x=' and"),
    ("question,answer\n1+100=,2\n", ["task=add"], "x.csv, line 2: found question '1+100=' and"),
    ("question,answer\n1+1=,3\n2+2=,4\n", ["task=add", "task.check=refuse", "task.held_out=0.5"],
     "task.data=x.csv: found 1 of 2 rows with another answer"),
    ("question,answer\n0 1 1 0,0\n0 1 2 0,0\n", ["task=parity", "task.steps=4"],
     "x.csv, line 3: task=parity: question '0 1 2 0': found question symbol '2'"),
    ("question,answer\n0 1 1 0 1,0\n", ["task=parity", "task.steps=4"],
     "x.csv, line 2: task=parity: question '0 1 1 0 1': found a question of 5 symbols"),
    ("question,answer\n0 1,\n", ["task=parity", "task.steps=4"],
     "x.csv, line 2: task=parity: question '0 1': found no symbol in its answer"),
    ("question,answer,thought\n0 1 1 0,0,0 1 0 x\n", ["task=parity", "task.steps=4", SUPER],
     "x.csv, line 2: task=parity: question '0 1 1 0': found thought symbol 'x'"),
    ("question,answer\n0 1 1 0,0\n0 1 1 1,1\n", ["task=parity", "task.steps=4", SUPER,
     "task.held_out=0.5"], "task.data=x.csv: found rows without a thought"),
    ("question,answer\n0 1 1 0,0\n0 1 1 1,1\n", ["task=parity", "task.steps=4", "task.held_out=0.5",
     "variant=[think,fixed]", "thinker.pace=1"], "task.data=x.csv: found rows without a thought"),
    ("question,answer,split\n01,a,train\n02,a,test\n", ASKED,
     "task.data=x.csv: question '02', answer 'a': found the answer 'b' to '.'"),
    ("question,answer,split\n01,a,train\n02,b,test\n", [*ASKED, "thinker.asked=12"],
     "thinker.asked=12: found task=half with 11"),
]


@pytest.mark.slow
def test_a_wrong_row_of_a_toy_table_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    cases = [(table, *words) for table, words, _ in WRONG_ROWS]
    done = subprocess.run([sys.executable, "-c", ROWS.format(cases=cases)], cwd=tmp_path,
                          capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert [line[:len(said) + 7] for line, (*_, said) in zip(lines, WRONG_ROWS, strict=True)] == [
        f"error: {said}" for *_, said in WRONG_ROWS]
    assert done.stdout == "set() True\n" and os.listdir(tmp_path) == ["x.csv"]


def test_a_precision_that_is_slow_here_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    said = "faster in float32, which trainer.dtype=auto would take\n"
    for units in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=units: {"amx_bf16": amx})
        for dtype in ("bfloat16", "auto", "float32"):
            code, out, err = door(*SMALL, f"trainer.dtype={dtype}", "resume=never",
                                  "hydra.run.dir=run")
            assert (code, err) == (0, "")
            assert (said in out) == (dtype == "bfloat16" and not units)
            assert ("on cpu, in bfloat16\n" in out) == (
                dtype == "bfloat16" or (dtype == "auto" and units))


@pytest.mark.slow
def test_run_py_is_the_door(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, RUN, "trainer.train_batch_size=abc"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: trainer.train_batch_size=abc: found 'abc'; legal: a whole "
                           "number\n")


@pytest.mark.slow
def test_help_into_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen([sys.executable, str(RUN), "--help"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=300) == 0


@pytest.mark.parametrize(("typed", "shown"), [
    ("run.py", "python run.py"), ("../lab/run.py", "python ../lab/run.py"),
    ("/env/bin/ponder", "ponder"), ("/env/site-packages/ponder/__main__.py", "python -m ponder"),
    ("/env/site-packages/submitit/core/_submit.py", "python run.py"), ("", "python run.py")])
def test_users_are_shown_the_command_that_they_typed(typed: str, shown: str,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    assert program() == shown


def test_the_version_is_that_of_ponder(door: Door) -> None:
    assert door("--version") == (0, f"ponder {ponder.__version__}\n", "")


def test_an_experiment_is_named_where_a_task_needs_other_keys(door: Door, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Once upon a time. " * 99)
    code, _, err = door("task=text", "task.data=book.txt")
    assert code == 2 and err.count("\n") == 1
    assert err.endswith("; experiment=normal has all that goes with it\n")
    assert "experiment=" not in door("task=text", "task.data=none.txt")[2]
    assert "has all" not in door("task=add", "trainer.rehearse=9")[2]


def test_help_with_a_plugin_that_is_not_there_is_one_line(door: Door) -> None:
    code, out, err = door("--help", "plugins=[nothere]")
    assert (code, out) == (2, "") and err.startswith("error: plugins=[nothere]: ")
    assert err.count("\n") == 1
