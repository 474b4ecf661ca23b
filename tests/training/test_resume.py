"""Runs that are cut off, damaged, ended or asked to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ponder.rewards import answers as rewards
from ponder.training.checkpoint import newest, save
from ponder.training.run_directory import lock
from ponder.training.signals import Signals
from support.runs import config_of
from support.small import Door

SMALL = ["experiment=add_think_fixed", "task.max=10", "model.d_model=8", "model.layers=1",
         "task.test_questions=20", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.save_every_n_steps=4", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


def log(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> str:
    return json.loads((path / "summary.json").read_text())["weights_sha256"]


def checkpoint_of(step: int) -> Path:
    (found,) = (path.parent for path in Path("run").glob("checkpoint_*/manifest.json")
                if json.loads(path.read_text())["step"] == step)
    return found


def cut_off(door: Door, *words: str) -> None:
    """A run of 10 steps that dies after its checkpoint of step 8: the end is taken away."""
    assert door(*SMALL, "trainer.max_steps=10", *words)[0] == 0
    shutil.copytree("run", "whole")
    shutil.rmtree(checkpoint_of(10))
    Path("run/summary.json").unlink()


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps at which a checkpoint is saved from here on."""
    import ponder.training.session

    steps: list[int] = []
    before = ponder.training.session.checkpoint.save

    def spy(*arguments) -> None:
        steps.append(arguments[4]["step"])
        before(*arguments)

    monkeypatch.setattr(ponder.training.session.checkpoint, "save", spy)
    yield steps


@pytest.mark.parametrize("strategy", ["reinforce", "ppo", *(
    pytest.param(words, marks=pytest.mark.slow) for words in ("ppo strategy.kl_stop=0.0", "star"))])
def test_a_run_goes_on_as_if_it_had_never_stopped(strategy: str, door: Door,
                                                  saves: list[int]) -> None:
    words = [*f"strategy={strategy}".split(), "trainer.gen_batch_size=8",
             "trainer.internal_epochs=2"]
    cut_off(door, *words)
    del saves[:]
    code, out, err = door(*SMALL, "trainer.max_steps=10", *words)
    assert (code, err) == (0, "") and "going on from step 8" in out
    assert saves == [10]
    assert weights(Path("run")) == weights(Path("whole"))
    assert log(Path("run")) == log(Path("whole")) == [*range(1, 11), 10]


def test_a_longer_run_goes_on_with_the_shorter_one(door: Door) -> None:
    assert door(*SMALL, "trainer.max_steps=6", "trainer.lr_decay=constant")[0] == 0
    code, out, _ = door(*SMALL, "trainer.max_steps=10", "trainer.lr_decay=constant")
    assert code == 0 and "going on from step 6" in out
    shutil.copytree("run", "longer")
    assert door(*SMALL, "trainer.max_steps=10", "trainer.lr_decay=constant",
                "resume=never")[0] == 0
    assert weights(Path("longer")) == weights(Path("run"))


def test_a_longer_run_takes_the_rest_of_the_round_first(door: Door) -> None:
    """A round of 8 questions is 4 steps; the limit cuts the second one after 2 of them."""
    words = [*SMALL, "trainer.gen_batch_size=8", "trainer.train_batch_size=4",
             "trainer.internal_epochs=2", "trainer.lr_decay=constant", "strategy=ppo"]
    assert door(*words, "trainer.max_steps=6")[0] == 0
    assert door(*words, "trainer.max_steps=10")[0] == 0
    assert door(*words, "trainer.max_steps=10", "hydra.run.dir=whole")[0] == 0
    assert weights(Path("run")) == weights(Path("whole"))


def test_a_run_that_is_done_is_not_run_again(door: Door, saves: list[int]) -> None:
    assert door(*SMALL, "trainer.max_steps=3")[0] == 0
    before = weights(Path("run"))
    del saves[:]
    code, out, _ = door(*SMALL, "trainer.max_steps=3")
    assert code == 0 and "is done: accuracy" in out and not saves
    assert weights(Path("run")) == before


def test_a_directory_names_the_run_to_go_on_with(door: Door) -> None:
    cut_off(door)
    code, out, err = door("resume=run")
    assert (code, err) == (0, "") and "going on from step 8" in out
    assert weights(Path("run")) == weights(Path("whole"))
    assert door("resume=nowhere") == (2, "", "error: resume=nowhere: found no run there; legal: "
                                             "auto, never, or the directory of a run\n")


def test_a_refused_call_does_not_change_the_words_of_a_run(door: Door) -> None:
    cut_off(door)
    assert door(*SMALL, "seed=1")[0] == 2
    assert door("resume=run")[0] == 0
    assert weights(Path("run")) == weights(Path("whole"))


def test_beginning_anew_from_a_checkpoint_in_the_same_directory(door: Door) -> None:
    assert door(*SMALL, "trainer.max_steps=3")[0] == 0
    code, _, err = door(*SMALL, "trainer.max_steps=4", "resume=never",
                        "model.name=run/checkpoint_3")
    assert (code, err) == (0, "") and log(Path("run"))[-1] == 4


def test_another_experiment_in_the_directory_gets_one_line(door: Door) -> None:
    cut_off(door)
    code, _, err = door(*SMALL, "trainer.lr=0.1")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: trainer.lr=0.1: found 0.002 in the run that is in run; legal: ")
    assert (Path("run") / "metrics.jsonl").read_text() == (
        Path("whole") / "metrics.jsonl").read_text()


@pytest.mark.parametrize("damage", [
    "flip", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("cut", "gone"))])
@pytest.mark.parametrize("file", ["state.pt", "model.safetensors"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(damage: str, file: str,
                                                                  door: Door) -> None:
    cut_off(door, "trainer.keep_checkpoints=0")
    path = Path("run/checkpoint_8") / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:100])
    code, out, err = door(*SMALL, "trainer.max_steps=10", "trainer.keep_checkpoints=0")
    assert (code, err) == (0, "")
    assert f"run/checkpoint_8: damaged ({file} " in out and "going on from step 4" in out
    assert weights(Path("run")) == weights(Path("whole"))


def test_a_damaged_checkpoint_counts_as_none_that_is_kept(door: Door) -> None:
    cut_off(door, "trainer.keep_checkpoints=0")
    (checkpoint_of(8) / "state.pt").write_bytes(b"")
    assert door(*SMALL, "trainer.max_steps=6", "trainer.keep_checkpoints=1")[0] == 0
    found = newest(Path("run"), pytest.fail)
    assert found is not None and found.step == 6


def test_the_newest_and_the_best_checkpoints_are_kept(door: Door) -> None:
    assert door(*SMALL, "trainer.max_steps=20", "trainer.keep_checkpoints=2",
                "trainer.val_every_n_steps=4")[0] == 0
    steps = sorted(json.loads(path.read_text())["step"]
                   for path in Path("run").glob("checkpoint_*/manifest.json"))
    best = max(json.loads(line).get("accuracy", 0) for line in
               Path("run/metrics.jsonl").read_text().splitlines())
    kept = [json.loads(path.read_text())["accuracy"]
            for path in Path("run").glob("checkpoint_*/manifest.json")]
    assert steps[-2:] == [16, 20] and len(steps) <= 3 and max(kept) == best


def test_a_save_that_is_cut_anywhere_leaves_a_whole_checkpoint(
        door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call to the file system inside a save fails once, as if the power had gone."""
    from ponder.training import checkpoint
    from ponder.training.build_policies import build_policy, build_task

    config = config_of("variant=[think,fixed]", "task.max=10", "model.d_model=8")
    policy = build_policy(config, build_task(config))
    target, calls = Path("checkpoint_1").resolve(), 0
    save(policy, target, {}, {"x": 1}, {"step": 1, "epoch": 1})

    class PowerCut(BaseException):
        pass

    def cutting(function, at: int):
        def cut(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == at:
                raise PowerCut
            return function(*arguments, **options)
        return cut

    cuts = 0
    for at in range(1, 60):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, "fsync", cutting(checkpoint.os.fsync, at))
            patch.setattr(checkpoint.Path, "rename", cutting(Path.rename, at))
            patch.setattr(checkpoint.shutil, "rmtree", cutting(shutil.rmtree, at))
            patch.setattr(checkpoint.torch, "save", cutting(torch.save, at))
            try:
                save(policy, target, {}, {"x": 1}, {"step": 1, "epoch": 1})
                break
            except PowerCut:
                cuts += 1
        found = newest(Path.cwd(), pytest.fail)
        assert found is not None and found.state(torch.device("cpu")) == {"x": 1}, at
    assert cuts > 10


# --- guards --------------------------------------------------------------------------------------

def test_a_step_that_is_not_finite_is_skipped_kept_and_ends_the_run(
        door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = rewards.REWARDS["log_likelihood"], 0

    def broken(judged: rewards.Judged) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return plain.target(judged) * (float("nan") if calls == 2 or calls > 4 else 1.0)

    monkeypatch.setitem(rewards.REWARDS._entries, "log_likelihood", replace(plain, target=broken))
    code, out, err = door(*SMALL, "trainer.max_steps=20", "trainer.max_bad_steps=3")
    assert code == 2 and err.startswith("error: trainer.max_bad_steps=3: found so many steps in a "
                                        "row that are not finite, up to step 7; ")
    assert out.count("was skipped") == 4
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 0, 0, 1, 1, 1]
    assert lines[1]["loss"] is None and lines[2]["loss"] > 0  # JSON has no NaN
    (batch,) = torch.load("run/bad_2/rollouts.pt", weights_only=True)
    assert torch.isnan(batch["reward"]).all() and batch["thought"].shape == (32, 2)
    assert checkpoint_of(4).is_dir()


# --- signals -------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts(number: signal.Signals) -> None:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(number, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        with Signals() as signals:
            signal.raise_signal(number)
            assert signals.caught == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_directory_where_a_run_goes_on_is_refused(door: Door) -> None:
    held = lock(Path("run"))
    assert held is not None
    code, _, err = door(*SMALL, "trainer.max_steps=2")
    assert code == 2 and err.startswith("error: hydra.run.dir=run: found a run that goes on there ")
    assert f"(process {os.getpid()} on " in err and err.count("\n") == 1
    held.close()
    assert door(*SMALL, "trainer.max_steps=2")[0] == 0
    assert door(*SMALL, "trainer.max_steps=3")[0] == 0  # it lets go at its end
