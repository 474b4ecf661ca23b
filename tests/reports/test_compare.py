"""Runs in groups: numbers worked by hand, what is missing or broken, a thousand runs in seconds."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ponder.config.errors import UserError
from ponder.reports.compare import (
    COLOURS,
    MAX_CURVES,
    MAX_POINTS,
    compare,
    comparison_page,
    group_curves,
    markdown,
    print_table,
    write,
)
from ponder.reports.groups import Comparison, estimate, mean_curve
from ponder.reports.runs import SettingsReader, accuracy_curve, find_runs, resolve_setting
from support.small import Door

RUN = Path(__file__).resolve().parents[2] / "run.py"
CONFIG = """\
action: train
seed: {seed}
run_type: train
task:
  name: add
  max: {max}
  terms: 2
  modular: true
  gold: digits
  seed: ${{seed}}
  thought_length: ${{ponder.gold_length:${{.max}},${{.terms}},${{.modular}},${{.gold}}}}
model:
  kind: transformer
thinker:
  tokens: ${{task.thought_length}}
rollout:
  kind: sample
  samples: {samples}
reward:
  {reward}: 1.0
strategy:
  name: {strategy}
trainer:
  lr: {lr}
"""
TOLD = {"seed": 0, "max": 100, "samples": 8, "reward": "softmax", "strategy": "grpo", "lr": 0.002}


def make_run(directory: Path, accuracy: float | None = 0.5, steps: tuple[int, ...] = (10, 20),
             **told: Any) -> Path:
    """A run that ended with that accuracy, reached by equal parts at those steps."""
    told = {**TOLD, **told}
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(CONFIG.format(**told))
    with (directory / "metrics.jsonl").open("w") as file:
        for i, step in enumerate(steps, start=1):
            print(json.dumps({"step": step, "loss": 1.0}), file=file)
            print(json.dumps({"step": step, "accuracy": (accuracy or 0) * i / len(steps)}),
                  file=file)
    (directory / "summary.json").write_text(json.dumps({
        "accuracy": accuracy, "necessity": {"own": accuracy, "shuffled": 0.1, "dropped": 0.0},
        "seed": told["seed"], "steps": 20, "seconds": 2.0, "status": "done"}))
    return directory


def compared(*runs: Path) -> Comparison:
    return compare(find_runs(list(map(str, runs))))


def without_library(content: str) -> str:
    """The page without plotly.js."""
    return re.sub(r'(<script id="plotly"[^>]*>).*?(</script>)', r"\1\2", content, flags=re.DOTALL)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- numbers -------------------------------------------------------------------------------------


def test_means_and_standard_errors_by_hand() -> None:
    found = estimate([0.2, 0.4, 0.9, None])
    assert found.mean == pytest.approx(0.5)
    assert found.error == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2 / 3))
    assert (estimate([0.25]).mean, estimate([0.25]).error) == (0.25, None)
    assert (estimate([None]).mean, estimate([]).error) == (None, None)


def test_groups_are_the_same_but_for_the_seed(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.2, 0.4, 0.9)):
        make_run(tmp_path / "a" / str(seed), accuracy, seed=seed)
    for seed, accuracy in enumerate((0.6, 0.8)):
        make_run(tmp_path / "deep" / "b" / str(seed), accuracy, seed=seed, lr=0.01)
    found = compared(tmp_path)
    assert found.keys == found.distinguishing == ["trainer.lr"] and found.notes == []
    assert [group.values["trainer.lr"] for group in found.groups] == [0.01, 0.002]
    assert [group.seeds for group in found.groups] == [2, 3]
    better, worse = (group.numbers["accuracy"] for group in found.groups)
    assert (better.mean, better.error) == (pytest.approx(0.7), pytest.approx(0.1))
    assert worse.error == pytest.approx(math.sqrt(0.13 / 3))
    assert found.cells(found.groups[0]) == ["2", "70.00% ± 10.00%", "10.00%", "0.00%", "20", "2.0"]


def test_what_follows_another_key_forms_no_group(tmp_path: Path) -> None:
    """task.seed follows the seed; thought_length and tokens follow task.max."""
    for seed in range(2):
        for limit in (100, 1000):
            make_run(tmp_path / f"{limit}_{seed}", seed=seed, max=limit)
    found = compared(tmp_path)
    assert found.keys == ["task.max"] and len(found.groups) == 2


def test_a_typed_value_that_says_the_same_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    path = make_run(tmp_path / "1", seed=1) / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("tokens: ${task.thought_length}", "tokens: 2"))
    assert compared(tmp_path).keys == []
    path.write_text(path.read_text().replace("tokens: 2", "tokens: 3"))
    assert [group.values for group in compared(tmp_path).groups] == [
        {"thinker.tokens": 2}, {"thinker.tokens": 3}]


def test_runs_on_other_content_of_one_file_form_other_groups(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2"), ("old", None)):
        path = make_run(tmp_path / name, 0.5, seed=name) / "summary.json"
        said = json.loads(path.read_text())
        said |= {"inputs": {"task.data": content, "prompts": name}} if content else {}
        path.write_text(json.dumps(said))
    found = compared(tmp_path)
    assert found.keys == ["task.data (content)"]
    assert {tuple(run.directory.name for run in group.runs) for group in found.groups} == {
        ("a", "b"), ("c",), ("old",)}
    assert len(compared(tmp_path / "a", tmp_path / "b", tmp_path / "old").groups) == 1


def test_keys_of_another_strategy_are_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "0", strategy="star", reward="gain")
    make_run(tmp_path / "1", strategy="grpo")
    found = compared(tmp_path)
    assert set(found.keys) >= {"strategy.name", "reward"} and "strategy.keep" not in found.keys
    assert found.distinguishing == ["strategy.name"]
    assert "reward" in found.notes[0]
    assert found.groups[0].name(["strategy.name", "reward"]) in ("star, gain", "grpo, softmax")


def test_a_full_grid_needs_every_key(tmp_path: Path) -> None:
    for i, (lr, samples) in enumerate([(0.1, 4), (0.1, 8), (0.2, 4), (0.2, 8)]):
        make_run(tmp_path / str(i), lr=lr, samples=samples)
    assert set(compared(tmp_path).distinguishing) == {"trainer.lr", "rollout.samples"}


def test_keys_younger_than_a_run_have_their_defaults(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    path = make_run(tmp_path / "1", seed=1) / ".hydra" / "config.yaml"
    path.write_text(path.read_text() + "  grad_clip: 1.0\n")
    assert compared(tmp_path).keys == []
    path.write_text(path.read_text().replace("grad_clip: 1.0", "grad_clip: 2.0"))
    assert compared(tmp_path).keys == ["trainer.grad_clip"]


def test_references_are_looked_up() -> None:
    told = {"task.max": 100, "task.n": "${.max}", "thinker.n": "${task.n}", "a": "${b}",
            "b": "${a}", "path": "${oc.env:HOME}/${task.max}"}
    assert (resolve_setting(told, "thinker.n"), resolve_setting(told, "a")) == (100, None)
    assert resolve_setting(told, "path") == "${oc.env:HOME}/100"


def test_the_mean_curve_ends_with_the_shortest_run() -> None:
    assert mean_curve([([1, 2, 3], [0.0, 0.5, 1.0]), ([2, 3, 4], [1.0, 0.0, 1.0])]) == (
        [2, 3], [0.75, 0.5])


# --- what is missing or broken -------------------------------------------------------------------


def test_runs_that_are_not_done_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    (make_run(tmp_path / "1") / "summary.json").unlink()
    (make_run(tmp_path / "2") / "summary.json").write_text('{"accuracy": 0.')
    (make_run(tmp_path / "3") / "summary.json").write_text("[1]")
    (tmp_path / "empty").mkdir()
    found = compared(tmp_path)
    assert found.runs == 1
    unfinished, unreadable = found.notes
    assert unfinished.endswith(str(tmp_path / "1"))
    assert all(str(tmp_path / name / "summary.json") in unreadable for name in ("2", "3"))


def test_a_checkpoint_speaks_for_a_missing_configuration(tmp_path: Path) -> None:
    make_run(tmp_path / "0", lr=0.1)
    (make_run(tmp_path / "1") / ".hydra" / "config.yaml").unlink()
    (tmp_path / "1" / "checkpoint_9").mkdir()
    (tmp_path / "1" / "checkpoint_9" / "ponder.json").write_text("broken")
    (tmp_path / "1" / "checkpoint_10").mkdir()
    (tmp_path / "1" / "checkpoint_10" / "ponder.json").write_text(json.dumps({"config": {
        "task": {"name": "add", "seed": 0}, "trainer": {"lr": 0.3}, "reward": {"softmax": 1}}}))
    assert SettingsReader().read(tmp_path / "1")["trainer.lr"] == 0.3
    assert {group.values["trainer.lr"] for group in compared(tmp_path).groups} == {0.1, 0.3}


def test_a_seed_that_a_checkpoint_wrote_out_forms_no_group(tmp_path: Path) -> None:
    for seed in range(2):
        directory = make_run(tmp_path / str(seed), seed=seed)
        (directory / ".hydra" / "config.yaml").unlink()
        (directory / "checkpoint_1").mkdir()
        (directory / "checkpoint_1" / "ponder.json").write_text(json.dumps({"config": {
            "seed": seed, "task": {"name": "add", "seed": seed}}}))
    assert compared(tmp_path).keys == []


def test_typed_words_speak_where_nothing_else_does(tmp_path: Path) -> None:
    for name, words in {"0": ["trainer.lr=0.1", "seed=3"], "1": ["trainer.lr=0.2"],
                        "2": ["seed=4"]}.items():
        (make_run(tmp_path / name) / ".hydra" / "config.yaml").write_text("a: [broken")
        (tmp_path / name / "words.json").write_text(json.dumps(words))
    found = compared(tmp_path)
    assert found.keys == ["trainer.lr"]
    assert {group.values["trainer.lr"] for group in found.groups} == {"0.1", "0.2", "?"}


def test_a_run_of_which_nothing_is_known_is_no_ones_seed(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    (make_run(tmp_path / "1", seed=1) / ".hydra" / "config.yaml").unlink()
    assert [group.values for group in compared(tmp_path).groups] == [
        {"configuration": "nothing"}, {"configuration": "whole"}]


def test_an_evaluation_is_told_what_its_checkpoint_was(tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint_1"
    saved.mkdir()
    (saved / "ponder.json").write_text(json.dumps({"config": {
        "seed": 5, "task": {"name": "add", "max": 1000}, "model": {"name": None}}}))
    directory = make_run(tmp_path / "run")
    path = directory / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("action: train", "action: evaluate").replace(
        "  kind: transformer", f"  kind: transformer\n  name: {saved}"))
    (directory / ".hydra" / "overrides.yaml").write_text("- rollout.samples=8\n")
    told = SettingsReader().read(directory)
    assert (told["action"], told["task.max"], told["model.name"]) == ("evaluate", 1000, None)
    assert (told["rollout.samples"], told["seed"]) == (8, 5)


def test_accuracies_that_are_none_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "0", 0.5)
    make_run(tmp_path / "1", None, seed=1)
    group = compared(tmp_path).groups[0]
    assert (group.seeds, group.numbers["accuracy"].mean) == (2, 0.5)
    (tmp_path / "0" / "summary.json").write_text('{"accuracy": NaN, "necessity": 7}')
    found = compared(tmp_path)
    assert found.groups[0].numbers["accuracy"].mean is None
    assert "No run was evaluated." in comparison_page(found, tmp_path)


def test_one_seed_twice_is_said(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    make_run(tmp_path / "1")
    found = compared(tmp_path)
    assert len(found.notes) == 1 and found.notes[0].startswith("1 run ")
    assert compared(tmp_path, tmp_path, tmp_path / "0").runs == 2


def test_links_are_followed_once(tmp_path: Path) -> None:
    make_run(tmp_path / "real" / "0")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "real" / "0")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    assert len(find_runs(str(tmp_path / "set")).results) == 1


def test_a_torn_metrics_file_keeps_its_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 2, "accuracy": 0.5}\n{"step": 1, "accuracy": 0.25}\n{"step": 2, "accuracy": 0.75'
        '}\n{"step": 3, "accuracy": null}\n{"step": 4, "accuracy": 0.\n')
    assert accuracy_curve(tmp_path) == ([1, 2], [0.25, 0.75])
    assert accuracy_curve(tmp_path / "none") == ([], [])


@pytest.mark.parametrize("runs, line", [
    (None, "runs=null: found no directory; legal: "), ([], "runs=[]: found no directory; legal: "),
    ([7], "runs=[7]: found no directory; legal: "),
    ("no/where*", "runs=no/where*: found no such directory; legal: "),
    (".", "runs=.: found no run there; legal: ")])
def test_no_runs_get_one_line(runs: Any, line: str, tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as found:
        find_runs(runs)
    assert str(found.value).startswith(line) and "\n" not in str(found.value)


# --- files ---------------------------------------------------------------------------------------


def two_groups(folder: Path, **more: Any) -> Comparison:
    for seed in range(3):
        make_run(folder / f"a{seed}", 0.3 * (seed + 1), seed=seed, **more)
        make_run(folder / f"b{seed}", 0.1 * (seed + 1), seed=seed, lr=0.5, **more)
    return compared(folder)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_have_a_row_a_group_and_a_row_a_run(tmp_path: Path, suffix: str) -> None:
    paths = write(tmp_path / f"x.{suffix}", two_groups(tmp_path))
    assert [path.name for path in paths] == [f"x.{suffix}", f"x_runs.{suffix}"]
    if suffix == "csv":
        groups, runs = map(read_csv, paths)
    elif suffix == "jsonl":
        groups, runs = ([json.loads(line) for line in path.read_text().splitlines()]
                        for path in paths)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        groups, runs = (parquet.read_table(path).to_pylist() for path in paths)
    assert [float(row["trainer.lr"]) for row in groups] == [0.002, 0.5]
    assert [int(row["seeds"]) for row in groups] == [3, 3]
    assert float(groups[0]["accuracy"]) == pytest.approx(0.6)
    assert float(groups[0]["accuracy_stderr"]) == pytest.approx(0.3 / math.sqrt(3))
    assert len(runs) == 6 and runs[0]["run"] == str(tmp_path / "a0")


def test_markdown(tmp_path: Path) -> None:
    assert markdown(two_groups(tmp_path)).splitlines() == [
        "6 runs in 2 groups", "",
        "| `trainer.lr` | seeds | accuracy | shuffled | dropped | steps | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0.002 | 3 | 60.00% ± 17.32% | 10.00% | 0.00% | 20 | 2.0 |",
        "| 0.5 | 3 | 20.00% ± 5.77% | 10.00% | 0.00% | 20 | 2.0 |"]


class Tags(HTMLParser):
    """Fails where tags do not close in the order they opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    found = two_groups(tmp_path, reward="</script><b>")
    make_run(tmp_path / "c", reward="<i>")
    found = compared(tmp_path)
    content = comparison_page(found, tmp_path)
    assert content.count('id="plotly"') == 1
    content = without_library(content)
    tags = Tags()
    tags.feed(content)
    assert tags.open == []
    assert not re.search(r"src=|href=|https?://|@import|url\(|<link", content)
    assert "<i>" not in content and "<b>" not in content and "&lt;i&gt;" in content
    assert content.count('class="plotly-graph-div"') == 2
    assert content.count('"showlegend":false') >= 6
    assert "60.00% ± 17.32%" in content and found.headline in content


@pytest.mark.slow
def test_accuracy_by_number_of_steps_is_drawn_for_each_group(tmp_path: Path) -> None:
    """At lengths that all runs of a group have, shortest first; none without such questions."""
    found = {0: {"accuracy/10_steps": 0.5, "accuracy/2_steps": 1.0, "accuracy/3_digits": 0.1},
             1: {"accuracy/10_steps": 0.75, "accuracy/2_steps": 1.0, "accuracy/12_steps": 0.25}}
    for seed, metrics in found.items():
        path = make_run(tmp_path / str(seed), seed=seed) / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    page = without_library(comparison_page(compared(tmp_path), tmp_path))
    part = page.split("<h2>Accuracy by number of steps</h2>")[1]
    assert '"x":[2.0,10.0],"y":[1.0,0.625]' in part and '"x":[2.0,10.0],"y":[1.0,0.5]' in part
    make_run(tmp_path / "other" / "0")
    page = comparison_page(compared(tmp_path / "other"), tmp_path)
    assert "Accuracy by number of steps" not in page


def test_what_is_drawn_has_bounds_that_are_said(tmp_path: Path) -> None:
    for lr in range(1, 13):
        for seed in range(4):
            make_run(tmp_path / f"{lr}_{seed}", lr / 20, seed=seed, lr=lr,
                     steps=tuple(range(1, 402)))
    found = compared(tmp_path)
    groups = list(group_curves(found.groups))
    assert sum(len(curves) + 1 for _, curves, _ in groups) == MAX_CURVES and len(groups) == 8
    content = without_library(comparison_page(found, tmp_path))
    assert "Drawn are 32 of 48 runs" in content
    longest = max(map(len, (text.split(",") for text in re.findall(r'"x":\s?\[([^\]]*)\]',
                                                                   content))))
    assert longest == MAX_POINTS
    assert len(list(group_curves(compared(*tmp_path.glob("*_0")).groups))) == len(COLOURS)


def test_a_group_of_many_seeds_is_drawn_in_part(tmp_path: Path) -> None:
    for seed in range(50):
        make_run(tmp_path / str(seed), seed=seed)
    (_, curves, mean), = group_curves(compared(tmp_path).groups)
    assert len(curves) == MAX_CURVES - 1 and mean is not None


# --- the door ------------------------------------------------------------------------------------


def test_through_the_door(door: Door, tmp_path: Path) -> None:
    two_groups(tmp_path / "star_runs" / "sweep")
    code, out, err = door("action=compare", "run_type=seen")
    assert (code, err) == (0, "") and out.startswith("6 runs in 2 groups; chance 1/100\n")
    assert "60.00% ± 17.32%" in out and "lr" in out
    directory = next((tmp_path / "star_runs").glob("seen_*/*"))
    assert {path.name for path in directory.iterdir()} >= {"compare.html", "compare.csv"}
    assert door("action=compare", "runs=star_runs/*/a*", "out=new/x.md")[0] == 0
    assert "3 runs in 1 group" in (tmp_path / "new" / "x.md").read_text()


def test_a_narrow_terminal_has_all_keys_in_one_column(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    found = two_groups(tmp_path)
    for columns, heading in (("120", "lr"), ("60", "group")):
        monkeypatch.setenv("COLUMNS", columns)
        print_table(found)
        out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        assert re.search(rf"┃ {heading} +┃", out) and "60.00% ± 17.32%" in out
        assert ("seconds ┃" in out, "lr=0.002" in out) == ((columns == "120"), (columns == "60"))
        assert all(len(line) <= int(columns) for line in out.splitlines() if line[:1] in "┃│")


@pytest.mark.parametrize("words, line", [
    (["runs=nowhere"], "runs=nowhere: found no such directory"),
    (["out=x.txt"], "out=x.txt: found no table"),
    (["runs=[going]"], "runs=[going]: found no run that is done"),
    (["runs=going,other"], "runs=going,other: found several values; legal: "),
    (["runs=[done]", "out=/proc/x.csv"], "out=/proc/x.csv: ")])
def test_a_mistake_gets_one_line(door: Door, tmp_path: Path, words: list[str], line: str) -> None:
    make_run(tmp_path / "done" / "0")
    (make_run(tmp_path / "going" / "0") / "summary.json").unlink()
    code, _, err = door("action=compare", *words)
    assert code == 2 and err.startswith(f"error: {line}") and err.count("\n") == 1
    assert not (tmp_path / "star_runs").exists()


def outside(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    source = str(RUN.parent / "src")
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": source})


@pytest.mark.slow
def test_torch_is_never_loaded(tmp_path: Path) -> None:
    make_run(tmp_path / "star_runs" / "0")
    done = outside("-c", "import sys; from ponder.cli.main import main; main(['action=compare']); "
                   "print(sorted({'torch', 'transformers'} & set(sys.modules)))",
                   cwd=tmp_path)
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.slow
def test_a_thousand_runs_are_compared(tmp_path: Path) -> None:
    for i in range(1000):
        make_run(tmp_path / "star_runs" / f"g{i // 50}" / str(i), i / 1000,
                 tuple(range(0, 250, 10)), seed=i % 5, lr=0.001 * (1 + i // 5 % 10),
                 samples=2 + i // 50)
    done = outside(str(RUN), "action=compare", cwd=tmp_path)
    assert done.stdout.startswith("1,000 runs in 200 groups")
    table = next((tmp_path / "star_runs").glob("*/*/compare.csv"))
    assert len(read_csv(table)) == 200


# --- names ---------------------------------------------------------------------------------------


def named_variants(folder: Path) -> Comparison:
    """Three runs of other variants: with a search, without, and without thoughts."""
    for name, kind, tokens in (("a", "search", "2"), ("b", "sample", "2"), ("c", "sample", "0")):
        path = make_run(folder / name, 0.5 if tokens == "2" else 0.1) / ".hydra" / "config.yaml"
        text = path.read_text().replace("kind: sample", f"kind: {kind}")
        path.write_text(text.replace("tokens: ${task.thought_length}", f"tokens: {tokens}"))
    return compared(folder)


def test_groups_are_named_by_their_variants(tmp_path: Path) -> None:
    found = named_variants(tmp_path)
    assert found.distinguishing == ["variants"]
    assert [group.name(found.distinguishing) for group in found.groups] == [
        "think", "think,search", "none"]


def test_runs_without_thoughts_show_no_replaced_thoughts(tmp_path: Path) -> None:
    found = named_variants(tmp_path)
    numbers = [(group.numbers["shuffled"].mean, group.numbers["dropped"].mean)
               for group in found.groups]
    assert numbers == [(0.1, 0.0), (0.1, 0.0), (None, None)]


def test_the_level_of_chance_is_drawn_where_all_runs_have_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=0.1)
    assert compared(tmp_path).chance == ("chance 1/100", 0.01)
    assert "chance 1/100" in comparison_page(compared(tmp_path), tmp_path)
    make_run(tmp_path / "c", max=10)
    assert compared(tmp_path).chance is None


def test_groups_link_to_the_reports_of_their_runs(tmp_path: Path) -> None:
    (make_run(tmp_path / "runs" / "a b", seed=3) / "report.html").write_text("")
    make_run(tmp_path / "runs" / "c", seed=4)
    content = comparison_page(compared(tmp_path), tmp_path / "out")
    assert re.findall(r'<a href="([^"]*)">(\w+)</a>', content) == [
        ("../runs/a%20b/report.html", "3")]


def test_long_values_lose_their_middle_and_keep_both_ends(tmp_path: Path) -> None:
    make_run(tmp_path / "a", reward="x" * 40 + "_first")
    make_run(tmp_path / "b", reward="x" * 40 + "_second")
    found = compared(tmp_path)
    assert len({group.name(found.distinguishing) for group in found.groups}) == 2
