"""The page over all runs: what is in a row, what a filter finds, and nothing that breaks it."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from ponder.reports.browse import index_link, page
from ponder.reports.listing import Entry, filter_words, list_runs, shared_words, typed_keys
from support.browser import opened
from support.small import Door

CONFIG = """\
action: {action}
seed: {seed}
task:
  name: {task}
model:
  kind: transformer
  name: null
  layers: 2
  d_model: 64
thinker:
  tokens: {tokens}
  stops: false
answerer:
  sees: [question, thought]
  learns_from: own
reward:
  exact_match: 1.0
rollout:
  kind: sample
strategy:
  name: grpo
trainer:
  lr: {lr}
"""
DONE: dict[str, Any] = {"accuracy": 0.75, "necessity": {"own": 0.75, "shuffled": 0.25},
                        "steps": 1200, "status": "done"}
HOST = socket.gethostname()


def make_run(directory: Path, *words: str, summary: Any = DONE, files: dict[str, str] | None = None,
             **told: Any) -> Path:
    """A run that was begun with these words; summary: None, an object, or the text of the file."""
    told = {"action": "train", "seed": 0, "task": "cups", "tokens": 2, "lr": 0.002} | told
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(CONFIG.format(**told))
    (directory / "words.json").write_text(json.dumps(words))
    if summary is not None:
        text = summary if isinstance(summary, str) else json.dumps(
            {**summary, "seed": told["seed"]})
        (directory / "summary.json").write_text(text)
    for name, content in (files or {}).items():
        (directory / name).write_text(content)
    return directory


def only(directory: Path) -> Entry:
    entry, = list_runs([str(directory)]).entries
    return entry


def test_a_run_that_is_done(tmp_path: Path) -> None:
    made = make_run(tmp_path / "star_runs" / "train_2026-03-09" / "14-05-06", "task=cups", "seed=3",
                    seed=3)
    entry = only(made)
    assert (entry.status, entry.date, entry.sweep) == ("done", "2026-03-09 14:05:06", "")
    assert (entry.title, entry.seed, entry.steps, entry.accuracy) == ("task=cups", 3, 1200, 0.75)
    assert (entry.gap, entry.model, entry.flags) == (pytest.approx(0.5), "2 x 64", "think,fixed")
    words = filter_words(entry, ["trainer.lr", "task.bits"])
    assert {"trainer.lr=0.002", "task=cups", "seed=3", "strategy=grpo", "think=true", "blind=false",
            "status=done", "accuracy=0.75", "gap=0.5", "steps=1200"} <= {*words}
    assert not any(word.startswith("task.bits") for word in words)  # no key of this run


def test_without_thoughts_nothing_is_lost(tmp_path: Path) -> None:
    assert only(make_run(tmp_path / "a", tokens=0)).gap is None


LOCK = "process {} on {}\n"


@pytest.mark.parametrize(("status", "reason", "summary", "files"), [
    ("done", "", DONE, {"error.txt": "of an earlier try"}),
    ("failed", "RuntimeError: no memory", None, {
        "error.txt": "Traceback (most recent call last):\n  File x\nRuntimeError: no memory\n"}),
    ("running", "", None, {".lock": LOCK.format(os.getpid(), HOST)}),
    ("running", "", '{"accu', {".lock": LOCK.format(os.getpid(), HOST)}),
    ("interrupted", "", None, {".lock": LOCK.format(2 ** 22 + 1, HOST)}),  # no process has it
    ("interrupted", "", None, {".lock": LOCK.format(10 ** 30, HOST)}),
    ("interrupted", "", None, {"metrics.jsonl": '{"step": 3, "accuracy": 0.2}\n{"st'}),
    ("elsewhere", "its process is, or was, on another machine", None, {
        ".lock": LOCK.format(1, "far.away")}),
    ("not begun", "", None, {}),
    ("damaged", "summary.json (no JSON)", '{"accu', {}),
    ("damaged", "summary.json (no JSON object)", "[1]", {}),
])
def test_how_a_run_stands(tmp_path: Path, status: str, reason: str, summary: Any,
                          files: dict[str, str]) -> None:
    entry = only(make_run(tmp_path / "a", summary=summary, files=files))
    assert (entry.status, entry.reason) == (status, reason)
    if "metrics.jsonl" in files:
        assert (entry.steps, entry.accuracy) == (3, 0.2)


def test_a_process_number_that_was_used_again(tmp_path: Path) -> None:
    made = make_run(tmp_path / "a", summary=None, files={".lock": LOCK.format(os.getpid(), HOST)})
    os.utime(made / ".lock", (1e9, 1e9))  # long before this process began
    assert only(made).status == "interrupted"


def make_sweep(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        make_run(folder / name, "task=cups", f"trainer.lr={10.0 ** -number}", f"seed={number}",
                 lr=10.0 ** -number, seed=number)
    lines = [json.dumps({"job": 0, "directory": name}) for name in names]
    with (folder / "sweep.jsonl").open("a") as file:
        file.write("\n".join([*lines, "[1]", '{"torn']))


def test_runs_of_a_sweep_are_together(tmp_path: Path) -> None:
    day = tmp_path / "train_2026-01-02"
    make_sweep(day, "10-00-00_0", "10-00-00_1")
    make_run(day / "11-00-00", "task=add")  # by itself, on the same day
    make_run(tmp_path / "train_2026-01-01" / "09-00-00")
    make_sweep(tmp_path / "lr", "10-00-00_0", "12-00-00_1")  # continued later
    entries = list_runs([str(tmp_path)]).entries
    lr, dated = [[entry for entry in entries if entry.sweep == name]
                 for name in (str(tmp_path / "lr"), f"{day}/10-00-00")]
    assert [entry.title for entry in lr] == [entry.title for entry in dated] == [
        "trainer.lr=1.0", "trainer.lr=0.1"]
    assert shared_words(dated) == ["task=cups"]
    alone = [entry for entry in entries if not entry.sweep]
    assert [entry.title for entry in alone] == ["task=add", "default run"]  # the newest first
    named = [entry.sweep for entry in entries]
    assert all(named.index(name) + named.count(name) - 1 == len(named) - 1 - named[::-1].index(name)
               for name in {*named} - {""})
    assert typed_keys(entries) == ["trainer.lr"]


def test_names_and_words_cannot_leave_their_place(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'&ü"
    make_run(tmp_path / "<script>\"'ü #?%", f"task.data={bad}", files={"report.html": ""})
    os.makedirs(os.fsencode(tmp_path) + b"/\xff/.hydra")
    content = page(list_runs([str(tmp_path)]), tmp_path)
    assert content.count("<script") == 1 and "alert(1)<" not in content
    link = "%3Cscript%3E%22%27%C3%BC%20%23%3F%25"
    assert f'href="{link}/report.html"' in content and f'href="{link}"' in content
    assert 'href="%FF"' in content
    content.encode("utf-8", "xmlcharrefreplace")


ODD = ("action: [1, 2]\ntask: 7\nmodel:\n  name: {a: 1}\nthinker:\n  tokens: {b: 2}\n",
       "- a\n- b\n", "{]: \0", "a: &a [*a]\n", "seed: ${seed}\nmodel:\n  layers: ${model.layers}\n")


def test_nothing_in_a_directory_breaks_the_page(tmp_path: Path) -> None:
    for number, text in enumerate(ODD):
        made = make_run(tmp_path / str(number), summary={
            "accuracy": "much", "necessity": [1], "steps": {}, "seed": [1, {"a": None}]})
        (made / ".hydra" / "config.yaml").write_text(text)
        (made / "words.json").write_text(["7", "{", '{"a": 1}', "[[1], null]", "\0"][number])
    (tmp_path / "folder" / "summary.json").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "summary.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = list_runs([str(tmp_path)])
    assert len(found.entries) == len(ODD) + 2
    assert page(found, tmp_path).count("<tr data-w=") == len(ODD) + 2


def test_comparisons_are_linked_and_are_no_runs(tmp_path: Path) -> None:
    make_sweep(tmp_path / "lr", "10-00-00_0", "10-00-00_1")
    made = make_run(tmp_path / "compare_2026-01-01" / "10-00-00", action="compare", summary=None,
                    files={"compare.html": ""})
    with (made / ".hydra" / "config.yaml").open("a") as file:
        file.write(f"runs: ['{tmp_path / 'lr'}']\n")
    content = page(list_runs([str(tmp_path)]), tmp_path)
    assert content.count("<tr data-w=") == 2
    assert content.count('href="compare_2026-01-01/10-00-00/compare.html"') == 2  # list, sweep


def test_pages_link_to_it(tmp_path: Path) -> None:
    run = tmp_path / "star_runs" / "train_2026-01-01" / "10-00-00"
    assert 'href="../../index.html"' in index_link(run)
    assert index_link(tmp_path / "elsewhere") == ""


@pytest.mark.slow
def test_the_command(door: Door) -> None:
    assert door("action=browse") == (
        2, "", "error: runs=star_runs: found no such directory; legal: directories or globs that "
        "hold runs, as in runs=[star_runs/a,star_runs/b*]\n")
    make_run(Path("star_runs/a"))
    make_run(Path("star_runs/b"), summary=None)
    code, out, err = door("action=browse")
    assert (code, err) == (0, "") and out.startswith("2 runs (1 not begun, 1 done); open file:///")
    assert Path("star_runs/index.html").read_text("utf-8").count("<tr data-w=") == 2
    assert sorted(os.listdir("star_runs")) == ["a", "b", "index.html"]
    code, out, err = door("action=browse", "runs=star_runs/a*", "out=mine.html")
    assert code == 0 and Path("mine.html").read_text("utf-8").count("<tr data-w=") == 1
    assert door("action=browse", "out=mine.csv")[2] == (
        "error: out=mine.csv: found another kind of file; legal: out=<file> that ends in .html\n")
    Path("star_runs/c").mkdir()
    assert "found no run there" in door("action=browse", "runs=star_runs/c")[2]


def test_many_runs_are_one_small_page(tmp_path: Path) -> None:
    for number in range(100):
        make_run(tmp_path / f"train_2026-01-{number % 28 + 1:02d}" / f"10-00-{number:02d}",
                 "task=cups", f"seed={number}", f"trainer.lr={number}", seed=number)
    assert len(page(list_runs([str(tmp_path)]), tmp_path)) < 100 * 1100 + 12_000


# --- in a browser --------------------------------------------------------------------------------

TRIED = """<script>
const shown = () => [...document.querySelectorAll("tr[data-w]")].filter(
  row => row.checkVisibility()).map(row => row.cells[9].textContent).join("");
const tried = [];
for (const word of WORDS) {
  box.value = word; box.dispatchEvent(new Event("input")); tried.push(shown());
}
box.value = ""; box.dispatchEvent(new Event("input"));
const heads = document.querySelectorAll("thead button");
for (const [name, times] of CLICKS) {
  const head = [...heads].find(one => one.textContent === name);
  for (let i = 0; i < times; i++) head.click();
  tried.push(shown());
}
together.click(); tried.push(shown());
tried.push(document.documentElement.scrollWidth <= innerWidth ? "fits" : "too wide");
document.title = tried.join("|");
</script></body>"""
FILTERS = {"seed=1": "1", "lr=0.5": "310", "lr=5e-1 task=cups": "31", "trainer.lr=0.2": "2",
           "accuracy>0.55": "21", "accuracy<=0.5 seed!=0": "3", "status=failed": "4",
           "-status=done": "4", "task=c*": "4321", "-cups": "0", "cups -task=cups": "",
           "blind=true": "", "think=true seed>3": "4", '"no memory"': "4", "(": "", "seed=": ""}
CLICKS = [("seed", 1, "43210"), ("accuracy", 1, "21034"), ("accuracy", 1, "30124"),
          ("begun", 2, "01234")]  # what is unknown comes last


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_it_filters_and_sorts_in_a_browser(tmp_path: Path, width: int) -> None:
    folder = tmp_path / "star_runs" / "train_2026-01-01"
    for seed, (task, lr, accuracy) in enumerate([("add", 0.5, 0.5), ("cups", 0.5, 0.6),
                                                 ("cups", 0.2, 0.7), ("cups", 0.5, 0.1)]):
        make_run(folder / f"10-00-0{seed}", f"task={task}", f"trainer.lr={lr:g}",
                 summary=DONE | {"accuracy": accuracy}, seed=seed, task=task, lr=lr)
    make_run(folder / "10-00-04", f"out={'long' * 60}", "prompt=<script>document.title=1</script>",
             summary=None, seed=4, files={"error.txt": "E: no memory"})
    content = page(list_runs([str(tmp_path)]), tmp_path)
    tried = TRIED.replace("WORDS", json.dumps([*FILTERS])).replace("CLICKS", json.dumps([*CLICKS]))
    (tmp_path / "index.html").write_text(content.replace("</body>", tried))
    drawn, console = opened(tmp_path / "index.html", f"--window-size={width},900")
    title = re.search("<title>(.*?)</title>", drawn)
    assert console == [] and title is not None
    orders = [order for *_, order in CLICKS]
    assert title[1].split("|") == [*FILTERS.values(), *orders, "01234", "fits"]
    drawn, _ = opened(tmp_path / "index.html", fragment="task%3Dadd")
    assert 'role="status">5 of 5 runs' in drawn  # the script above has emptied the filter
