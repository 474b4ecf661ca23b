"""Files as they are found after a crash, a full disk, or a slip of an editor: each ends in one line
that names it, with exit code 2; data files before a model is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ponder.cli import actions
from support.processes import run
from support.questions import WORDS, file_of, load_plain, save_language_model
from support.small import Door

QA = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
      "model=hf", "task.test_questions=4", "thinker.tokens=4", "trainer.device=cpu"]
LOOK = ["action=evaluate", *QA, "task.data=questions.csv"]
ADD = ["task=add", "variant=[think]", "rollout=sample", "strategy=grpo", "task.max=10",
       "task.test_questions=8", "thinker.tokens=2", "model.d_model=16", "model.layers=1",
       "trainer.max_steps=1", "trainer.device=cpu"]
TEXT = ["experiment=normal", "task.length=12", "task.test_passages=4", "trainer.max_steps=1",
        "model.d_model=16", "model.layers=1", "trainer.device=cpu"]
Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, an adapter, a run of a toy task, and tables."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("whole")
    save_language_model(folder / "model")
    net = get_peft_model(load_plain(folder / "model")[0], LoraConfig(
        r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    net.save_pretrained(folder / "adapter")
    WORDS.tokenizer.save_pretrained(folder / "adapter")
    file_of(folder / "questions.csv", 24)
    run(folder, *ADD, "hydra.run.dir=run")
    return folder


@pytest.fixture
def place(whole: Path, door: Door, tmp_path: Path) -> Door:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return door


def text(name: str, words: str) -> Break:
    return lambda folder: (folder / name).write_text(words)


def raw(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def gone(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def half(name: str) -> Break:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[:(folder / name).stat().st_size // 2])


def folder_at(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    return change


def file_at(name: str) -> Break:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).write_text("")
    return change


def edited(name: str, **changes: Any) -> Break:
    """A JSON file with other values."""
    return lambda folder: (folder / name).write_text(json.dumps({
        key: value for key, value in {**json.loads((folder / name).read_text()), **changes}.items()
        if value is not ...}))


def weights(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def break_it(folder: Path) -> None:
        known = load_file(folder / name)
        change(known)
        save_file(known, folder / name, {"format": "pt"})
    return break_it


def table(name: str, **columns: Any) -> Break:
    return lambda folder: pd.DataFrame(columns).to_parquet(folder / name)


def linked(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")
    return change


def drop(part: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(known: dict[str, torch.Tensor]) -> None:
        for name in [name for name in known if part in name]:
            del known[name]
    return change


def narrow(known: dict[str, torch.Tensor]) -> None:
    name = max(known, key=lambda one: known[one].dim())
    known[name] = known[name][..., :-1].contiguous()


def nan(known: dict[str, torch.Tensor]) -> None:
    known[max(known, key=lambda one: known[one].numel())].view(-1)[5] = torch.nan


BINARY = bytes(range(256)) * 20
NO_JSON = '{"a": [1, '
MODELS: dict[str, tuple[Break, str]] = {
    "no config": (gone("model/config.json"), "model"),
    "empty config": (text("model/config.json", ""), "config.json"),
    "a list as config": (text("model/config.json", "[1, 2]"), "model"),
    "half a config": (half("model/config.json"), "config.json"),
    "a binary config": (raw("model/config.json", BINARY), "config.json"),
    "a folder as config": (folder_at("model/config.json"), "model"),
    "a size in words": (edited("model/config.json", hidden_size="big"), "model"),
    "no heads": (edited("model/config.json", num_attention_heads=0), "model"),
    "layers below zero": (edited("model/config.json", num_hidden_layers=-1), "model"),
    "more layers": (edited("model/config.json", num_hidden_layers=3), "model"),
    "fewer tokens": (edited("model/config.json", vocab_size=100), "model"),
    "another width": (edited("model/config.json", hidden_size=64), "model"),
    "no type": (edited("model/config.json", model_type=...), "model"),
    "an unknown type": (edited("model/config.json", model_type="foo"), "model"),
    "another type": (edited("model/config.json", model_type="gpt2"), "model"),
    "no weights": (gone("model/model.safetensors"), "model"),
    "no weights in it": (raw("model/model.safetensors", b""), "model.safetensors"),
    "half the weights": (half("model/model.safetensors"), "model.safetensors"),
    "no header": (raw("model/model.safetensors", BINARY), "model.safetensors"),
    "a folder as weights": (folder_at("model/model.safetensors"), "model"),
    "a link to nowhere": (linked("model/model.safetensors"), "model"),
    "a layer left out": (weights("model/model.safetensors", drop("layers.1.mlp")), "model"),
    "a matrix too narrow": (weights("model/model.safetensors", narrow), "model"),
    "a number that is none": (weights("model/model.safetensors", nan), "not finite"),
    "a part that is missing": (text("model/model.safetensors.index.json", json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors"}})), "index.json"),
    "an empty tokenizer": (text("model/tokenizer.json", ""), "tokenizer.json"),
    "half a tokenizer": (half("model/tokenizer.json"), "tokenizer.json"),
    "no model in it": (text("model/tokenizer.json", '{"version": "1.0"}'), "model"),
    "no tokenizer": (gone("model/tokenizer.json"), "model"),
    "a list as tokenizer": (text("model/tokenizer_config.json", "[]"), "model"),
    "half its settings": (text("model/tokenizer_config.json", NO_JSON), "tokenizer_config.json"),
    "a template that is none": (text("model/chat_template.jinja", "{% for m in %}"), "model"),
    "an end in words": (edited("model/generation_config.json", eos_token_id="x"), "model"),
    "half of how it writes": (text("model/generation_config.json", NO_JSON), "generation_config"),
}
ADAPTERS: dict[str, tuple[Break, str]] = {
    "no settings": (gone("adapter/adapter_config.json"), "adapter"),
    "half its settings": (half("adapter/adapter_config.json"), "adapter_config.json"),
    "a list as settings": (text("adapter/adapter_config.json", "[]"), "adapter"),
    "a rank in words": (edited("adapter/adapter_config.json", r="four"), "adapter"),
    "an unknown kind": (edited("adapter/adapter_config.json", peft_type="FOO"), "adapter"),
    "no base": (edited("adapter/adapter_config.json", base_model_name_or_path=None), "model.base"),
    "a base that is gone": (edited("adapter/adapter_config.json",
                                   base_model_name_or_path="gone"), "model.base=gone"),
    "no weights": (gone("adapter/adapter_model.safetensors"), "adapter"),
    "half the weights": (half("adapter/adapter_model.safetensors"), "adapter_model.safetensors"),
    "another rank": (edited("adapter/adapter_config.json", r=3), "adapter"),
    "a layer left out": (weights("adapter/adapter_model.safetensors", drop("layers.1")), "adapter"),
    "other layers": (edited("adapter/adapter_config.json", target_modules=["foo"]), "adapter"),
}
OWN = "run/checkpoint_1"
CHECKPOINTS: dict[str, tuple[Break, str]] = {
    "no config": (gone(f"{OWN}/config.json"), OWN),
    "half a config": (half(f"{OWN}/config.json"), "config.json"),
    "no weights": (gone(f"{OWN}/model.safetensors"), OWN),
    "half the weights": (half(f"{OWN}/model.safetensors"), "model.safetensors"),
    "other sizes": (edited(f"{OWN}/config.json", n_embd=24), OWN),
    "a size in words": (edited(f"{OWN}/config.json", n_layer="two"), OWN),
    "a layer left out": (weights(f"{OWN}/model.safetensors", drop("mlp")), OWN),
    "a number that is none": (weights(f"{OWN}/model.safetensors", nan), "not finite"),
    "half of what it is": (text(f"{OWN}/ponder.json", NO_JSON), "ponder.json"),
    "a list as what it is": (text(f"{OWN}/ponder.json", "[]"), "ponder.json"),
    "nonsense in it": (text(f"{OWN}/ponder.json", '{"config": {"task": 7}}'), "ponder.json"),
    "no answerer": (lambda folder: shutil.rmtree(folder / OWN / "answerer"), "answerer"),
}
RUNS: dict[str, tuple[Break, str]] = {
    "half its words": (text("run/words.json", '["task=add"'), "words.json"),
    "no words": (text("run/words.json", '{"task": "add"}'), "words.json"),
    **{f"a folder as {name}": (folder_at(f"run/{name}"), f"run/{name}: ") for name in (
        "metrics.jsonl", "summary.json", "run.log", "error.txt", ".lock", ".hydra/config.yaml")},
    "a file as .hydra": (file_at("run/.hydra"), "run/.hydra: "),
}
COMPARED: dict[str, Break] = {
    "no configuration": gone("run/.hydra/config.yaml"),
    "half a configuration": text("run/.hydra/config.yaml", "task: {name: [add"),
    "a list as configuration": text("run/.hydra/config.yaml", "- 1\n- 2\n"),
    "a binary configuration": raw("run/.hydra/config.yaml", BINARY),
    "other kinds in it": text("run/.hydra/config.yaml", "task: 7\nseed: x\n"),
    "half a summary": text("run/summary.json", "{"),
    "a list as summary": text("run/summary.json", "[1]"),
    "other kinds in the summary": text("run/summary.json", '{"accuracy": "x", "necessity": 3}'),
    "a folder as configuration": folder_at("run/.hydra/config.yaml"),
    "a folder as summary": folder_at("run/summary.json"),
    "a folder as log": folder_at("run/metrics.jsonl"),
    "no numbers in the log": text("run/metrics.jsonl", '{"step": "x", "accuracy": []}\n[1]\n7\n'),
    "a binary log": raw("run/metrics.jsonl", BINARY),
    "binary texts": raw("run/val_1/generated.csv", BINARY),
    "a quote left open": text("run/val_1/generated.csv", 'question,answer\n"1,2\n'),
    "a folder as texts": folder_at("run/val_1/generated.csv"),
}
HEADER = "id,question,A,B,answer\n"
TABLES: dict[str, tuple[Break, str, list[str]]] = {
    "arrays": (text("x.jsonl", "[1, 2]\n[3]\n"), "x.jsonl", QA),
    "numbers": (text("x.jsonl", "1\n2\n"), "x.jsonl", QA),
    "half a line": (text("x.jsonl", '{"question": "a", '), "x.jsonl", QA),
    "a quote left open": (text("x.csv", HEADER + '1,"a question,one,two,A\n2,b,c,d,B\n'), "x.csv",
                          QA),
    "no rows": (text("x.csv", HEADER), "x.csv", QA),
    "nothing": (text("x.csv", ""), "x.csv", QA),
    "no answers": (text("x.csv", "id,question,A,B\n1,a,b,c\n"), "x.csv", QA),
    "an answer that is no option": (text("x.csv", HEADER + "1,a,b,c,Q\n"), "x.csv", QA),
    "too few cells": (text("x.csv", HEADER + "1,a\n"), "x.csv", QA),
    "binary": (raw("x.csv", BINARY), "x.csv", QA),
    "UTF-16": (raw("x.csv", (HEADER + "1,a,b,c,A\n").encode("utf-16")), "x.csv", QA),
    "a folder": (folder_at("x.csv"), "x.csv", QA),
    "no parquet": (text("x.parquet", "PAR1 it is not"), "x.parquet", QA),
    "other columns": (table("x.parquet", foo=[1, 2]), "x.parquet", QA),
    "columns of numbers": (table("x.parquet", question=[1.5, None], answer=[7, 8]), "x.parquet",
                           QA),
    "another ending": (text("x.xlsx", "question"), "x.xlsx", QA),
    "no such file": (text("y.csv", HEADER), "x.csv", QA),
    "sums: other columns": (text("x.csv", "a,b\n1,2\n"), "x.csv", ADD),
    "sums: words": (text("x.csv", "question,answer\ncat,dog\n"), "x.csv", ADD),
    "sums: arrays": (text("x.jsonl", "[1]\n"), "x.jsonl", ADD),
    "sums: binary": (raw("x.csv", BINARY), "x.csv", ADD),
    "sums: no parquet": (text("x.parquet", "PAR"), "x.parquet", ADD),
    "text: nothing": (text("x.txt", ""), "x.txt", TEXT),
    "text: a folder of nothing": (folder_at("x.txt"), "x.txt", TEXT),
    "text: binary": (raw("x.txt", BINARY), "x.txt", TEXT),
    "text: no column of text": (table("x.parquet", foo=[1]), "x.parquet", TEXT),
    "text: arrays": (text("x.jsonl", "[1]\n"), "x.jsonl", TEXT),
}
RECORDED: dict[str, Break] = {
    "nothing": text("x.csv", ""), "binary": raw("x.csv", BINARY), "a folder": folder_at("x.csv"),
    "other columns": text("x.csv", "a,b\n1,2\n"), "arrays": text("x.jsonl", "[1]\n"),
    "questions of others": text("x.csv", "id,rationale\n99,foo\n"),
}


def told(door: Door, words: list[str], named: str) -> None:
    code, out, err = door(*words)
    line = [one for one in err.splitlines() if one]
    assert code == 2 and len(line) == 1 and line[0].startswith("error: "), (code, err, out[-300:])
    assert named in line[0] and "legal: " in line[0] and "Traceback" not in out, line


def cases(found: dict[str, Any]) -> Iterator[Any]:
    return (pytest.param(*(value if isinstance(value, tuple) else (value,)), id=name)
            for name, value in found.items())


@pytest.mark.parametrize("damage, named", cases(MODELS))
def test_models(damage: Break, named: str, place: Door, tmp_path: Path) -> None:
    damage(tmp_path)
    told(place, [*LOOK, "model.name=model"], named)


@pytest.mark.parametrize("damage, named", cases(ADAPTERS))
def test_adapters(damage: Break, named: str, place: Door, tmp_path: Path) -> None:
    damage(tmp_path)
    told(place, [*LOOK, "model.name=adapter"], named)


@pytest.mark.parametrize("damage, named", cases(CHECKPOINTS))
def test_checkpoints(damage: Break, named: str, place: Door, tmp_path: Path) -> None:
    damage(tmp_path)
    told(place, ["action=evaluate", f"model.name={OWN}"], named)


@pytest.mark.parametrize("damage, named", cases(RUNS))
def test_runs(damage: Break, named: str, place: Door, tmp_path: Path) -> None:
    damage(tmp_path)
    told(place, ["resume=run", "trainer.max_steps=2"], named)


@pytest.mark.parametrize("damage", cases(COMPARED))
def test_runs_that_are_compared(damage: Break, place: Door, tmp_path: Path) -> None:
    """What is left of a damaged run is shown beside the whole ones."""
    shutil.copytree("run", "star_runs/whole/0")
    damage(tmp_path)
    (tmp_path / "run").rename(tmp_path / "star_runs" / "damaged")
    code, out, err = place("action=compare", "out=table.csv")
    assert code == 0 and "Traceback" not in out + err and Path("table.csv").is_file(), err


@pytest.mark.parametrize("damage, named, words", cases(TABLES))
def test_tables(damage: Break, named: str, words: list[str], place: Door, tmp_path: Path,
                monkeypatch: pytest.MonkeyPatch) -> None:
    if words is QA:
        monkeypatch.setattr(actions, "run", lambda *given: print("begun"))
    damage(tmp_path)
    model = ["model.name=model"] if words is QA else []
    told(place, [*words, *model, f"task.data={named}"], named)


@pytest.mark.parametrize("damage", cases(RECORDED))
def test_recorded_rollouts(damage: Break, place: Door, tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "run", lambda *given: print("begun"))
    damage(tmp_path)
    named = next(path.name for path in tmp_path.glob("x.*"))
    told(place, [*QA, "task.data=questions.csv", "model.name=model",
                 f"trainer.preload_data_for_training={named}"], named)
