"""The report: everything in one page, nothing from outside, and plotly draws in a real browser."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ponder.config.spine import Config
from ponder.reports import figures
from ponder.reports.figures import coloured, conditional_shares, downsample, heat_maps
from ponder.reports.run_page import (
    SECTIONS,
    RunRecord,
    answer_digits,
    chance,
    last_rows,
    title_of,
    write_report,
)
from ponder.reports.runs import flatten, variant_flags
from support.browser import opened

SUMMARY: dict[str, Any] = {
    "accuracy": 0.5, "metrics": {"accuracy_stderr": 0.25}, "steps": 40, "seconds": 12.4,
    "necessity": {"own": 0.5, "shuffled": 0.1, "random": 0.1, "constant": 0.1, "dropped": 0.0},
    "rollouts_per_second": 2048.0, "seed": 3, "run_name": "train/now",
    "git_revision": "0123456789abcdef+", "weights_sha256": "fedcba9876543210"}
CONFIG: dict[str, Any] = {
    "task": {"name": "add", "max": 100, "modular": True, "answer": "number", "order": "most"},
    "thinker": {"tokens": 2, "vocabulary": 10, "stops": False},
    "answerer": {"sees": ["thought"], "learns_from": "own"},
    "reward": {"exact_match": 1.0}, "rollout": {"kind": "sample"},
    "out": "<script>alert(1)</script>"}


def make_run(directory: Path, thoughts: bool = True) -> Path:
    """40 steps, two evaluations; the thought is the answer, tens first, and 3 of 4 are right."""
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(1, 41):
            print(json.dumps({"step": step, "loss": 4 / step, "answer_loss": 3 / step,
                              "reward": math.nan if step == 5 else -1 / step, "lr": 0.001,
                              "thought_entropy": 2.0, "grad_norm": math.inf}), file=file)
            if step % 20 == 0:
                print(json.dumps({
                    "step": step, "accuracy": step / 80, "meaning/t1/units": 0.1,
                    "meaning/t1/tens": 2.0, "meaning/t2/units": 2.1, "meaning/t2/tens": 0.2,
                }), file=file)
        file.write('{"step": 41, "lo')  # the process was killed here
    for step in (9, 40):
        (directory / f"val_{step}").mkdir()
        with (directory / f"val_{step}" / "generated.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", "thought", "answer", "gold", "correct"])
            for i in range(step if step == 9 else 100):
                thought = f"<t{i // 10}><t{i % 10}></think>" if thoughts else "</think>"
                writer.writerow([i, f"{i:02d}+00=", thought, f"#{i}", f"#{i}", int(i % 4 > 0)])
    return directory


def written(directory: Path, summary: dict[str, Any] = SUMMARY,
            config: dict[str, Any] = CONFIG) -> str:
    """The page without plotly.js, which must be in it at most once."""
    write_report(directory, summary, config)
    content = (directory / "report.html").read_text(encoding="utf-8")
    assert content.count(LIBRARY) == ('class="plotly-graph-div"' in content)
    content = without_library(content)
    assert "could not be drawn" not in content
    return content


def test_the_library_is_what_its_authors_publish() -> None:
    """plotly.js-cartesian-dist-min 4.1.1 of npm, byte for byte."""
    content = gzip.decompress(figures.LIBRARY.read_bytes())
    assert hashlib.sha256(content).hexdigest() == (
        "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a")
    assert figures.LIBRARY.stat().st_size < 500_000  # of which a page takes 4 / 3


LIBRARY = '<script id="plotly"'


def without_library(content: str) -> str:
    return re.sub(f"{LIBRARY}.*?</script>\n<script>.*?</script>", "", content, flags=re.DOTALL)


def sections_in(content: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', content)


def section(content: str, name: str) -> str:
    return content.split(f'<section id="{name}">')[1].split("</section>")[0]


def figures_in(content: str, name: str) -> int:
    return section(content, name).count('class="plotly-graph-div"')


@pytest.mark.slow
def test_a_report_tells_the_run(tmp_path: Path) -> None:
    content = written(make_run(tmp_path))
    # p = 0.5 and stderr = 0.25 are those of 4 questions: (0.5 + 0.4802 ± 0.6793) / 1.9604
    assert ("Accuracy 50.0% (95 % interval 15.0% to 85.0%) on 100 held-out questions, 40 steps, "
            "12 s of training, 2,048 rollouts/s.") in content
    assert "variants <code>think,fixed,blind</code>" in content
    assert "code <code>0123456789ab+</code>" in content
    assert "chance 1/100" in content and "entropy of a digit" in content
    assert "<title>add (max 100) · think, fixed, blind</title>" in content
    assert {name: figures_in(content, name) for name in SECTIONS
            if name not in ("carried", "states")} == {
        "result": 0, "training": 5, "necessity": 1, "language": 4, "meaning": 2, "rollouts": 0,
        "details": 0}
    rollouts = content.split('<section id="rollouts">')[1].split("</section>")[0]
    assert (rollouts.count("✗"), rollouts.count("✓")) == (8, 12)
    assert '<span class="cyan">&lt;t0&gt;&lt;t4&gt;</span><span class="magenta">' in rollouts
    assert "8 of 25 wrong ones first" in rollouts
    assert "<td>40</td>" in content and "max: 100" in content


@pytest.mark.slow
def test_a_report_loads_nothing_from_outside(tmp_path: Path) -> None:
    content = written(make_run(tmp_path))
    assert not re.search(r"(src|href)=|https?://|@import|url\(|<link", content)
    assert "default-src 'none'" in content and "form-action 'none'" in content
    write_report(tmp_path, SUMMARY, CONFIG)
    page = (tmp_path / "report.html").read_text()
    assert '"showSendToCloud": false' in page and page.count("Plotly.newPlot(") == 1
    assert len(page) < 2_500_000


def with_states(directory: Path, state: str = "up") -> dict[str, Any]:
    """Two questions of two steps, `a` and `b` for the states; the summary of such a run."""
    (directory / "val_9").mkdir(exist_ok=True)
    (directory / "val_9" / "generated.csv").write_text(
        "question,thought,answer,gold,correct,states\n"
        f"x y,<t0> <t1> </think>,1,1,1,{state} down\nx z,<t1> <t1> <t0> </think>,1,2,0,down "
        f"{state}\n")
    language = {"attributes": ["1", "2"], "information": [[0.6, 0.1], [0.0, 0.5]],
                "entropy": [0.69, 0.69], "states": [state, "down"],
                "by_position": {"all": [1.0, 0.5], "own": [1.0, 1.0]},
                "words": [{"state": state, "token": "<t0>", "of_state": 0.5, "of_token": 1.0,
                           "steps": 2}, {"state": "down", "token": None, "of_state": 0.0,
                                         "of_token": 0.0, "steps": 0}],
                "tokens": [["<t0>", None], ["<t1>", None]],
                "confusion": [[0, 0, 1], [3, 0, 1]], "confusion_tokens": ["<t0>", "<t9>", "<t1>"],
                "confusion_by_position": [[[0, 0, 1], [1, 0, 0]], [[0, 0, 0], [2, 0, 1]]],
                "readings": [{"<t0>": state, "<t1>": "down"}]}
    metrics = {"thought/state_agreement": 0.875, "thought/topographic_similarity": 0.625,
               "thought/codes": 2.0, "asked/accuracy": 0.75, "accuracy": 0.5,
               "swap/same_state": 1.0, "swap/other_state": 0.9375, "swap/before": 0.3125,
               "swap/earlier_state": 0.8125,
               "necessity/replaced/t1": 0.5,
               "necessity/replaced/t2": 0.25, "necessity/truncated/0": 0.1,
               "necessity/truncated/1": 0.2, "necessity/truncated/2": 1.0,
               "accuracy/2_steps": 1.0, "accuracy/10_steps": 0.5}
    return {**SUMMARY, "language": language, "metrics": metrics}


def test_a_thought_stands_beside_the_true_states(tmp_path: Path) -> None:
    """Of the second question one token is right, one wrong, and one has no state beside it."""
    content = written(tmp_path, with_states(tmp_path))
    assert [figures_in(content, name) for name in ("states", "necessity")] == [2, 2]
    part = content.split('<section id="states">')[1].split("</section>")[0]
    assert '"z":[[0.6,0.1],[0.0,0.5]]' in part and "<td>0.625</td>" in part
    assert '<td><code><span class="cyan">&lt;t0&gt;</span></code></td><td>50.0%</td>' in part
    first, second = part.split("<details ")[1:]
    assert " open>" in first[:20] and " open>" not in second[:20]
    assert (first.count("✓"), first.count("✗"), first.count('class="hit"')) == (3, 0, 8)
    assert re.findall(r">(\w*)</td>", second)[3:9] == ["down", "down", "up", "down", "up", ""]
    assert (second.count('class="hit"'), second.count('class="miss"')) == (4, 4)
    assert 'class="other">t1<' in part and "right is" in second


def test_states_and_tokens_are_counted_beside_the_measures(tmp_path: Path) -> None:
    """Tokens stand in the order of the states that they mean, unused ones are left out; the whole,
    and then each step. Older runs have fewer numbers.
    """
    part = section(written(tmp_path, with_states(tmp_path)), "carried")
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td>", part)
    assert rows == [("the question itself", "50.0%"), ("others, asked in training", "75.0%"),
                    ("agreement", "87.5%"), ("tokens used", "2"), ("swapped, same state", "100.0%"),
                    ("swapped, another state", "93.8%"), ("swapped earlier", "81.2%")]
    assert "of which the last token is (31.2% are so without the swap)" in part
    tables = [" ".join(re.sub("<[^>]*>", " ", table).split()) for table in
              re.findall(r'<table class="replay">(.*?)</table>', part)]
    assert tables == ["state t1 t0 up 1 down 1 3", "state t1 t0 up 1 down 1",
                      "state t0 t1 down 2 1"]
    assert "rgba(36,110,225,0.45)" in part  # 0.6 of three of four steps
    old = {**SUMMARY, "metrics": {"thought/state_agreement": 0.5}, "language": {}}
    assert "50.0%" in section(written(tmp_path, old), "carried")
    assert "carried" not in sections_in(written(tmp_path))


def test_accuracy_by_steps_and_positions_is_drawn_in_order(tmp_path: Path) -> None:
    content = written(tmp_path, with_states(tmp_path))
    assert '"x":[2.0,10.0],"y":[1.0,0.5]' in content and "Accuracy by number of steps" in content
    assert '"x":[1.0,2.0],"y":[0.5,0.25]' in content
    assert '"x":[0.0,1.0,2.0],"y":[0.1,0.2,1.0]' in content


def test_states_are_escaped(tmp_path: Path) -> None:
    assert "<b>" not in written(tmp_path, with_states(tmp_path, "<b>"))


def test_text_is_escaped(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    (directory / "val_40" / "generated.csv").write_text(
        "id,question,thought,answer,gold,correct\n"
        "0,<img src=x>,<t1></think>,</script><b>,</script><i>,1\n")
    (directory / "words.json").write_text('["experiment=</title><b>"]')
    content = written(directory, {**SUMMARY, "run_name": "</code><b>"})
    assert "experiment=&lt;/title&gt;&lt;b&gt;" in content
    assert "&lt;script&gt;alert(1)" in content and "<script>alert" not in content
    assert "<img" not in content and "<b>" not in content and "<i>" not in content


@pytest.mark.slow
def test_a_run_without_thoughts(tmp_path: Path) -> None:
    content = written(make_run(tmp_path, thoughts=False))
    assert figures_in(content, "necessity") == 0 and "language" not in sections_in(content)
    content = written(tmp_path, config={**CONFIG, "thinker": {"tokens": 0}})
    assert sections_in(content) == ["result", "training", "rollouts", "details"]


def test_a_run_that_thinks_in_text_shows_its_rationales(tmp_path: Path) -> None:
    (tmp_path / "val_9").mkdir()
    (tmp_path / "val_9" / "generated.csv").write_text(
        "id,question,rationale,answer,gold,correct\n0,Why?,as it is,B,B,1\n1,How?,no idea,A,B,0\n")
    metrics = {"chance": 0.25, "text/unparsable": 0.125, "text/truncated": 0.5}
    content = written(tmp_path, {**SUMMARY, "metrics": metrics, "accuracy": 0.5,
                                 "necessity": {"own": 0.5, "shuffled": math.nan, "dropped": 0.25}},
                      {**CONFIG, "task": {"name": "qa", "answer": "generated"}})
    assert figures_in(content, "necessity") == 1 and "as it is" in content
    assert "<th>rationale</th>" not in content and "<th>thought</th>" in content
    assert "Accuracy with the thinker&#x27;s own thoughts, none. " in content
    assert ("Not tried: those of other questions, random tokens, one constant token, as the text "
            "holds the answer itself; without a text it is the likeliest letter.") in content
    assert "12.5% name no answer that can be read, 50.0% were cut at the limit" in content
    assert "chance 25.00%" in content
    assert sections_in(content) == ["result", "training", "necessity", "rollouts", "details"]


def test_a_cell_may_be_longer_than_the_reader_of_csv_allows(tmp_path: Path) -> None:
    (tmp_path / "val_9").mkdir()
    (tmp_path / "val_9" / "generated.csv").write_text(f"id,thought\n0,{'x' * 140_000}\n1,short\n")
    limit = csv.field_size_limit()
    assert [len(row["thought"]) for row in last_rows(tmp_path)] == [140_000, 5]
    assert csv.field_size_limit() == limit


@pytest.mark.slow
def test_few_questions_have_a_wide_interval(tmp_path: Path) -> None:
    """None right of 4: Wilson's upper end is z^2 / (n + z^2) = 3.8416 / 7.8416 = 0.49."""
    (tmp_path / "val_9").mkdir()
    (tmp_path / "val_9" / "generated.csv").write_text(
        "id,question,thought,answer,gold,correct\n" + "".join(
            f"{i},1+1=,<t1></think>,#3,#2,0\n" for i in range(4)))
    content = written(tmp_path, {"accuracy": 0.0, "metrics": {"accuracy_stderr": 0.0},
                                 "necessity": {"own": 0.0, "dropped": 0.0}})
    assert "Accuracy 0.0% (95 % interval 0.0% to 49.0%) on 4 held-out questions." in content
    assert '"array":[0.4899,0.4899]' in content and "for 4 questions" in content


def test_a_run_paid_by_a_reward_says_the_reward_first(tmp_path: Path) -> None:
    summary = {"accuracy": 0.0, "metrics": {"val/reward": -1.25, "val/reward_stderr": 0.1}}
    content = written(tmp_path, summary, {"task": {"name": "corpus", "enough": 0.0}})
    assert "Reward -1.25 a text ± 0.1, 0.0% of the texts earn 0 or more" in content


def test_the_title_says_experiment_task_and_variants() -> None:
    run = RunRecord({}, CONFIG, [], [], ("experiment=mine", "seed=3"))
    assert title_of(run) == "mine · add (max 100) · think, fixed, blind"
    assert title_of(RunRecord({}, {}, [], [])) == ""


@pytest.mark.parametrize("text", [None, "", "not json\n[1]\n7\n", '{"loss": 1}\n{"step": null}\n'])
def test_a_run_that_left_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    content = written(tmp_path, {}, {})
    assert "Accuracy unknown." in content and "plotly-graph-div" not in content
    assert content.count("no readable val_&lt;step&gt;/generated.csv") == 1
    assert sections_in(content) == ["result", "training", "rollouts", "details"]


def test_cells_of_any_length_are_read(tmp_path: Path) -> None:
    directory, limit = make_run(tmp_path), csv.field_size_limit()
    (directory / "val_40" / "generated.csv").write_text(f"id,thought\n0,{'x' * 200_000}\n1,y\n")
    assert [len(row["thought"]) for row in last_rows(directory)] == [200_000, 1]
    assert csv.field_size_limit() == limit
    assert "<p class=\"note\">Warning: nothing was learnt</p>" in written(
        directory, {**SUMMARY, "warnings": ["nothing was learnt"]})


@pytest.mark.slow
def test_missing_columns_and_strange_values(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    (directory / "val_40" / "generated.csv").write_text("id,thought\n0,<t1>,more,cells\n1\n")
    summary = {**SUMMARY, "accuracy": math.nan, "necessity": {"own": math.nan}, "metrics": None}
    content = written(directory, summary, {**CONFIG, "task": None, "odd": tmp_path})
    assert "Accuracy unknown on 2 held-out questions" in content
    (directory / "val_40" / "generated.csv").write_text("")
    assert written(directory) and last_rows(directory) == []


def test_an_error_in_a_section_is_said_in_its_place(tmp_path: Path) -> None:
    write_report(make_run(tmp_path), {**SUMMARY, "necessity": 7}, CONFIG)
    content = (tmp_path / "report.html").read_text()
    assert "AttributeError" in content
    assert figures_in(content, "training") == 5


@pytest.mark.slow
def test_many_answers_have_no_map_of_their_own(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    with (directory / "val_40" / "generated.csv").open("w") as file:
        file.write("thought,gold,correct\n")
        file.writelines(f"<t{i % 7}><t1><t2></think>,{i:03d},1\n" for i in range(1000))
    content = written(directory)
    assert "1,000 answers" in content
    assert figures_in(content, "language") == 3


def test_digits_are_read_units_first() -> None:
    def run(*golds: str, **task: object) -> RunRecord:
        return RunRecord({}, {"task": task}, [], [{"gold": gold} for gold in golds])

    assert answer_digits(run("#7", "#82")) == {"units": ["7", "2"], "tens": ["0", "8"]}
    assert answer_digits(run("28", answer="digits", order="least")) == {
        "units": ["2"], "tens": ["8"]}
    assert answer_digits(run("#7", "B")) == {}
    assert chance(run("#7", max=97, modular=True)) == ("chance 1/97", 1 / 97)
    assert chance(run("#7", "#82", max=97, modular=False)) == ("chance 1/2", 0.5)
    rows = [{"gold": "a"}, {"gold": "b"}]
    assert chance(RunRecord({"metrics": {"val/bits_per_byte": 2.0}}, {}, [], rows)) is None


def test_shares_are_conditional() -> None:
    assert conditional_shares(["a", "a", "b", None], ["7", "8", "8", "8"]) == {
        "a": {"7": 1.0, "8": 0.5}, "b": {"8": 0.5}}


def test_maps_keep_the_most_used_tokens() -> None:
    tokens: list[str | None] = [f"<t{i}>" for i in range(50) for _ in range(i + 1)]
    drawn = heat_maps("Title", tokens, {"units": ["0"] * len(tokens)})
    assert "(the 40 most used of 50 tokens)" in drawn
    assert '"y":["t10","t11",' in drawn and '"t9"' not in drawn


def test_thin_keeps_both_ends() -> None:
    numbers = [float(i) for i in range(10_001)]
    steps, values = downsample((numbers, [-number for number in numbers]))
    assert len(steps) == len(values) == 2000
    assert (steps[0], steps[-1], values[-1]) == (0, 10_000, -10_000)
    assert downsample(([1.0], [2.0])) == ([1.0], [2.0])


def test_long_texts_are_cut() -> None:
    assert coloured("x" * 1000) == f'<code><span class="blue">{"x" * 400}</span>…</code>'


def test_variants_are_read_back() -> None:
    from dataclasses import asdict

    def flags(config: dict[str, Any]) -> str:
        return variant_flags(dict(flatten(config)))

    assert flags({**asdict(Config()), "rollout": {"kind": "search"}}) == "search"
    assert flags({**CONFIG, "reward": {"gold_thought": 1.0}}) == "think,fixed,blind,clean"
    assert flags({}) == "unknown"


@pytest.mark.slow
def test_plotly_draws_in_a_browser(tmp_path: Path) -> None:
    content = written(make_run(tmp_path), with_states(tmp_path))
    page, console = opened(tmp_path / "report.html")
    drawn = without_library(page)
    assert console == []
    wanted = content.count('class="plotly-graph-div"')
    assert len(re.findall(r'class="[^"]*js-plotly-plot', drawn)) == wanted == 16
    assert len(re.findall(r'class="hm"', drawn)) == 7  # states; two places and all answers, twice
    assert len(re.findall(r'class="trace scatter', drawn)) == 15  # 6 curves, 2 x 2, 5 of steps
    assert len(re.findall(r'class="point"', drawn)) >= 5
