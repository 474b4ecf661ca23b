"""An optimizer step of two processes is that of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

from ponder.core.types import Rollouts
from support.players import STRATEGIES, gradients, trainer_of
from support.processes import run_processes, run_torchrun
from support.questions import file_of, save_language_model

Found = dict[str, tuple[float, dict[str, Tensor]]]


def steps(rank: int, world: int) -> Found:
    """{strategy: (loss, gradients)} of one step; each process takes its part of the questions."""
    found = {}
    for name in STRATEGIES:
        trainer = trainer_of(name, grad_clip=0.0)
        rollouts: Rollouts = trainer.collect()
        share = torch.arange(len(rollouts.problems)).tensor_split([5])[rank] if world > 1 else \
            torch.arange(len(rollouts.problems))
        gradient = gradients(trainer, [rollouts[share]])
        losses = trainer.learner.step([rollouts[share]], 0, 0.0, trainer.source)
        found[name] = float(losses["loss"]), gradient
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(steps(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """Shares of 5 and 11 questions: means of means would differ."""
    mp.start_processes(work, (str(tmp_path),), nprocs=2,  # type: ignore[attr-defined]
                       start_method="forkserver")
    alone = steps(0, 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (loss, gradient) in alone.items():
            assert abs(found[name][0] - loss) < 1e-9, name
            for key, value in gradient.items():
                assert torch.allclose(value, found[name][1][key], atol=1e-9), (name, key)


# --- through the door -----------------------------------------------------------------------------

TINY = ["task.max=20", "task.answer=digits", "task.gold=digits", "think=true",
        "rollout=sample", "rollout.samples=4", "reward=exact_match", "trainer.train_batch_size=8",
        "trainer.train_gradient_accumulation_steps=2", "trainer.max_steps=10",
        "trainer.log_every_n_steps=1", "trainer.val_every_n_steps=5", "trainer.device=cpu",
        "trainer.threads=1"]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and ".hydra" not in path.parts)


def last(folder: Path) -> Path:
    """Its last checkpoint."""
    return max(folder.glob("checkpoint_*"), key=lambda path: int(path.name.rpartition("_")[2]))


def same_curves(own: list[dict], other: list[dict], tolerance: float) -> None:
    assert [line["step"] for line in own] == [line["step"] for line in other]
    for one, two in zip(own, other, strict=True):
        for name in ("loss", "grad_norm", "reward", "accuracy", "thought_entropy"):
            assert one.get(name) == pytest.approx(two.get(name), abs=tolerance), (one["step"], name)


def same_checkpoint(own: Path, other: Path) -> None:
    """Files, names, shapes and kinds of numbers, in the optimizer's state too; values nearly."""
    assert files(own) == files(other)
    for path in own.rglob("*.safetensors"):
        weights, others = (load_file(folder / path.relative_to(own)) for folder in (own, other))
        near(weights, others)
    states = [torch.load(folder / "state.pt", weights_only=True)["trainer"]["learner"]
              for folder in (own, other)]
    near(states[0]["extras"], states[1]["extras"])
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for number, known in moments[0].items():
        near(known, moments[1][number])


def near(own: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """But for biases of keys, whose gradient is nothing but rounding, which Adam makes large."""
    assert own.keys() == other.keys()
    for name, value in own.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape
        parts = [0, 2] if name.endswith("c_attn.bias") else [0]
        for part in parts:
            one, two = (x.chunk(max(parts) + 1)[part] if max(parts) else x
                        for x in (value, other[name]))
            assert torch.allclose(one, two, atol=1e-4), name


SHARD = "trainer.data_parallel=shard"


@pytest.mark.slow
@pytest.mark.parametrize("strategy, run", [
    ("reinforce", run_torchrun), ("ppo trainer.internal_epochs=2", run_processes),
    ("dpo", run_processes)])
def test_a_run_of_two_processes_is_that_of_one(
        strategy: str, run: Callable[..., tuple[list[dict], dict]], tmp_path: Path) -> None:
    """Whether each has all weights or a share."""
    words = [*TINY, *f"strategy={strategy}".split()]
    alone, summary = run_processes(tmp_path / "alone", 1, *words)
    assert sum("loss" in line for line in alone) == 10
    for way in ("replicate", "shard"):
        both, second = run(tmp_path / way, 2, *words, f"trainer.data_parallel={way}")
        same_curves(alone, both, 1e-5)
        assert second["accuracy"] == summary["accuracy"] and second["status"] == "done"
        assert files(tmp_path / "alone") == files(tmp_path / way)
        same_checkpoint(last(tmp_path / "alone"), last(tmp_path / way))


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    "strategy=grpo", f"strategy=grpo {SHARD}", "strategy=grpo super=true thinker.tokens=2",
    f"strategy=sft thinker.tokens=0 {SHARD}",
    "reward=log_likelihood thinker.kind=continuous",
    "reward=log_likelihood thinker.kind=gumbel",
    f"strategy=grpo {SHARD} answerer.model=frozen answerer.refresh_every=3 strategy.kl=0.1"])
def test_an_uneven_step_of_three_processes(words: str, tmp_path: Path) -> None:
    """Two questions a step: one process has nothing to do."""
    more = [*TINY, *words.split(), "trainer.train_batch_size=1"]
    alone, _ = run_processes(tmp_path / "alone", 1, *more)
    three, _ = run_processes(tmp_path / "three", 3, *more)
    assert [line.get("loss") for line in three] == pytest.approx(
        [line.get("loss") for line in alone], abs=1e-5)


@pytest.mark.slow
def test_shares_go_on_from_a_checkpoint_and_one_process_from_theirs(tmp_path: Path) -> None:
    words = [*TINY, "strategy=ppo", "trainer.lr_decay=constant"]
    alone, _ = run_processes(tmp_path / "alone", 1, *words)
    run_processes(tmp_path / "shared", 2, *words, SHARD, "trainer.max_steps=3")
    run_processes(tmp_path / "shared", 2, *words, SHARD, "trainer.max_steps=7")
    mixed, _ = run_processes(tmp_path / "shared", 1, *words)
    same_curves([line for line in alone if "loss" in line],
                [line for line in mixed if "loss" in line], 1e-4)
    same_checkpoint(last(tmp_path / "alone"), last(tmp_path / "shared"))


@pytest.mark.slow
def test_each_process_goes_on_with_its_own_random_numbers(tmp_path: Path) -> None:
    """Dropout in two processes with uneven shares: cut off and gone on with, the same losses."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the rat sat on the cat. " * 60)
    save_language_model(tmp_path / "model", "gpt2")
    told = json.loads((tmp_path / "model/config.json").read_text())
    told |= {"attn_pdrop": 0.2, "resid_pdrop": 0.2}
    (tmp_path / "model/config.json").write_text(json.dumps(told))
    words = ["experiment=normal_smollm2", "model=hf", "model.name=model", "task.data=text.txt",
             "task.length=16", "task.test_passages=4", "trainer.dtype=float32", "trainer.threads=1",
             "trainer.train_batch_size=3", "trainer.train_gradient_accumulation_steps=1",
             "trainer.log_every_n_steps=1", "trainer.save_every_n_steps=4", "trainer.lr=1e-3",
             "trainer.device=cpu", "trainer.max_steps=8"]
    whole, summary = run_processes(tmp_path / "run", 2, *words)
    shutil.rmtree(last(tmp_path / "run"))
    (tmp_path / "run/summary.json").unlink()
    again, found = run_processes(tmp_path / "run", 2, *words)
    assert [line.get("loss") for line in again] == [line.get("loss") for line in whole]
    assert found["weights_sha256"] == summary["weights_sha256"]


@pytest.mark.slow
def test_a_process_that_waits_for_another_in_vain_ends(tmp_path: Path) -> None:
    wait = ("import sys; from datetime import timedelta\n"
            "from ponder.cli.main import main; from ponder.core import distributed\n"
            "distributed.RENDEZVOUS_TIMEOUT = timedelta(seconds=1)\n"
            "sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", wait, *TINY, f"hydra.run.dir={tmp_path}/run"],
                          text=True, capture_output=True, timeout=100, check=False, cwd=tmp_path,
                          env={**os.environ, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0",
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29417"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: another process of this run is not there (")


TEXT = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=hf", "model.name=../model", "task.data=../questions.csv", "task.test_questions=5",
        "task.answer=letter", "thinker.tokens=4", "rollout.samples=3", "trainer.lr=1e-3",
        "trainer.gen_batch_size=7", "trainer.train_batch_size=3", "trainer.threads=1",
        "trainer.device=cpu", "trainer.log_every_n_steps=1",
        "trainer.train_gradient_accumulation_steps=2"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    "strategy=dpo model.lora_r=4",
    "strategy=star strategy.keep=best trainer.reset_model_every_epoch=true trainer.max_epochs=2",
    "strategy=grpo strategy.kl=0.1 model.lora_r=4 model.thought_tokens=2 model.checkpointing=true"])
def test_texts_of_two_processes_with_shares(words: str, tmp_path: Path) -> None:
    """19 questions in batches of 7: one process writes, judges and learns more than the other."""
    save_language_model(tmp_path / "model")
    file_of(tmp_path / "questions.csv", 24)
    more = [*TEXT, *words.split()]
    alone, _ = run_processes(tmp_path / "one" / "run", 1, *more)
    both, _ = run_processes(tmp_path / "two" / "run", 2, *more, SHARD)
    assert sum("loss" in line for line in alone) > 1
    same_curves(alone, both, 1e-4)
    assert files(tmp_path / "one" / "run") == files(tmp_path / "two" / "run")
    same_checkpoint(last(tmp_path / "one" / "run"), last(tmp_path / "two" / "run"))
