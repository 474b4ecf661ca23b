"""Whole runs of language models through the door, on questions of a few words."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import ponder.rollouts.written
import ponder.training.learner
import ponder.training.session
import ponder.training.trainer
from ponder.config import inputs
from ponder.config.players import HfConfig
from ponder.config.spine import restored
from ponder.core.metrics import known
from ponder.models.huggingface.pretrained import reads_at_most
from ponder.rollouts.written import Batch
from ponder.tasks.choice.answers import FOUND, Answer
from ponder.tokenizers.vocabulary import TextVocabulary
from ponder.training import build as build_run
from ponder.training.collector import Collector
from ponder.training.console import Plain, ProgressReporter
from ponder.training.signals import Signals
from support.questions import file_of, save_language_model, stories_file, vocabulary
from support.small import Door

TINY = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
        "model=hf", "model.name=model",
        "task.data=questions.csv", "task.test_questions=4", "task.answer=letter",
        "thinker.tokens=4", "rollout.samples=3", "trainer.lr=1e-3", "trainer.gen_batch_size=8",
        "hydra.run.dir=run"]


@pytest.fixture
def run(door: Door) -> Door:
    """The door, with a model and 24 questions in the folder, and a cache of its own."""
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 24)
    return lambda *words: door(*TINY, *(
        [] if any(word.startswith("strategy=") for word in words)
        else ["strategy=star", "strategy.keep=correct"]), *words)


@pytest.mark.parametrize("mode", ["letter", "cloze"])
def test_a_baseline_without_thoughts_learns_to_answer(run: Door, mode: str) -> None:
    code, out, err = run("variant=[]", "thinker.tokens=0", f"task.answer={mode}",
                         "trainer.max_epochs=4", "trainer.lr=3e-3")
    assert (code, err) == (0, "")
    assert out.startswith("variants: none; no thought, the answerer sees the question alone\n")
    losses = [line["loss"] for line in lines() if "loss" in line]
    assert losses[-1] < losses[0] and not any("text/" in name for name in lines()[-1])
    assert all(row["thought"] == "" for row in table(f"val_{summary()['steps']}/generated.csv"))
    code, out, err = run("variant=[]", "thinker.tokens=0", "task.answer=generated", "resume=never")
    assert code == 2 and err.startswith("error: task.answer=generated: found no thoughts")


def lines(path: str = "run") -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def summary(path: str = "run") -> dict:
    return json.loads((Path(path) / "summary.json").read_text())


def table(path: str, run: str = "run") -> list[dict[str, str]]:
    with (Path(run) / path).open(newline="") as file:
        return list(csv.DictReader(file))


STRATEGIES = ["star", "dpo", "grpo", "reinforce", "ppo", "ppo strategy.value=shared",
              "ppo strategy.value_reads=mean", "rloo",
              "dpo model.lora_r=4", "grpo strategy.kl=0.1 model.lora_r=4", "sft"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("answer", ["letter", "cloze", "generated", "free"])
def test_every_strategy_learns_from_texts(strategy: str, answer: str, run: Door) -> None:
    words = [f"task.answer={answer}"]
    if answer == "free":
        stories_file(Path("mine.jsonl"), 24)
        words = ["task=free", "task.data=mine.jsonl", "task.answer=generated",
                 "task.verify=number", "reward=[exact_match,score]"]
    code, _, err = run(*words, *f"strategy={strategy}".split())
    assert (code, err) == (0, "")
    assert summary()["status"] == "done"


def test_star_leaves_what_users_have_scripts_for(run: Door) -> None:
    code, out, err = run("trainer.max_epochs=2", "trainer.skip_first_validation_loop=false",
                         "trainer.val_samples=1")
    assert (code, err) == (0, "") and "accuracy" in out
    rows = table("train_0/generated.csv")
    assert len(rows) == 20 * 3 and {"id", "question", "thought", "answer", "gold", "reward",
                                    "logprob", "seed"} <= set(rows[0])
    assert len(table("train_1/generated.csv")) == 60 and len(table("val_0/generated.csv")) == 4
    last = summary()["steps"]
    assert "step 0  accuracy" in out and f"step {last}/{last}  " in out  # nothing is known at first
    assert (Path("run") / f"val_{last}" / "eval_model_checkpoint" / "model.safetensors").is_file()
    assert (Path("run") / "checkpoint_2" / "config.json").is_file()
    right = sum(row["correct"] == "1" for row in rows)
    assert summary()["steps"] >= -(-right // 16)  # those alone are learnt, 4 x 4 a step
    assert sum(line["step"] <= -(-right // 16) for line in lines() if "loss" in line) == \
        max(line["step"] for line in lines() if line.get("epoch") == 0 and "loss" in line)
    first = lines()[1]
    assert first["reward"] == pytest.approx(right / 60, abs=1e-6)


def test_zero_epochs_validate_only(run: Door) -> None:
    assert run("trainer.max_epochs=0", "trainer.val_samples=4", "task.answer=generated")[0] == 0
    assert {"pass@4", "majority@4", "text/unparsable", "chance"} <= set(lines()[0])
    assert all(known(name) for name in lines()[0])
    assert summary()["steps"] == 0 and summary()["accuracy"] is not None
    assert not list(Path("run").glob("train_*"))


def test_zero_internal_epochs_write_only(run: Door) -> None:
    code, _, err = run("trainer.internal_epochs=0", "trainer.do_eval=false")
    assert (code, err) == (0, "")
    assert summary()["steps"] == 0 and summary()["accuracy"] is None
    assert len(table("train_0/generated.csv")) == 60


@pytest.mark.slow
def test_a_second_run_writes_nothing(run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run()[0] == 0
    before = summary()["weights_sha256"]
    monkeypatch.setattr("ponder.rollouts.engines.Writer", None)
    code, _, err = run("resume=never")
    assert (code, err) == (0, "") and summary()["weights_sha256"] == before


@pytest.mark.parametrize("changed", ["answers of the file", "variant=[think,blind]"])
def test_texts_of_the_cache_are_judged_as_they_are_asked_about_now(
        changed: str, run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["trainer.max_epochs=0", "trainer.val_samples=3"]
    assert run(*words)[0] == 0
    if "=" in changed:
        words.append(changed)
    else:
        rows = Path("questions.csv").read_text().splitlines()
        Path("questions.csv").write_text("\n".join(
            [rows[0], *(row.translate(str.maketrans("AB", "BA")) for row in rows[1:])]))
    with monkeypatch.context() as patch:
        patch.setattr("ponder.rollouts.engines.Writer", None)
        assert run(*words, "hydra.run.dir=now")[0] == 0
    shutil.rmtree("scratch/generated")
    assert run(*words, "hydra.run.dir=fresh")[0] == 0
    now, fresh, before = (
        [row["correct"] if "=" not in changed else row["answer"] for row in table(
            "val_0/generated.csv", name)] for name in ("now", "fresh", "run"))
    assert lines("now") == lines("fresh") and now == fresh != before


def rewritten(path: Path, old: str, new: str) -> None:
    """Change a file, and give it its size and time of before."""
    stat, text = path.stat(), path.read_text()
    assert old in text and len(old) == len(new)
    path.write_text(text.replace(old, new, 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_every_file_that_is_read_is_an_input(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "LARGE", 8)
    monkeypatch.setattr(inputs, "SETTLED", 0)
    monkeypatch.setattr(inputs, "plugin_files", list)  # other tests load some
    file_of(Path("questions.csv"), 4)
    for name in ("base/config.json", "base/pytorch_model.bin", "base/generation_config.json",
                 "base/chat_template.jinja", "lora/adapter_model.safetensors",
                 "lora/tokenizer.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text('{"rope_theta": 10000}')
    Path("lora/adapter_config.json").write_text(
        '{"base_model_name_or_path": "../base", "lora_alpha": 8}')
    Path("lora/README.md").write_text("who reads this?")
    config = restored({"task": {"name": "qa", "data": "questions.csv"}, "rollout": {
        "kind": "sample"}, "model": {"kind": "hf", "name": "lora"}, "strategy": {"name": "dpo"}})
    config.trainer.preload_data_for_training = str(file_of(Path("old.csv"), 2))
    config.task.preamble = "Think. " * 99  # can be no name of a file
    config.scratch = "cache"
    config = OmegaConf.to_object(config)
    before = inputs.inputs(config)
    assert sorted(before) == sorted([
        "model.name/adapter_config.json", "model.name/adapter_model.safetensors",
        "model.name/tokenizer.json", "model.name/base/config.json", "task.data",
        "model.name/base/pytorch_model.bin", "model.name/base/generation_config.json",
        "model.name/base/chat_template.jinja", "trainer.preload_data_for_training"])
    assert inputs.inputs(config) == before and list(Path("cache/hashes").iterdir())
    assert not Path("scratch").exists()
    for name, file in inputs.input_files(config).items():
        first = next(sign for sign in file.read_text() if sign.isdecimal())
        rewritten(file, first, "7")
        assert inputs.changed(before, inputs.inputs(config)) == [name]
        rewritten(file, "7", first)
    assert inputs.changed({}, before) == [] == inputs.changed(before, inputs.inputs(config))
    Path("base/added_tokens.json").write_text("{}")
    assert inputs.changed(before, inputs.inputs(config)) == ["model.name/base/added_tokens.json"]


def test_texts_of_an_edited_model_are_written_anew(run: Door) -> None:
    """The texts, and so the accuracy, are those of an empty cache."""
    words = ["trainer.max_epochs=0", "trainer.val_samples=3"]
    assert run(*words)[0] == 0
    rewritten(Path("model/config.json"), '"rope_theta": 10000.0', '"rope_theta": 10.0   ')
    assert run(*words, "hydra.run.dir=now")[0] == 0
    shutil.rmtree("scratch/generated")
    assert run(*words, "hydra.run.dir=fresh")[0] == 0
    now, fresh, before = ([row["thought"] for row in table("val_0/generated.csv", name)]
                          for name in ("now", "fresh", "run"))
    assert now == fresh != before


def test_a_parser_that_was_mended_judges_anew(run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["trainer.max_epochs=0", "trainer.val_samples=3", "task.answer=generated"]
    assert run(*words)[0] == 0
    assert {row["answer"] for row in table("val_0/generated.csv")} == {""}
    monkeypatch.setattr("ponder.tasks.choice.answers.parse",
                        lambda *given: Answer("B", FOUND))
    monkeypatch.setattr(build_run, "source_hash", lambda *rooms, before=build_run.source_hash: (
        "another" if "tasks" in rooms else before(*rooms)))  # the texts are those of before
    assert run(*words, "hydra.run.dir=now")[0] == 0
    assert {row["answer"] for row in table("val_0/generated.csv", "now")} == {"B"}


def test_a_run_does_not_go_on_with_other_questions(run: Door) -> None:
    assert run("trainer.max_epochs=1")[0] == 0
    rewritten(Path("questions.csv"), "Question 1?", "Question x?")
    code, _, err = run("trainer.max_epochs=2")
    assert (code, err) == (2, (
        "error: task.data=questions.csv: found another content than when the run in run began; "
        "legal: the same, or resume=never to begin anew\n"))
    _, out, _ = run("action=evaluate", "model.name=run/checkpoint_1", "hydra.run.dir=other")
    assert "warning: task.data has changed since run/checkpoint_1 was trained\n" in out
    rewritten(Path("questions.csv"), "Question x?", "Question 1?")
    rewritten(Path("model/config.json"), '"rope_theta": 10000.0', '"rope_theta": 10.0   ')
    code, _, err = run("trainer.max_epochs=2")
    assert code == 2 and "model.name=model: found another content of config.json than" in err
    code, out, _ = run("action=evaluate", "model.name=run/checkpoint_1", "hydra.run.dir=judged")
    assert code == 0 and "task.data has" not in out
    manifest, = Path("run").glob("checkpoint_1/manifest.json")
    said = json.loads(manifest.read_text())
    said["inputs"] |= {"prompts": "others", "model.name/config.json": inputs.content_hash(
        Path("model/config.json"))}
    manifest.write_text(json.dumps(said))
    code, _, err = run("trainer.max_epochs=2")
    assert code == 2 and err.startswith("error: task: found other prompts, of another version of ")
    del said["inputs"]  # as an earlier version left it
    manifest.write_text(json.dumps(said))
    assert run("trainer.max_epochs=2")[0] == 0 and summary()["inputs"]


def test_prompts_are_the_same_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    now = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    words = vocabulary(now)
    assert words.text(words.prompt([("user", "hi")])) == "26 Jul 2024 hi"
    other = TextVocabulary(words.tokenizer, date="2025-01-02")
    assert other.text(other.prompt([("user", "hi")])) == "02 Jan 2025 hi"
    assert words.tokenizer.chat_template == now


@pytest.mark.parametrize(("file", "content", "words", "said"), [
    ("model/config.json", '{"model_type": "llama",', [],
     "model.name=model: cannot be read (config.json: "),
    ("model/model.safetensors", None, [], "model.name=model: cannot be read (model.safetensors: it "
     "is cut off after "),
    ("questions.csv", 'id,question,A,B,answer\n1,"What?,a,b,A\n', [], "questions.csv, line 2: "),
    ("test.csv", "id,question,A,B,answer\n1,What?,a,b,C\n", ["task.test_data=test.csv"],
     "test.csv, line 2: found answer 'C'"),
    ("shots.csv", "id,question,A,answer\n", ["task.shots=1", "task.shots_data=shots.csv"],
     "shots.csv: found no rows"),
    ("old.csv", "question,text\nWho?,me\n", ["trainer.preload_data_for_val=old.csv"],
     "trainer.preload_data_for_val=old.csv: found no question of the task with 3 rollouts")])
def test_files_come_first(file: str, content: str | None, words: list[str], said: str, run: Door,
                          monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with one is told before anything is loaded."""
    monkeypatch.setattr("ponder.cli.actions.run", None)
    path = Path(file)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content.encode())
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {said}")


@pytest.mark.parametrize("strategy", ["star", "dpo"])
def test_a_run_with_nothing_to_learn_from_says_so(strategy: str, run: Door) -> None:
    code, out, err = run("trainer.max_epochs=1", f"strategy={strategy}", "task.answer=generated",
                         "thinker.tokens=2")
    said = f"nothing can be learnt from a round of 60 rollouts: none has what strategy={strategy}"
    assert (code, err) == (0, "") and f"warning: {said}" in out
    assert summary()["warnings"][0].startswith(said)
    assert f"Warning: {said}" in Path("run/report.html").read_text()


def test_a_run_without_a_last_round_ends_where_none_teaches(
        run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def counted(self: Collector, step: int, before: Any = Collector.collect) -> Any:
        rounds.append(step)
        assert len(rounds) < 9, "it would not end"
        return before(self, step)

    monkeypatch.setattr(Collector, "collect", counted)
    monkeypatch.setattr(ponder.training.trainer, "IN_VAIN", 3)
    words = ["trainer.max_epochs=null", "task.answer=generated", "thinker.tokens=2"]
    code, out, err = run(*words)
    said = "the run ends at step 0: 3 rounds in a row had nothing to learn from"
    assert (code, err) == (0, "") and out.count(f"warning: {said}") == 1 and rounds == [0, 0, 0]
    assert summary()["warnings"][1].startswith(said) and summary()["status"] == "done"
    assert "run is done" in run(*words)[1] and len(rounds) == 3


def test_held_out_questions_that_are_trained_on_are_counted(run: Door) -> None:
    assert "trained on as well" not in run("trainer.max_steps=0")[1]
    words = ("task.test_data=questions.csv", "task.test_questions=30", "hydra.run.dir=same")
    assert ("\nwarning: 24 of 24 held-out questions of questions.csv and questions.csv are trained "
            "on as well") in run("trainer.max_steps=0", *words)[1]


@pytest.mark.parametrize("strategy", ["star", pytest.param("dpo", marks=pytest.mark.slow)])
def test_rollouts_come_out_of_files(strategy: str, run: Door) -> None:
    assert run("trainer.internal_epochs=0", "trainer.do_eval=false")[0] == 0
    Path("run/train_0/generated.csv").rename("train.csv")
    code, out, err = run("resume=never", "trainer.preload_data_for_training=train.csv",
                         f"strategy={strategy}")
    assert (code, err) == (0, "")
    assert ("trainer.preload_data_for_training=train.csv: 60 of 60 rows are taken, for 20 of 20 "
            "questions\n") in out
    assert not Path("run/train_0/generated.csv").exists() and summary()["steps"] > 0
    Path("short.csv").write_text("question,text\nQuestion 1?,one\n")
    code, _, err = run("resume=never", "trainer.preload_data_for_training=short.csv")
    assert code == 2 and err == (
        "error: trainer.preload_data_for_training=short.csv: found no question of the task with 3 "
        "rollouts (at most 1 a question); legal: a generated.csv of these questions, or fewer "
        "rollout.samples\n")


@pytest.mark.slow
def test_a_small_model_is_taught_by_another(run: Door) -> None:
    """Distillation: what a larger model wrote, in its own tokens, becomes likelier to a smaller."""
    save_language_model(Path("small"), "gpt2")
    assert run("trainer.internal_epochs=0", "trainer.do_eval=false")[0] == 0
    rows = table("train_0/generated.csv")
    with Path("teacher.csv").open("w", newline="") as file:  # tokens of another model say nothing
        writer = csv.DictWriter(file, ["id", "rationale"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    code, _, err = run("model.name=small", "strategy=sft", "trainer.max_epochs=1",
                       "trainer.internal_epochs=8", "trainer.preload_data_for_training=teacher.csv",
                       "resume=never")
    assert (code, err) == (0, "")
    losses = [line["thinker_loss"] for line in lines() if "loss" in line]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], pytest.param(
    ["trainer.preload_data_for_training=train.csv"], marks=pytest.mark.slow)])
def test_a_run_cut_off_anywhere_ends_with_the_same_adapter(
        more: list[str], run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    if more:
        assert run("trainer.internal_epochs=0", "trainer.do_eval=false")[0] == 0
        Path("run/train_0/generated.csv").rename("train.csv")
        shutil.rmtree("run")
    words = [*more, "model.lora_r=4", "trainer.max_epochs=2", "trainer.save_every_n_steps=2",
             "strategy.keep=best", "trainer.train_gradient_accumulation_steps=1"]
    assert run(*words, "hydra.run.dir=whole")[0] == 0
    expected = summary("whole")
    assert expected["steps"] > 4
    shutil.rmtree("scratch/generated")

    def cut_off(target: object, name: str, number: int) -> None:
        """The call with this number ends the run."""
        before, calls = getattr(target, name), []

        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return before(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(target, name, call)
            assert run(*words)[0] == 130

    cut_off(ponder.rollouts.written.Store, "save", 2)  # in the middle of writing
    if not more:  # else writing was that of the second round
        cut_off(ponder.training.learner.Learner, "step", 3)  # in the middle of a round
    assert run(*words)[0] == 0
    assert summary()["weights_sha256"] == expected["weights_sha256"]
    assert [line["step"] for line in lines()] == [line["step"] for line in lines("whole")]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "doing", "number"), [
    *[("model.lora_r=4 strategy.keep=best", "sampling", number) for number in (3, 14, 26, 40)],
    *[("model.lora_r=4 strategy.keep=best", "scoring", number) for number in (1, 3, 5, 8)],
    *[("trainer.single_batch=true", *where) for where in (("sampling", 8), ("scoring", 5))],
    *[("strategy=dpo trainer.preload_data_for_val=val.csv", "scoring", number)
      for number in (1, 3, 6, 12)]])
def test_an_end_is_heeded_while_texts_are_written_or_read(
        words: str, doing: str, number: int, run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at a token or a judgement, in a round or an evaluation: that is the last one, and
    nothing is lost.
    """
    if "val.csv" in words:
        assert run("trainer.internal_epochs=0", "trainer.do_eval=false")[0] == 0
        shutil.move("run/train_0/generated.csv", "val.csv")
        shutil.rmtree("run")
    more = [*words.split(), "trainer.max_epochs=2", "trainer.skip_first_validation_loop=false"]
    assert run(*more, "hydra.run.dir=whole")[0] == 0
    shutil.rmtree("scratch/generated")
    before, calls = getattr(ProgressReporter, doing), []

    def heard(self: ProgressReporter, *how_far) -> None:
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        before(self, *how_far)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressReporter, doing, heard)
        assert run(*more)[0] == 130
    assert number <= len(calls) <= number + (doing == "scoring")  # of a whole one it hears at once
    assert run(*more)[0] == 0
    assert summary()["weights_sha256"] == summary("whole")["weights_sha256"]
    assert [(line["step"], line.get("accuracy")) for line in lines()] == [
        (line["step"], line.get("accuracy")) for line in lines("whole")]


def test_a_round_that_is_sampled_again_replaces_its_table(
        run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's handler may return, and the run goes on in the same process."""
    before, calls = ProgressReporter.sampled, []

    def stop(self: ProgressReporter, batch: Batch) -> None:
        before(self, batch)
        calls.append(batch.number)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressReporter, "sampled", stop)
    monkeypatch.setattr(Signals, "redeliver", lambda signals: setattr(signals, "caught", None))
    assert run("trainer.do_eval=false")[0] == 0
    assert calls == [0, 1, 0, 1, 2]
    assert len(table("train_0/generated.csv")) == 60
    assert not Path("run/train_0/rationalised.csv").exists()


def test_an_evaluation_shows_how_far_it_is(run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bool]] = []
    monkeypatch.setattr(Plain, "busy", lambda console, line, over: shown.append((line, over)))
    code, out, err = run("action=evaluate")
    assert (code, err) == (0, "") and out.count("\n") == 3 and "nan" not in out
    assert any(line.startswith("writing 4/4 texts") and over for line, over in shown)
    assert any(line.startswith("judging texts 8/8") and over for line, over in shown)


def test_a_hint_is_forgotten(run: Door) -> None:
    code, _, err = run("trainer.rationalise=true", "rollout.samples=1")
    assert (code, err) == (0, "")
    failed = sum(row["correct"] == "0" for row in table("train_0/generated.csv"))
    assert failed and len(table("train_0/rationalised.csv")) == failed
    assert lines()[0]["failed"] == pytest.approx(failed / 20)


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(run: Door) -> None:
    code, _, err = run("trainer.single_batch=true", "trainer.max_epochs=6",
                       "trainer.gen_batch_size=4", "trainer.val_every_n_epochs=100",
                       "strategy.keep=best", "reward=log_likelihood", "trainer.lr=1e-2")
    assert (code, err) == (0, "")
    assert lines()[-2]["answer_loss"] < 0.5 * lines()[0]["answer_loss"]
    assert torch.isfinite(torch.tensor(lines()[-2]["loss"]))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["model.lora_r=4", ""])
def test_activations_computed_again_change_nothing(words: str, run: Door) -> None:
    for name, again in (("kept", "false"), ("again", "true")):
        code, _, err = run("strategy=dpo", *words.split(), f"model.checkpointing={again}",
                           f"hydra.run.dir={name}")
        assert (code, err) == (0, "")
    plain, again = lines("kept"), lines("again")
    assert [line["step"] for line in plain] == [line["step"] for line in again]
    for one, other in zip(plain, again, strict=True):
        assert one.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("words, line", [
    (["thinker.tokens=480"], "thinker.tokens=480: found a prompt of 105 tokens and 10 of its "
     "answer (s0/23), with model.name=model, which reads 512 tokens at most; legal: at most 397\n"),
    (["task.preamble=" + "x" * 500], "task.data=questions.csv: found a prompt of 54"),
    (["task.preamble=" + "x" * 430, "trainer.rationalise=true"],
     "task.data=questions.csv: found a prompt of 509 ")])
def test_what_a_model_cannot_read_is_refused_before_it_is_loaded(
        words: list[str], line: str, run: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ponder.training.build_policies.load_text_model", None)
    code, _, error = run(*words)
    assert code == 2 and error.startswith(f"error: {line}"), error


def test_prompts_and_continuations_must_fit_as_well(run: Door, door: Door) -> None:
    code, _, error = door("task=corpus", "model=hf", "model.name=model", "task.prompt=hello",
                          "strategy=ppo", "variant=[think]", "reward=whitespace", "trainer=text",
                          "rollout=sample", "thinker.tokens=600")
    assert code == 2 and error == ("error: thinker.tokens=600: found model.name=model, which reads "
                                   "512 tokens at most; legal: at most 507\n")


@pytest.mark.parametrize("kind, limit", [
    ("GPT2", 512), ("Llama", 512), ("Mistral", 64), ("Qwen2", 512), ("Gemma2", 64)])
def test_positions_and_windows_are_known_without_weights(kind: str, limit: int,
                                                         tmp_path: Path) -> None:
    import transformers

    sizes = {"n_positions": 512} if kind == "GPT2" else {"max_position_embeddings": 512}
    sizes |= {"sliding_window": 64} if kind not in ("GPT2", "Llama") else {}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    config.save_pretrained(tmp_path)
    assert reads_at_most(HfConfig(name=str(tmp_path))) == limit


def test_a_reference_of_other_tokens_is_refused(run: Door) -> None:
    shutil.copytree("model", "other")
    path = Path("other/tokenizer.json")
    words = json.loads(path.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(words))
    for name, expected in (("other", 2), ("model", 0)):
        code, _, error = run("strategy=dpo", f"model.ref_name={name}", "trainer.max_steps=1")
        assert code == expected, error
        if code:
            assert error.startswith("error: model.ref_name=other: found other tokens than ")
