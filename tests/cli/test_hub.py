"""Checkpoints on the Hugging Face Hub: its own client, and a hub on this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import ponder
from support.hub import TOKEN, Hub, serving
from support.processes import run
from support.small import Door

RUN = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
       "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
       "trainer.max_steps=4", "trainer.save_every_n_steps=2", "trainer.val_every_n_steps=2",
       "trainer.device=cpu", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]
NUMBERS = {"accuracy": 0.8125, "accuracy_stderr": 0.0123, "necessity/own": 0.8125,
           "necessity/shuffled": 0.1001, "necessity/random": 0.0902, "necessity/constant": 0.0703,
           "necessity/dropped": 0.0504}  # put into summary.json by hand
PUSH = ["action=push", "model.name=run", "hub.repo=me/adds"]
MODEL, ROLLOUTS = ("models", "me/adds"), ("datasets", "me/rollouts")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run(folder, *RUN)
    path = folder / "run" / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"] |= NUMBERS
    path.write_text(json.dumps(summary))
    return folder / "run"


@pytest.fixture
def hub(made: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, a right token, and the run `run` in the present folder."""
    shutil.copytree(made, "run")
    with serving() as (hub, address):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("cache").resolve()))
        monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(
            huggingface_hub.HfApi, endpoint=address))
        yield hub


def test_there_and_back(hub: Hub, door: Door) -> None:
    """Weights are equal to the last byte, and the model that comes back says the same."""
    code, out, err = door(*PUSH, "hub.dataset=me/rollouts", "hub.licence=mit")
    assert code == 0, err
    assert "me/adds (model, private if it is new): 11 files" in out and "sent to http://" in out
    assert hub.private == {MODEL: True, ROLLOUTS: True}
    table = Path("run/val_4/generated.csv").read_bytes()
    assert hub.repositories[ROLLOUTS]["generated.csv"] == table
    assert "state.pt" not in hub.repositories[MODEL]
    code, out, err = door("action=pull", "hub.repo=me/adds", "out=pulled")
    assert code == 0 and "me/adds is in pulled; use it as model.name=pulled" in out, err
    for name in ("model.safetensors", "answerer/model.safetensors", "tokenizer.json"):
        first, second = Path("run/checkpoint_4", name), Path("pulled", name)
        assert first.read_bytes() == second.read_bytes(), name
    assert not list(Path().glob(".pulled*")) and not Path("pulled/.cache").exists()
    questions = ["3+8=", "0+1="]
    first, second = (ponder.load(path) for path in ("run/checkpoint_4", "pulled"))
    assert first.think(questions) == second.think(questions)


def test_the_card_has_the_numbers_of_the_run(hub: Hub, door: Door) -> None:
    assert door(*PUSH, "hub.dataset=me/rollouts", "hub.licence=mit")[0] == 0
    card = hub.repositories[MODEL]["README.md"].decode()
    for line in ("license: mit", "- me/rollouts", "| variants | think,fixed |", "| steps | 4 |",
                 "Accuracy 0.8125 ± 0.0123 on 20 held-out questions, after 4 steps.",
                 "| its own | 0.8125 |", "| those of other questions | 0.1001 |",
                 "| random tokens | 0.0902 |", "| one token repeated | 0.0703 |",
                 "| none | 0.0504 |", "| base model | none: trained from random weights |",
                 "ponder action=pull hub.repo=me/adds out=checkpoint",
                 'AutoModelForCausalLM.from_pretrained("me/adds")', "trainer.max_steps=4"):
        assert line in card, line
    assert "hydra.run.dir" not in card
    card = hub.repositories[ROLLOUTS]["README.md"].decode()
    assert "to 20 held-out questions of the task `add`, after 4 steps. Their accuracy is " in card
    assert "accuracy is 0.8125. Made with Ponder." in card
    assert "| `thought` | what the thinker wrote" in card


def test_an_earlier_checkpoint_has_numbers_of_its_own(hub: Hub, door: Door) -> None:
    """Those of the evaluation at its step, not those of the run's end."""
    path = Path("run/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["step"] == 2 and "lr" not in line:
            line.update({"accuracy": 0.25, "accuracy_stderr": 0.05, "necessity/own": 0.25})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert door("action=push", "model.name=run/checkpoint_2", "hub.repo=me/adds")[0] == 0
    card = hub.repositories[MODEL]["README.md"].decode()
    assert "Accuracy 0.2500 ± 0.0500 on 20 held-out questions, after 2 steps." in card
    assert "| its own | 0.2500 |" in card and "0.8125" not in card


def test_dry_sends_nothing(hub: Hub, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no token and no network."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, _ = door(*PUSH, "hub.dry=true", "out=made")
    assert code == 0 and "nothing was sent" in out and "model.safetensors  " in out
    assert hub.asked == [] and Path("made/model/README.md").is_file()
    assert door(*PUSH, "hub.dry=true", "out=made")[0] == 0  # again, in the same place


def test_the_same_again_and_something_else(hub: Hub, door: Door) -> None:
    assert door(*PUSH)[0] == 0 and door(*PUSH)[0] == 0
    other = ["action=push", "model.name=run/checkpoint_2", "hub.repo=me/adds"]
    before = dict(hub.repositories[MODEL])
    code, _, err = door(*other)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: hub.repo=me/adds: found a repository with other content (README")
    assert hub.repositories[MODEL] == before
    hub.repositories[MODEL]["old.bin"] = b"x"
    assert door(*other, "hub.replace=true")[0] == 0
    assert "old.bin" not in hub.repositories[MODEL]
    assert hub.repositories[MODEL]["model.safetensors"] == Path(
        "run/checkpoint_2/model.safetensors").read_bytes()


def test_a_public_repository_gets_nothing_by_default(hub: Hub, door: Door) -> None:
    hub.repositories[MODEL], hub.private[MODEL] = {}, False
    code, _, err = door(*PUSH)
    assert code == 2 and "found a public repository; legal: hub.private=false" in err
    assert hub.repositories[MODEL] == {}
    assert door(*PUSH, "hub.private=false")[0] == 0


@pytest.mark.parametrize("words, line", [
    ([*PUSH[:2], "hub.repo=adds"], "hub.repo=adds: found no name of a repository; legal: "),
    (PUSH[:2], "hub.repo=null: found no name of a repository; legal: user/name"),
    ([PUSH[0], PUSH[2]], "action=push: found model.name=null; legal: "),
    ([PUSH[0], PUSH[2], "model.name=nowhere"], "model.name=nowhere: found no checkpoint there"),
    ([*PUSH, "hub.revision=main"], "hub.revision=main: found action=push; legal: action=pull"),
    (["action=pull", "hub.repo=me/adds", "hub.dry=true"], "hub.dry=true: found action=pull; legal"),
    (["action=pull", "hub.repo=me/other"], "hub.repo=me/other: found no such repository on "),
    (["action=pull", "hub.repo=me/empty"], "hub.repo=me/empty: found no config.json in the repo"),
    (["action=pull", "hub.repo=me/empty", "out=run"], "out=run: found something there; legal: "),
    ([*PUSH, "-m"], "action=push: found -m; legal: one call at a time"),
    ([*PUSH, "hub.dataset=me/x", "model.name=lone"], "hub.dataset=me/x: found no val_4/gen")])
def test_wrong_words(words: list[str], line: str, hub: Hub, door: Door) -> None:
    hub.repositories[("models", "me/empty")] = {"README.md": b""}
    hub.private[("models", "me/empty")] = True
    shutil.copytree("run/checkpoint_4", "lone")
    code, _, err = door(*words)
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"error: {line}"), err
    assert not Path("star_runs").exists()


def test_a_token_or_network_that_is_missing(hub: Hub, door: Door,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*words: str) -> str:
        code, _, err = door(*words)
        assert code == 2 and err.count("\n") == 1
        return err.removeprefix("error: ")

    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert said(*PUSH).startswith("hub.repo=me/adds: the hub refuses (")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no_token")
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", "no_tokens")
    assert said(*PUSH).startswith("action=push: found no token of the Hugging Face Hub; legal: ")
    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(
        huggingface_hub.HfApi.func, endpoint="http://127.0.0.1:9"))  # where nobody listens
    assert said("action=pull", "hub.repo=me/adds").startswith(
        "hub.repo=me/adds: the hub cannot be asked (")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for words in (PUSH, ["action=pull", "hub.repo=me/adds"]):
        assert "found HF_HUB_OFFLINE=1 in the environment" in said(*words)
    assert hub.repositories == {} and not Path("star_runs").exists()


def test_a_damaged_checkpoint_is_not_sent(hub: Hub, door: Door) -> None:
    Path("run/checkpoint_4/model.safetensors").write_bytes(b"half")
    code, _, err = door(*PUSH)
    assert code == 2 and hub.asked == []
    assert err.startswith("error: model.name=run/checkpoint_4: found model.safetensors missing or ")


def test_folders_of_this_machine_are_not_sent(hub: Hub, door: Door) -> None:
    """Neither in the configuration nor in the command; the hub gets names of files alone."""
    words = json.loads(Path("run/words.json").read_text())
    Path("run/words.json").write_text(json.dumps([*words, "task.data=/home/me/secret/sums.csv"]))
    path = Path("run/checkpoint_4/ponder.json")
    told: dict[str, Any] = json.loads(path.read_text())
    told["config"]["task"]["data"] = "/home/me/secret/sums.csv"
    path.write_text(json.dumps(told))
    manifest = json.loads(Path("run/checkpoint_4/manifest.json").read_text())
    manifest["files"]["ponder.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    Path("run/checkpoint_4/manifest.json").write_text(json.dumps(manifest))
    assert door(*PUSH)[0] == 0
    assert not any(b"secret" in content for content in hub.repositories[MODEL].values())
    config = json.loads(hub.repositories[MODEL]["ponder.json"])["config"]
    assert config["task"]["data"] == "sums.csv"
    assert b"task.data=sums.csv" in hub.repositories[MODEL]["README.md"]
