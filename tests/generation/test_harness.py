"""Checkpoints in lm_eval: its own command line and evaluation, on tasks that are written here."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.questions import save_language_model
from support.small import Door

HAS = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not HAS, reason="no package lm_eval (extra lm-eval)")
TOY = ["model.d_model=8", "model.layers=1", "task.max=5", "trainer.max_steps=20",
       "trainer.train_batch_size=8", "hydra.run.dir=run"]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with tasks of every kind of request, about sums and about texts."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    sums = [{"asked": f"{a}+{b}=", "choices": [str(n) for n in range(5)], "gold": (a + b) % 5,
             "answer": str((a + b) % 5)} for a in range(5) for b in range(4)]
    texts = [{"asked": f"Question: Which is {name}?", "choices": ["the sky", "grass", "a tree"],
              "gold": number % 3, "answer": "grass"} for number, name in enumerate(
                  ("blue", "green", "tall", "wide"))]
    kinds = {"choice": 'output_type: multiple_choice\ndoc_to_choice: "{{choices}}"\ndoc_to_target: '
                       "gold\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n",
             "said": 'output_type: generate_until\ndoc_to_target: "{{answer}}"\n'
                     'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 5\n'
                     "metric_list:\n  - metric: exact_match\n",
             "text": "output_type: loglikelihood_rolling\nmetric_list:\n"
                     "  - metric: byte_perplexity\n"}
    for about, rows, cue in (("sums", sums, ""), ("texts", texts, "\\nAnswer:")):
        file = folder / f"{about}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for kind, rest in kinds.items():
            asked = ('doc_to_text: ""\ndoc_to_target: "{{asked}}"\n' if kind == "text" else
                     f'doc_to_text: "{{{{asked}}}}{cue}"\n')
            (folder / f"{about}_{kind}.yaml").write_text(
                f"task: {about}_{kind}\ndataset_path: json\ndataset_kwargs:\n  data_files: {file}\n"
                f"test_split: train\n{asked}{rest}")
    yield folder


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- without lm_eval ------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "line"), [
    ("", "action=lm_eval: found model.name=null; legal: with model.name=<checkpoint directory, or "
         "name on the hub>"),
    ("model.name=model", "lm_eval.tasks=[]: found no task; legal: names of lm_eval, as in "
                         "lm_eval.tasks=[arc_easy]"),
    ("model.name=model lm_eval.tasks=[x] lm_eval.include_path=nowhere",
     "lm_eval.include_path=nowhere: found no such directory; legal: one with YAML files of tasks"),
    ("model.name=model lm_eval.tasks=[x] lm_eval.prompt=own",
     "lm_eval.prompt=own: found task=add, which has no prompt in words; legal: plain, or task=qa, "
     "free"),
    ("model.name=model lm_eval.tasks=[x] out=x.txt", "out=x.txt: found no table to write; legal: "
     "out=<file> that ends in .json, .csv, .jsonl, .parquet"),
    ("-m model.name=model,other lm_eval.tasks=[x]", "action=lm_eval: found -m; legal: one call at "
     "a time, for several tasks lm_eval.tasks=[<name>,<name>]")])
def test_mistakes_are_one_line_before_anything_is_loaded(
        words: str, line: str, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: (
        object() if name == "lm_eval" else found(name, *more)))
    Path("model").mkdir()
    (Path("model") / "config.json").write_text("{}")
    assert door("action=lm_eval", *words.split()) == (2, "", f"error: {line}\n")


def test_without_lm_eval_a_line_says_how_to_install_it(door: Door,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: (
        None if name == "lm_eval" else found(name, *more)))
    line = ("found no package lm_eval; legal: after pip install 'ponder[lm-eval]'")
    assert door("action=lm_eval", "model.name=x", "lm_eval.tasks=[x]") == (
        2, "", f"error: action=lm_eval: {line}\n")
    code = ("import importlib.util as util, runpy, sys; found = util.find_spec; util.find_spec = "
            "lambda name, *more: None if name == 'lm_eval' else found(name, *more); "
            "runpy.run_module('ponder.lm_eval', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: ponder.lm_eval: {line}\n")


# --- with it --------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_lm_eval
def test_a_toy_checkpoint_answers_tasks_of_lm_eval(tasks: Path, door: Door) -> None:
    """As it answers in an evaluation of its own; with its thoughts in the table."""
    import ponder

    assert door(*TOY)[0] == 0
    checkpoint, = Path("run").glob("checkpoint_*")
    words = ["action=lm_eval", f"lm_eval.include_path={tasks}", f"model.name={checkpoint}"]
    code, out, _ = door(*words, "lm_eval.tasks=[sums_choice,sums_said]", "out=rows.csv")
    rows = rows_of("rows.csv")
    assert code == 0 and len(rows) == 40
    model = ponder.load(checkpoint)
    replies = {reply.question: reply for reply in model.think([row["question"] for row in rows])}
    for row in rows:
        reply = replies[row["question"]]
        right = float(reply.answer == row["target"])
        assert row["thought"] == reply.thought
        if row["task"] == "sums_said":
            assert float(row["exact_match"]) == right
            assert json.loads(row["said"]) == [reply.answer]
    shares = [sum(float(row[name]) for row in rows if row["task"] == task) / 20
              for task, name in (("sums_choice", "acc"), ("sums_said", "exact_match"))]
    for task, metric, share in (("sums_choice", "acc", shares[0]),
                                ("sums_said", "exact_match", shares[1])):
        assert f"{task}: {metric} {share:.4f}" in out and "(20 questions)" in out
    assert door(*words, "lm_eval.tasks=[sums_text]")[2].splitlines()[-1] == (
        f"error: checkpoint={checkpoint}: found a checkpoint of task=add, which knows no running "
        "text; legal: tasks with output_type multiple_choice, loglikelihood or generate_until "
        "about its questions")
    assert "error: prompt=Question: Which is blue?" in door(*words, "lm_eval.tasks=[texts_choice]"
                                                            )[2]
    manager = importlib.import_module("lm_eval.tasks").TaskManager(
        include_path=str(tasks), include_defaults=False)  # reading lm_eval's own takes long
    line = r"found 'sums_choise' \(did you mean sums_choice\?\); legal: a name that"
    with pytest.raises(ponder.UserError, match=line):
        importlib.import_module("ponder.generation.harness").named(manager, "sums_choise")
    assert door(*words, "lm_eval.tasks=[gone.yaml]")[2].splitlines()[-1] == (
        "error: lm_eval.tasks: found no file gone.yaml; legal: a YAML file of a task")


@pytest.mark.slow
@needs_lm_eval
def test_the_command_line_of_lm_eval_knows_the_model(tasks: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """A plain model is scored as by lm_eval's own class `hf`: choices, texts and completions."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from ponder.lm_eval import PonderLM, main

    model = save_language_model(tmp_path / "model")
    names = ["texts_choice", "texts_text", "texts_said"]
    found = []
    for lm in (PonderLM(str(model), device="cpu"), HFLM(str(model), device="cpu", dtype="float32")):
        result = lm_eval.simple_evaluate(
            model=lm, tasks=names, bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False))
        assert result is not None
        found.append([[one["filtered_resps"] for one in result["samples"][name]]
                      for name in names])
    ours, theirs = found
    for own, other in zip(ours[0], theirs[0], strict=True):
        assert [one[0] for one in own] == pytest.approx([one[0] for one in other], abs=1e-3)
        assert [one[1] for one in own] == [one[1] for one in other]
    assert [one[0] for one in ours[1]] == pytest.approx([one[0] for one in theirs[1]], abs=1e-3)
    assert ours[2] == theirs[2]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    monkeypatch.setattr("lm_eval.config.evaluate_config.EvaluatorConfig.process_tasks",
                        lambda config, metadata=None: TaskManager(
                            include_path=str(tasks), include_defaults=False))  # the others: slow
    assert main(["--model", "ponder", "--model_args",
                 f"checkpoint={model},task=qa,task.answer=cloze,thinker.tokens=4",
                 "--include_path", str(tasks), "--tasks", "texts_choice"]) == 0
    assert "|texts_choice|" in capsys.readouterr().out
    assert main(["--model", "ponder", "--model_args", "checkpoint=star_runs/gone",
                 "--include_path", str(tasks), "--tasks", "texts_choice"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(
        "error: model.name=star_runs/gone: found no such directory; legal: ")


@pytest.mark.slow
@needs_lm_eval
def test_thoughts_and_chat_templates_are_not_applied_twice(tmp_path: Path) -> None:
    from ponder.config.errors import UserError
    from ponder.lm_eval import PonderLM

    model = save_language_model(tmp_path / "model")
    thinking = PonderLM(str(model), device="cpu", **{
        "task": "qa", "task.answer": "cloze", "thinker.tokens": 4})
    turns = [{"role": "user", "content": "Which is blue?"}]
    with pytest.raises(UserError, match=r"found lm_eval.prompt=own, which puts the text of a task"):
        thinking.apply_chat_template(turns)
    with pytest.raises(UserError, match="which has no chat template; legal: without it"):
        PonderLM(str(model), device="cpu").apply_chat_template(turns)
    with pytest.raises(UserError, match="model_args: found no checkpoint"):
        PonderLM()
    with pytest.raises(UserError, match=r"thinker.tokenz=4: cannot be set"):
        PonderLM(str(model), **{"thinker.tokenz": 4})
