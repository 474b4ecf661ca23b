"""A checkpoint as a model in Python: its replies are those of the evaluation of its run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ponder.config.errors import UserError
from ponder.core.math import Sampling
from ponder.generation.checkpoint_model import load_checkpoint
from ponder.rollouts import given
from support.questions import WORDS, file_of, save_language_model
from support.small import Door

SMALL = ["model.d_model=8", "model.layers=1", "trainer.max_steps=30", "trainer.threads=1",
         "trainer.train_batch_size=16", "task.test_questions=40", "task.max=10",
         "hydra.run.dir=run"]


@pytest.mark.parametrize("words", [
    "task.answer=digits", "fixed=false answerer.model=shared", "variant=[]",
    "variant=[think,blind] thinker.kind=continuous trainer.lr=0.01",
    "task=half task.steps=4 task.min_steps=1 thinker.asked=3 variant=[think,blind]"])
def test_replies_are_those_of_the_evaluation(words: str, door: Door) -> None:
    small = [word for word in SMALL if word != "task.max=10" or "task=" not in words]
    assert door(*small, *words.split())[0] == 0
    model = load_checkpoint("run/checkpoint_30")
    with Path("run/val_30/generated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    questions = [row["question"] for row in rows]
    replies = model.think(questions)
    assert [reply.question for reply in replies] == questions
    for reply, row in zip(replies, rows, strict=True):
        assert reply.thought == row["thought"].replace("</think>", "").strip()
        assert reply.answer == row["answer"].replace("#", "")
    if "asked" in words:
        assert door("action=generate", "model.name=run/checkpoint_30", "prompt=02") == (2, "", (
            "error: model.name=run/checkpoint_30: found task=half, whose positions a text that "
            "grows does not have; legal: ponder.load(...).think(questions), or action=evaluate\n"))
        with pytest.raises(UserError, match=r"prompt=0 2: found '0', for which this model has no"):
            model.think(["0 2"])
    right = sum(row["answer"] == row["gold"] for row in rows)  # the digit 5 is not the number #5
    summary = json.loads(Path("run/summary.json").read_text())
    assert right / len(rows) == pytest.approx(summary["accuracy"])


def test_questions_of_different_lengths_are_batched_and_keep_their_order(door: Door) -> None:
    words = [word for word in SMALL if word != "task.max=10"]
    assert door(*words, "task=addition", "task.digits=2", "variant=[think]")[0] == 0
    checkpoint, = Path("run").glob("checkpoint_*")
    model = load_checkpoint(checkpoint)
    questions = ["2+3=", "23+58=", "9+9=", "10+99="]
    replies = model.think(questions)
    assert [reply.question for reply in replies] == questions
    for question, reply in zip(questions, replies, strict=True):
        alone, = model.think([question])
        assert (alone.thought, alone.answer) == (reply.thought, reply.answer)
        assert alone.answer_logprob == pytest.approx(reply.answer_logprob, abs=1e-5)
    assert model.think([]) == []


def test_log_probabilities_are_those_of_the_policy(door: Door) -> None:
    assert door(*SMALL, "fixed=false", "task.answer=digits")[0] == 0
    model = load_checkpoint("run/checkpoint_30")
    policy, task = model.policy, model.task  # type: ignore[attr-defined]
    for reply in model.think(["3+4=", "9+9=", "0+1="]):
        tokens, _ = task.encode_question(reply.question)
        problems = task.encode(torch.tensor([[int(reply.question[0]), int(reply.question[2])]]))
        assert problems.question[0].tolist() == tokens
        words = policy.vocabulary.words
        thought = [words.index(f"<t{number}>") for number in reply.thought.replace(
            "<t", "").split(">") if number] + [policy.end]
        thought += [0] * (policy.rules.tokens + 1 - len(thought))
        logprob = policy.think(given(problems, torch.tensor([thought])), Sampling())[0].sum()
        assert reply.thought_logprob == pytest.approx(float(logprob), abs=1e-5)
        problems = replace(problems,
                           answer=torch.tensor([[words.index(digit) for digit in reply.answer]]))
        logprob, right = policy.answer(problems, torch.tensor([thought]))
        assert right and reply.answer_logprob == pytest.approx(float(logprob), abs=1e-5)


@pytest.mark.parametrize("answer", ["generated", "letter", "cloze"])
def test_replies_to_multiple_choice_are_those_of_the_evaluation(answer: str, door: Door) -> None:
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 24)
    assert door("task=qa", "variant=[think]", "rollout=sample", "reward=exact_match",
                "trainer=text", "model=hf", "model.name=model", "task.data=questions.csv",
                "task.test_questions=6", "thinker.tokens=8", "strategy=sft", "trainer.max_steps=1",
                f"task.answer={answer}", "hydra.run.dir=run")[0] == 0
    Path("questions.csv").unlink()
    checkpoint, = Path("run").glob("checkpoint_*")
    table, = Path("run").glob("val_*/generated.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = load_checkpoint(checkpoint)
    questions = [f"{row['question']}\nA. one\nB. three" for row in rows]
    replies = model.think(questions)
    for reply, row in zip(replies, rows, strict=True):
        assert (reply.thought, reply.answer) == (row["thought"], row["answer"])
        assert reply.thought_logprob == pytest.approx(float(row["logprob"]), abs=1e-4)
        assert (reply.answer_logprob == 0) == (answer == "generated")
    right = sum(reply.answer == row["gold"] for reply, row in zip(replies, rows, strict=True))
    summary = json.loads(Path("run/summary.json").read_text())
    assert right / len(rows) == pytest.approx(summary["accuracy"])
    assert model.generate("hello", tokens=3)
    with pytest.raises(UserError, match="found no options after a question"):
        model.think(["Question 1?"])


def test_a_language_model_continues_a_prompt(door: Door) -> None:
    save_language_model(Path("model"), "gpt2")
    model = load_checkpoint("model")
    found = model.generate("hello", tokens=12, temperature=0.0)
    code, out, _ = door("action=generate", "model.name=model", "prompt=hello",
                        "generate.tokens=12", "generate.temperature=0", "trainer.device=cpu")
    assert code == 0 and out.startswith(f"hello{found}\nlog p")
    assert WORDS.encode(found)
    assert len(set(model.completions("hello", tokens=5, samples=3))) == 3
    with pytest.raises(UserError, match="a language model, which answers no questions"):
        model.think(["3+4="])


def test_what_is_no_checkpoint_gets_one_line(door: Door) -> None:
    with pytest.raises(UserError, match="star_runs/none: found no such directory"):
        load_checkpoint("star_runs/none")
    assert door(*SMALL)[0] == 0
    with pytest.raises(UserError, match="found a run; legal: a checkpoint of it, as run/check"):
        load_checkpoint("run")
    model = load_checkpoint("run/checkpoint_30")
    with pytest.raises(UserError, match="found no question of this model"):
        model.think(["what?"])
    with pytest.raises(UserError, match="found a model that answers questions"):
        model.generate("3+4=")
