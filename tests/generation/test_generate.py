"""action=generate and action=chat through the door, for every kind of checkpoint."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from support.questions import CHAT, WORDS, file_of, save_language_model
from support.small import Door

RUN = Path(__file__).resolve().parents[2] / "run.py"
SMALL = ["model.d_model=8", "model.layers=1", "trainer.max_steps=2", "trainer.threads=1",
         "trainer.train_batch_size=4", "hydra.run.dir=run"]
NAME = "model.name=run/checkpoint_2"
ENDLESS = "generate.top_k=3"  # the end of the text is never among the likeliest


def text_model(door: Door, *words: str) -> str:
    """A checkpoint of running text that knows which letters are frequent; its data is gone. With
    words, one that they make of it.
    """
    Path("text.txt").write_text("to be or not to be, that is the question\n" * 30)
    assert door("experiment=normal", "task.data=text.txt", "task.length=16", *SMALL,
                "trainer.max_steps=60", "trainer.lr=1e-2", "trainer.warmup=0")[0] == 0
    name = "model.name=run/checkpoint_60"
    if words:
        assert door(name, "task.data=text.txt", "task.length=16", *SMALL, "trainer.max_steps=0",
                    "hydra.run.dir=thinker", *words)[0] == 0
        name = "model.name=thinker/checkpoint_0"
    Path("text.txt").unlink()
    return name


def adder(door: Door, *words: str) -> str:
    assert door("task.test_questions=20", "task.max=10", *SMALL, *words)[0] == 0
    return NAME


def generated(door: Door, *words: str) -> str:
    before = set(Path().rglob("*"))
    code, out, err = door("action=generate", *words)
    assert code == 0, err
    more = {path for path in set(Path().rglob("*")) - before if not path.name.startswith("found.")}
    assert not more
    return out


# --- every kind of checkpoint -------------------------------------------------------------------


def test_a_model_of_text_goes_on(door: Door) -> None:
    name = text_model(door)
    words = [name, "prompt=to be", "generate.tokens=40", ENDLESS]
    out = generated(door, *words, "seed=3")
    text = re.fullmatch(r"to be(.{40})\nlog p -\d+\.\d{4}, 40 tokens; \d+\.\d\d s, \d+ tokens a "
                        r"second\n", out, re.DOTALL)
    assert text and len(set(text[1])) > 1
    again = generated(door, *words, "seed=3")
    other = generated(door, *words, "seed=4")
    assert again.split("log p")[0] == out.split("log p")[0] != other.split("log p")[0]
    three = generated(door, name, "prompt=to be", "generate.tokens=9", "generate.samples=3",
                      "out=found.jsonl")
    rows = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and three.count("to be") == 3
    for number, row in enumerate(rows, 1):
        shown = f"{number} of 3: log p {row['logprob']:.4f}, {row['tokens']} tokens\nto be"
        assert shown + row["text"].removesuffix("\n") in three and row["thought"] == ""


def test_the_best_texts_of_a_beam_search(door: Door) -> None:
    out = generated(door, text_model(door), "prompt=or", "generate.tokens=5", "generate.beams=4",
                    "generate.samples=3", "generate.length_penalty=0.5", "out=found.csv")
    with Path("found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["score"]) for row in rows]
    assert len(rows) == 3 and scores == sorted(scores, reverse=True)
    for row in rows:
        assert float(row["score"]) == pytest.approx(
            float(row["logprob"]) / int(row["tokens"]) ** 0.5)
        assert f"score {float(row['score']):.4f}" in out


SUPERVISED = "experiment=supervised_rollout_think"


@pytest.mark.parametrize("words, thought", [
    ((), r"(<t\d>){4}</think>"), (("fixed=false",), r"(<t\d>){0,4}</think>")])
def test_a_model_of_text_thinks_behind_its_places(words: tuple[str, ...], thought: str, door: Door,
                                                  ) -> None:
    name = text_model(door, SUPERVISED, *words)
    asked = [name, "prompt=to be", "generate.tokens=11", ENDLESS, "seed=3"]
    out = generated(door, *asked, "out=found.jsonl")
    row = json.loads(Path("found.jsonl").read_text())
    shown = re.fullmatch(rf"to be(({thought}[ a-z,\n]){{11}})\nlog p -\d+\.\d{{4}}, 11 tokens "
                         r"and \d+ of thought; .* second\n", out)
    assert shown and re.sub(r"<t\d>|</think>", "", shown[1]) == row["text"]
    assert len(row["text"]) == row["tokens"] == 11 and row["thought"].count(" ") == 10
    hidden = generated(door, *asked, "generate.thoughts=hidden")
    assert hidden.startswith(f"to be{row['text']}\n") and f"log p {row['logprob']:.4f}" in hidden
    two = generated(door, *asked[:3], "generate.beams=3", "generate.samples=2", "out=found.jsonl")
    for line in Path("found.jsonl").read_text().splitlines():
        best = json.loads(line)
        assert best["score"] == pytest.approx(best["logprob"] / best["tokens"])
    assert two.count("of thought\nto be<t") + two.count("of thought\nto be</") == 2
    for plain in ("thinker.tokens=0", "think=false"):
        normal = generated(door, *asked, plain)
        assert normal.split(" second")[0].split(";")[0] == generated(
            door, "model.name=run/checkpoint_60", *asked[1:]).split(";")[0]


def test_a_model_of_text_thinks_among_its_words(door: Door) -> None:
    name = text_model(door, "experiment=rollout_think", "model.ref_name=run/checkpoint_60")
    asked = [name, "prompt=to be", "generate.tokens=40", "generate.samples=5"]
    out = generated(door, *asked, "out=found.jsonl")
    rows = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert re.search(r"<t\d>", out) and "of thought" not in out
    assert any("<t" in row["thought"] for row in rows)
    hidden = generated(door, *asked, "generate.thoughts=hidden")
    for row in rows:
        assert f"{row['tokens']} tokens\nto be{row['text']}".rstrip("\n") in hidden
        words = len(row["text"].removesuffix("<end>"))
        assert words + row["thought"].count("<t") <= row["tokens"] <= 40
    assert "<t" not in generated(door, *asked, "thinker.tokens=0")


@pytest.mark.parametrize("words", [[], ["variant=[]", "task.answer=digits"],
                                   ["variant=[think]", "answerer.model=shared"],
                                   ["think=true", "blind=true", "thinker.kind=gumbel"]])
def test_a_thinker_thinks_then_answers(words: list[str], door: Door) -> None:
    name = adder(door, *words)
    out = generated(door, name, "prompt=3+4=", "out=found.jsonl")
    row = json.loads(Path("found.jsonl").read_text())
    thought = {"[]": r"()", "[think]": r"((?:<t\d>)?)"}.get(
        words[0].removeprefix("variant=") if words else "", r"(<t\d>)")
    found = re.match(rf"3\+4={thought}</think>(\d)\nlog p -", out)
    assert found and (row["thought"], row["text"]) == found.groups()
    hidden = generated(door, name, "prompt=3+4=", "generate.thoughts=hidden")
    assert hidden.startswith(f"3+4={row['text']}\n")
    three = generated(door, name, "prompt=3+4=", "generate.beams=3", "generate.samples=3")
    assert three.count("3+4=") == 3 and three.count("score") == 3


@pytest.mark.parametrize("words", ["blind=true", "answerer.model=shared task.answer=digits"])
def test_vectors_are_shown_with_their_numbers(words: str, door: Door) -> None:
    """The thought and the answer are those that the evaluation of the run has in its table."""
    name = adder(door, "thinker.kind=continuous", "think=true", *words.split())
    with Path("run/val_2/generated.csv").open(newline="") as file:
        known = next(csv.DictReader(file))
    asked = f"prompt={known['question']}"
    out = generated(door, name, asked, "generate.temperature=0", "out=found.csv")
    with Path("found.csv").open(newline="") as file:
        row, = csv.DictReader(file)
    assert row["thought"] + "</think>" == known["thought"] and row["numbers"] == known["numbers"]
    assert row["text"] == known["answer"].replace("#", "") and row["tokens"] == "1"
    number = r"\((-?\d+\.\d\d ?){3}\)"
    assert re.fullmatch(rf"\d\+\d=<t\d>{number}</think>\d\nlog p -\d+\.\d{{4}}, 1 tokens and 2 of "
                        r"thought; .* second\n", out)
    hidden = generated(door, name, asked, "generate.temperature=0", "generate.thoughts=hidden")
    assert hidden.startswith(f"{known['question']}{row['text']}\n")
    three = generated(door, name, "prompt=3+4=", "generate.beams=3", "generate.samples=3")
    assert len(set(re.findall(r"3\+4=(.*</think>)", three))) == 1 and three.count("score") == 3
    code, out, err = door("action=generate", name, "prompt=3+44=")
    assert (code, out) == (2, "") and "prompt=3+44=: found 44; legal: numbers below 10" in err


def test_a_model_of_hugging_face(door: Door) -> None:
    """Greedy text is that of transformers; with a chat template the prompt is a user's turn."""
    from transformers import AutoModelForCausalLM

    save_language_model(Path("plain"), "gpt2")
    words = ["model.name=plain", "prompt=hello", "generate.tokens=12", "generate.temperature=0"]
    out = generated(door, *words)
    model = AutoModelForCausalLM.from_pretrained("plain")
    import torch

    prompt = torch.tensor([WORDS.encode("hello")])
    text = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                          max_new_tokens=12, pad_token_id=0)[0].tolist()
    assert out.startswith(WORDS.text(text))
    tokenizer = WORDS.tokenizer
    try:
        tokenizer.chat_template = CHAT
        save_language_model(Path("chatty"), "gpt2")
    finally:
        tokenizer.chat_template = None
    chatty = generated(door, "model.name=chatty", *words[1:])
    assert chatty.startswith("hello\n") and chatty.split("log p")[0] != out.split("log p")[0]
    assert "2 of 2: score" in generated(door, *words[:3], "generate.beams=3", "generate.samples=2")


@pytest.mark.parametrize("lora", [0, 4])
def test_a_language_model_that_learnt_here(lora: int, door: Door) -> None:
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 24)
    assert door("task=qa", "variant=[think]", "rollout=sample", "reward=exact_match",
                "trainer=text", "model=hf", "model.name=model", "task.data=questions.csv",
                "task.test_questions=4", "thinker.tokens=4", "strategy=sft", "trainer.max_steps=1",
                f"model.lora_r={lora}", "hydra.run.dir=run")[0] == 0
    Path("questions.csv").unlink()
    name, = Path("run").glob("checkpoint_*")
    assert generated(door, f"model.name={name}", "prompt=hello", "generate.tokens=5").startswith(
        "hello")


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words, line", [
    (["action=generate", "prompt=a"], "action=generate: found model.name=null; legal: with "),
    (["action=chat"], "action=chat: found model.name=null; legal: with model.name=<checkpoint"),
    (["action=generate", "prompt=a", "model.name=star_runs/none"], "model.name=star_runs/none: "
     "found no such directory; legal: "),
    (["action=generate", "prompt=a", "model.name=."], "model.name=.: found no config.json there"),
    (["action=generate", "model.name=m"], "action=generate: found prompt=null; legal: with prom"),
    (["action=chat", "model.name=m", "prompt=a"], "prompt=a: found action=chat, where prompts"),
    (["action=chat", "model.name=m", "generate.beams=3"], "generate.beams=3: found action=chat"),
    (["action=chat", "model.name=m", "generate.samples=3"], "generate.samples=3: found action=c"),
    (["action=chat", "model.name=m", "out=x.csv"], "out=x.csv: found action=chat; legal: action="),
    (["action=generate", "model.name=m", "prompt=a", "generate.beams=2", "generate.top_k=3"],
     "generate.top_k=3: found generate.beams=2, and a beam search samples nothing; legal: 0, or"),
    (["action=generate", "model.name=m", "prompt=a", "generate.beams=2", "generate.samples=3"],
     "generate.samples=3: found generate.beams=2; legal: at most as many as beams"),
    (["action=generate", "model.name=m", "prompt=a", "generate.stopping=exact"],
     "generate.stopping=exact: found generate.beams=0, so no beam search; legal: bound, or"),
    (["action=generate", "model.name=m", "prompt=a", "out=x.txt"], "out=x.txt: found no table to"),
    (["-m", "action=generate", "model.name=m", "prompt=a,b"], "action=generate: found -m; legal"),
])
def test_nonsense_gets_one_line(words: list[str], line: str, door: Door, tmp_path: Path) -> None:
    code, out, err = door(*words)
    assert (code, out) == (2, "") and err.startswith(f"error: {line}"), err
    assert err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_prompts_that_a_model_cannot_read(door: Door) -> None:
    name = text_model(door)
    for prompt, line in (("é", "prompt: found 'é', which the model has never read; legal: '"),
                         ("to " * 20, "prompt=to to to to to to to to to to to to to t...: found 60"
                          " tokens; legal: at most 17, the positions of the model")):
        code, out, err = door("action=generate", name, f"prompt={prompt}")
        assert (code, out) == (2, "") and err.startswith(f"error: {line}") and "\n" not in err[:-1]
    code, _, err = door("action=generate", "model.name=run", "prompt=to")
    assert code == 2 and "found a run; legal: a checkpoint of it, as run/checkpoint_60" in err


def test_checkpoints_that_cannot_think_as_they_are_asked_to(door: Door) -> None:
    thinker = text_model(door, SUPERVISED)
    mixer = Path("thinker/checkpoint_0/mixer.safetensors")
    normal, asked = "model.name=run/checkpoint_60", ["prompt=to", "generate.tokens=3"]
    for words, line in (
            ([normal, "thinker.tokens=3"], "thinker.tokens=3: found model.name=run/checkpoint_60, "
             "which knows no thought tokens; legal: 0, or a checkpoint of experiment="),
            ([thinker, "thinker.tokens=30"], "thinker.tokens=30: found model.name=thinker/"
             "checkpoint_0, which has 21 positions; legal: at most 19"),
            ([thinker, "variant=[think]"], "variant=[think]: found a checkpoint trained otherwise"),
            ([thinker, "prompt=" + "to\nbe" * 9], "prompt=to\\nbeto\\nbe")):
        code, out, err = door("action=generate", *asked, *words)
        assert (code, out) == (2, "") and err.startswith(f"error: {line}") and "\n" not in err[:-1]
    assert generated(door, thinker, *asked, "thinker.tokens=18").startswith("to<t")
    mixer.write_bytes(b"damaged")
    code, _, err = door("action=generate", thinker, *asked)
    assert code == 2 and "cannot be read (mixer.safetensors: it has no header" in err
    mixer.unlink()
    code, _, err = door("action=generate", thinker, *asked)
    assert code == 2 and "found no mixer.safetensors, which mixes what is predicted" in err
    assert generated(door, thinker, *asked, "task.mix=false").startswith("to<t")


def test_generate_says_that_a_text_outgrew_its_positions(door: Door) -> None:
    name = text_model(door)
    code, _, err = door("action=generate", name, "prompt=to be", "generate.tokens=60",
                        ENDLESS)
    assert code == 0 and err.startswith("note: longer than the 17 positions of the model")
    assert door("action=generate", name, "prompt=to be", "generate.tokens=5", ENDLESS)[2] == ""


# --- talking ------------------------------------------------------------------------------------


def talk(said: str, *words: str) -> tuple[str, str]:
    """A talk through a pipe."""
    found = subprocess.run([sys.executable, str(RUN), "action=chat", *words], input=said,
                           capture_output=True, text=True, check=True)
    return found.stdout, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words, number", [
    ("", ""), ("think=true blind=true thinker.kind=continuous", r"\(.*\)")])
def test_a_talk_through_a_pipe(words: str, number: str, door: Door) -> None:
    name = adder(door, *words.split())
    out, err = talk("3+4=\nwhat?\n/thoughts\n3+4=\n/nonsense\n\n/reset\n/help", name,
                    "generate.temperature=0")
    first, second = out.splitlines()
    assert re.fullmatch(rf"<t\d>{number}</think>\d", first) and second == first[-1]
    assert "error: prompt=what?: found no question of this model" in err
    assert "thoughts are hidden\n/nonsense: no such command; legal: /thoughts, /reset, /help" in err
    assert "the conversation is forgotten" in err and "Ctrl-D ends" in err


@pytest.mark.slow
def test_ctrl_c_stops_the_writing_and_ctrl_d_the_program(door: Door) -> None:
    name = text_model(door)
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, str(RUN), "action=chat", name,
                                ENDLESS, "generate.tokens=1000000"], stdin=slave, stdout=slave,
                               stderr=slave, start_new_session=True, preexec_fn=_own_terminal)
    os.close(slave)
    try:
        _until(master, rb"> $")
        for _ in range(2):
            os.write(master, b"to be\n")
            _until(master, rb"to be\r\n.*[ a-z]{9}")
            assert process.poll() is None
            os.write(master, b"\x03")
            _until(master, rb"note: stopped\r\n.*> $")
        _until(master, rb"Ctrl-D ends\r\n.*> $", press=b"\x03")
        _until(master, rb"\r\n", press=b"\x04")
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(master)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until(file: int, wanted: bytes, seconds: float = 180, press: bytes = b"") -> None:
    """Read what a terminal shows until this is in it. A key is pressed again where nothing comes of
    it: readline loses those that come while it sets up the terminal, after its prompt.
    """
    seen, end = b"", time.monotonic() + seconds
    os.write(file, press)
    while not re.search(wanted, seen, re.DOTALL):
        assert time.monotonic() < end, seen[-300:]
        if select.select([file], [], [], 3)[0]:
            seen += os.read(file, 65536)
        else:
            os.write(file, press)
