"""Whole runs on text through the door: a normal model, then one that thinks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ponder.core.metrics import known
from support.small import Door

SENTENCE = "the cat sat on the mat and the rat sat on the cat. "
SMALL = ["task.data=text.txt", "model.d_model=16", "model.layers=1", "task.length=16",
         "task.test_passages=4", "trainer.train_batch_size=4", "trainer.threads=1",
         "trainer.log_every_n_steps=1", "hydra.run.dir=run"]
NORMAL = ["experiment=normal", *SMALL]
THINK = ["experiment=supervised_rollout_think", *SMALL, "task.place_count=3", "rollout.samples=2",
         "thinker.tokens=2"]


@pytest.fixture
def run(door: Door) -> Door:
    """The door, with a text in the folder."""
    Path("text.txt").write_text(SENTENCE * 60)
    return door


def lines(path: str = "run") -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def summary(path: str = "run") -> dict:
    return json.loads((Path(path) / "summary.json").read_text())


def newest(path: str = "run") -> Path:
    return max(Path(path).glob("checkpoint_*"), key=lambda folder: folder.stat().st_mtime_ns)


@pytest.mark.parametrize("words", ["", "task.tokens=trie task.trie_size=280 task.ahead=2",
                                   "trainer.optimizer=adamw model.positions=sinusoidal"])
def test_a_normal_model_learns_text(words: str, run: Door) -> None:
    """The sentence comes again and again: its loss falls."""
    code, _, err = run(*NORMAL, "trainer.max_steps=60", "trainer.val_every_n_steps=20",
                       *words.split())
    assert code == 0, err
    losses = [line["val/loss"] for line in lines() if "val/loss" in line]
    assert losses[-1] < min(losses[0], 0.8 * lines()[0]["loss"])
    per_byte = summary()["metrics"]["val/bits_per_byte"]
    assert per_byte == pytest.approx(losses[-1] / 0.6931, rel=1e-3) or "trie" in words
    assert all(known(name) for line in lines() for name in line)
    assert (newest() / "tokens.json").is_file() and (Path("run") / "report.html").is_file()


@pytest.mark.parametrize("words", ["", "strategy=grpo task.places=hardest", "reward=log_likelihood",
                                   "fixed=false task.ahead=2 task.places=all",
                                   "strategy=star task.mix=false",
                                   "strategy=ppo strategy.value=none"])
def test_a_normal_model_becomes_a_thinking_one(words: str, run: Door) -> None:
    assert run(*NORMAL, "trainer.max_steps=5")[0] == 0
    before = summary()["metrics"]["val/loss"]
    shutil.move("run", "normal")
    code, _, err = run(*THINK, f"model.name={newest('normal')}", "trainer.max_steps=0")
    assert code == 0, err
    assert summary()["metrics"]["val/loss_without"] == pytest.approx(before, abs=1e-5)
    shutil.rmtree("run")
    code, _, err = run(*THINK, f"model.name={newest('normal')}", "trainer.max_steps=3",
                       *words.split())
    assert code == 0, err
    assert {"own", "shuffled", "random", "constant", "dropped"} == set(summary()["necessity"])
    assert all(known(name) for line in lines() for name in line)
    evaluated = run("action=evaluate", f"model.name={newest()}", "hydra.run.dir=again")
    assert evaluated[0] == 0, evaluated[2]
    assert summary("again")["metrics"]["val/loss"] == summary()["metrics"]["val/loss"]


@pytest.mark.parametrize("words", [NORMAL, THINK])
def test_a_run_on_text_goes_on_as_if_it_had_never_stopped(words: list[str], run: Door) -> None:
    """With Muon's moments, the mixing head, and the places that are thought about."""
    more = [*words, "trainer.max_steps=6", "trainer.save_every_n_steps=3"]
    assert run(*more)[0] == 0
    whole = summary()["weights_sha256"]
    shutil.rmtree(newest())
    (Path("run") / "summary.json").unlink()
    code, out, err = run(*more)
    assert code == 0 and "going on from step 3" in out + err, out + err
    assert summary()["weights_sha256"] == whole


def test_easy_tokens_pay_by_likelihood_and_not_by_gain(run: Door) -> None:
    """The correlation of reward and difficulty is in the log, and a group's mean takes it away."""
    assert run(*NORMAL, "trainer.max_steps=30")[0] == 0
    shutil.move("run", "normal")
    found = {}
    for reward in ("log_likelihood", "gain"):
        code, _, err = run(*THINK, f"model.name={newest('normal')}", "trainer.max_steps=2",
                           f"reward={reward}", "trainer.train_batch_size=16")
        assert code == 0, err
        found[reward] = next(line for line in lines() if "reward_difficulty" in line)
        shutil.rmtree("run")
    assert found["log_likelihood"]["reward_difficulty"] < -0.5
    assert abs(found["log_likelihood"]["credit_difficulty"]) < 1e-3
    assert found["gain"]["reward_difficulty"] > found["log_likelihood"]["reward_difficulty"] + 0.3


def test_a_checkpoint_knows_its_task_and_its_tokens(run: Door) -> None:
    assert run(*NORMAL, "trainer.max_steps=3")[0] == 0
    code, out, err = run("action=evaluate", f"model.name={newest()}", "task.test_passages=2",
                         "hydra.run.dir=again")
    assert code == 0 and "held-out loss" in out, err
    table, = Path("again").glob("val_*/generated.csv")
    assert len(table.read_text().splitlines()) == 3
    report = Path("run/report.html").read_text()
    assert "chance, 1/" not in report and "Are the thoughts needed" not in report
    code, _, err = run(*NORMAL[:-1], f"model.name={newest()}", "task.tokens=trie",
                       "hydra.run.dir=other")
    assert code == 2 and "which reads chars; legal: no word about it" in err
    code, _, err = run("experiment=star_addition", "action=evaluate", f"model.name={newest()}",
                       "task.digits=2", "hydra.run.dir=third")
    assert code == 2 and "task.digits" not in err, err
    code, _, err = run("action=evaluate", "model.name=run")
    assert code == 2 and f"found a run; legal: a checkpoint of it, as {newest()}" in err


def test_a_refused_call_leaves_a_run_as_it_was(run: Door) -> None:
    assert run(*NORMAL, "trainer.max_steps=3", "trainer.lr=1e-3")[0] == 0
    before = Path("run/.hydra/config.yaml").read_text()
    code, _, err = run("resume=run", "trainer.lr=1")
    assert code == 2 and "trainer.lr=1.0: found 0.001" in err
    assert Path("run/.hydra/config.yaml").read_text() == before


@pytest.mark.parametrize(("words", "said"), [
    ("think=true answerer.model=shared", "strategy=sft"),
    ("think=true strategy=grpo", "answerer.model=separate"),
    ("think=true strategy=grpo answerer.model=shared blind=true", "answerer.sees=[thought]"),
    ("think=true strategy=dpo answerer.model=shared", "strategy=dpo"),
    ("task.data=nothing.txt", "task.data=nothing.txt: found no such text"),
    ("task.data=empty", "task.data=empty: found nothing to read there"),
    ("task.data=", "task.data=: found no text"),
    ("think=true strategy=reinforce answerer.model=shared thinker.kind=continuous",
     "thinker.kind=continuous: found "),
    ("trainer.rationalise=true", "trainer.rationalise=true: found task=text"),
    ("trainer.data_parallel=shard trainer.optimizer=adamw task.ahead=2",
     "trainer.data_parallel=shard: found thoughts or task.ahead"),
    ("task.ahead=16", "task.ahead=16"),
    ("task.tokens=hf", "task.tokenizer=null"),
])
def test_what_means_nothing_is_one_line(words: str, said: str, run: Door) -> None:
    Path("empty").mkdir()
    code, _, err = run(*NORMAL, *words.split())
    assert code == 2 and said in err.splitlines()[-1] and "Traceback" not in err, err
