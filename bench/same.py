"""Run short configurations in an old commit and in this tree, and compare weights and metrics.

    python bench/same.py COMMIT [--only NAME ...] [--steps N] [--new TREE] [--keep DIRECTORY]

COMMIT is exported into a temporary directory (a directory is taken as it is). Every case of
bench/same_cases.py runs in both trees with the same interpreter, one thread and one seed, in
directories of its own. Compared are `weights_sha256`, accuracy and necessity of every
summary.json, and every number of metrics.jsonl that is no time or rate. Exit code 1 if anything
differs. With --keep, what the old tree has done in that directory is not done again.

Each command runs in a forked child of this process, which has loaded the libraries, but
not `ponder`: so that fifty short runs do not load torch a hundred times.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from same_cases import CASES, Case, make_inputs

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "pandas", "hydra", "transformers", "tokenizers", "peft",
             "safetensors.torch", "rich.console", "rich.progress",
             "torch.distributed", "torch._dynamo", "transformers.models.llama.modeling_llama",
             "accelerate", "pyarrow.parquet")
SUMMARY = ("weights_sha256", "accuracy", "necessity", "steps", "status")


@dataclass
class Found:
    """What a comparison of one case has found."""

    hashes: str = "-"
    numbers: int = 0
    largest: float = 0.0
    where: str = ""
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def number(self, name: str, old: float | None, new: float | None) -> None:
        """Note a pair of numbers, which are equal only if they are the same bits."""
        self.numbers += 1
        if old == new or (old != old and new != new):  # nothing else is unequal to itself
            return
        both = isinstance(old, int | float) and isinstance(new, int | float)
        apart = abs(old - new) if both else math.inf  # type: ignore[operator]
        if apart > self.largest or not self.where:
            self.largest, self.where = apart, f"{name}: {old} -> {new}"


def export(commit: str, folder: Path) -> Path:
    """The files of a commit, without its history. Raises `SystemExit` if there is no such one."""
    if Path(commit, "run.py").is_file():
        return Path(commit).resolve()
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{commit}: found no such commit or directory; legal: a commit of {ROOT}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def preload() -> None:
    """Load what both trees load, so that children need not."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name}: not installed, so every run loads what it has", file=sys.stderr)
    assert not any(name.split(".")[0] == "ponder" for name in sys.modules)


def run(tree: Path, line: str, folder: Path) -> int:
    """The exit code of `run.py` of a tree with the words of a line, in a child process.

    It runs in `folder`; what it says is appended to output.txt there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.chdir(folder)
        said = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        print(f"\n$ run.py {line}", flush=True)
        os.environ["PYTHONPATH"] = str(tree / "src")
        sys.path[:] = [str(tree / "src"), *(path for path in sys.path
                                            if not Path(path, "ponder").is_dir())]
        sys.argv = [str(tree / "run.py"), *shlex.split(line)]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def newest(run: Path) -> Path:
    """The checkpoint of a run directory that has made the most steps, relative to its parent."""
    def step(path: Path) -> int:
        return json.loads(path.read_text()).get("step", 0)

    return max(run.glob("checkpoint_*/manifest.json"), key=step).parent.relative_to(run.parent)


def fill(line: str, folder: Path) -> str:
    """A line with `{run}` replaced by the newest checkpoint of the directory `run`."""
    for name in ("run", "normal"):
        if f"{{{name}}}" in line:
            line = line.replace(f"{{{name}}}", str(newest(folder / name)))
    return line


@dataclass
class Runner:
    """Runs cases in both trees, below one folder."""

    old: Path
    new: Path
    commit: str
    inputs: Path
    folder: Path
    steps: int | None

    def case(self, case: Case) -> tuple[Path, Path, list[str]]:
        """The directories of a case in both trees, and a line for each command that failed."""
        folder, lines = self.folder / case.name, case.commands(self.steps)
        begun, old, new = folder / "begun", folder / "old", folder / "new"
        done = folder / "old.json"
        told = {"commit": self.commit, "lines": lines, "opened": case.opened}
        failed: list[str] = []
        if not done.is_file() or json.loads(done.read_text()) != told:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.inputs, begun)
            failed = self.run(lines[:case.opened], self.old, begun)
            shutil.copytree(begun, old)
            failed = failed or self.run(lines[case.opened:], self.old, old)
            if not failed:
                done.write_text(json.dumps(told))
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(begun, new)
        return old, new, failed + self.run(lines[case.opened:], self.new, new)

    @staticmethod
    def run(lines: list[str], tree: Path, where: Path) -> list[str]:
        """Run lines until one fails; a line about that."""
        for line in lines:
            if code := run(tree, fill(line, where), where):
                said = (where / "output.txt").read_text().strip().splitlines()[-1]
                return [f"{where.name}: exit code {code}: {said[:300]}"]
        return []


def pairs(old: object, new: object, name: str) -> Iterator[tuple[str, object, object]]:
    """The leaves of two objects of JSON, side by side; None where one has none."""
    if isinstance(old, dict) or isinstance(new, dict):
        first, second = (each if isinstance(each, dict) else {} for each in (old, new))
        for key in dict.fromkeys([*first, *second]):
            yield from pairs(first.get(key), second.get(key), f"{name}/{key}" if name else key)
    else:
        yield name, old, new


def logged(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without times and rates."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name}
            for line in lines]


def compare(old: Path, new: Path, case: Case) -> Found:
    """Everything that two directories of a case tell."""
    found = Found()
    ran = sorted(path.parent.relative_to(old) for path in old.glob("*/summary.json"))
    for name in ran:
        if not (new / name / "summary.json").is_file():
            found.wrong.append(f"{name}: no summary.json in the new tree")
            continue
        first, second = (json.loads((tree / name / "summary.json").read_text())
                         for tree in (old, new))
        for key in SUMMARY:
            for leaf, one, two in pairs(first.get(key), second.get(key), f"{name}/{key}"):
                if key == "weights_sha256":
                    found.hashes = "equal" if one == two and found.hashes != "DIFFER" else "DIFFER"
                elif isinstance(one, str) or isinstance(two, str):
                    found.wrong += [f"{leaf}: {one} -> {two}"] if one != two else []
                else:
                    found.number(leaf, one, two)  # type: ignore[arg-type]
        lines = [logged(tree / name / "metrics.jsonl") for tree in (old, new)]
        if len(lines[0]) != len(lines[1]):
            found.wrong.append(f"{name}: {len(lines[0])} -> {len(lines[1])} lines of metrics")
        for one, two in zip(*lines, strict=False):
            if more := sorted({*two} - {*one}):
                found.notes.append(f"{name}: only in the new tree: {', '.join(more)}")
            for leaf, value in one.items():
                found.number(f"{name} step {one.get('step')} {leaf}", value, two.get(leaf))
    for name in case.files:
        one, two = ((tree / name).read_text() if (tree / name).is_file() else "(no such file)"
                    for tree in (old, new))
        found.wrong += [f"{name}: {one[:60]!r} -> {two[:60]!r}"] if one != two else []
    if not ran and not case.files:
        found.wrong.append("no run to compare")
    return found


def verdict(found: Found) -> str:
    same = found.hashes in ("equal", "-") and not found.where and not found.wrong
    return "same" if same else "DIFFERS"


def show(results: dict[str, tuple[Found, float]], console: Console) -> None:
    """The table at the end."""
    table = Table("case", "", "weights", "numbers", "largest difference", "where", "s")
    for name, (found, spent) in results.items():
        table.add_row(name, verdict(found), found.hashes, str(found.numbers),
                      f"{found.largest:.3g}" if found.where else "0",
                      "\n".join([*found.wrong, *([found.where] if found.where else []),
                                 *dict.fromkeys(found.notes)]), f"{spent:.0f}")
    console.print(table)
    different = [name for name, (found, _) in results.items() if verdict(found) != "same"]
    console.print(f"{len(results) - len(different)} of {len(results)} cases are the same"
                  + (f"; these differ: {', '.join(different)}" if different else ""))


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the old tree: a commit, or a directory with its files")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME",
                        help="cases whose names begin with one of these")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run")
    parser.add_argument("--new", type=Path, default=ROOT, help="the new tree (default: this one)")
    parser.add_argument("--keep", type=Path, 
                        help="leave the runs here, and reuse those of the old tree")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    cases = [case for case in CASES if case.name.startswith(tuple(options.only))]
    if not cases or options.list:
        print("\n".join(case.name for case in CASES))
        return 0 if options.list else 2
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", OMP_NUM_THREADS="1",
                      TOKENIZERS_PARALLELISM="false")
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(prefix="same_") as temporary:
        folder = options.keep.resolve() if options.keep else Path(temporary, "runs")
        inputs = Path(temporary, "inputs")
        inputs.mkdir()
        old = export(options.commit, Path(temporary, "commit"))
        preload()
        make_inputs(inputs)
        runner = Runner(old, options.new.resolve(), options.commit, inputs, folder, options.steps)
        results = {}
        for number, case in enumerate(cases, 1):
            began = time.monotonic()
            old, new, failed = runner.case(case)
            found = compare(old, new, case)
            found.wrong[:0] = failed
            results[case.name] = found, time.monotonic() - began
            console.print(f"{number}/{len(cases)} {case.name}: {verdict(found)} "
                          f"({results[case.name][1]:.0f} s)"
                          + "".join(f"\n    {line}" for line in failed))
        show(results, console)
    return int(any(verdict(found) != "same" for found, _ in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
