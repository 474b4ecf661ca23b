"""Processor seconds of commands that people wait for, and the most they may take.

    python bench/limits.py [--only WORD] [--repeats N]

Each row is the best of N repeats, of processor time: a busy machine makes it a little slower, not
several times. The limits are those of an idle desktop machine; on a slower one all of them grow
alike. Exit code 1 if a row is above its limit. `--help` and `--cfg job` are measured beside Hydra
alone, which reads the same files: their limit is a ratio.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import table
from paths import ROOT

HYDRA_ALONE = """
import sys
import hydra
from ponder.config.spine import CONF, register
register()
sys.argv = ["run.py", "--cfg", "job"]
hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(print)()
"""
WORDS = "the cat sat on the mat, the cat ate the rat; "


def spent(folder: Path, *words: str) -> float:
    """Processor seconds of a Python program. Raises `SystemExit` with what it says if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)[:80]}: exit code {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def run(folder: Path, *words: str) -> float:
    """Processor seconds of `run.py` with these words."""
    return spent(folder, str(ROOT / "run.py"), *words)


def help_page(folder: Path) -> float:
    return run(folder, "--help") / spent(folder, "-c", HYDRA_ALONE)


def configuration(folder: Path) -> float:
    return run(folder, "--cfg", "job", "think=true") / spent(folder, "-c", HYDRA_ALONE)


def thousand_runs(folder: Path) -> float:
    """`action=compare` over 1,000 run directories in 200 groups of 5 seeds."""
    for i in range(0 if (folder / "star_runs").exists() else 1000):
        directory = folder / "star_runs" / f"g{i // 50}" / str(i)
        make_run(directory, seed=i % 5, lr=0.001 * (1 + i // 5 % 10), samples=2 + i // 50)
    return run(folder, "action=compare", "out=table.csv")


def make_run(directory: Path, seed: int, lr: float, samples: int) -> None:
    """The files of a run that is done, with 25 evaluations."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(json.dumps({
        "action": "train", "seed": seed, "run_type": "train", "task": {"name": "add", "max": 100},
        "rollout": {"kind": "sample", "samples": samples}, "trainer": {"lr": lr}}))
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(0, 250, 10):
            file.write(json.dumps({"step": step, "loss": 1.0, "accuracy": step / 250}) + "\n")
    (directory / "summary.json").write_text(json.dumps({
        "accuracy": seed / 5, "necessity": {"own": seed / 5, "shuffled": 0.1}, "seed": seed,
        "steps": 240, "seconds": 2.0, "status": "done"}))


def long_queue(folder: Path) -> float:
    """`action=sweep` over 200 jobs, a quarter of them done."""
    from ponder.sweeps.jobs import Job, append_jobs, process_name

    sweep = folder / "sweep"
    if not sweep.exists():
        sweep.mkdir()
        append_jobs(sweep, [Job(i, [f"seed={i}"], f"{i:08x}", str(i), [], "local", process_name())
                            for i in range(200)])
        for i in range(50):
            make_run(sweep / str(i), i, 0.1, 1)
    return run(folder, "action=sweep", f"sweep.dir={sweep}")


def many_questions(folder: Path) -> float:
    """Reading 14,000 multiple-choice questions."""
    from ponder.tasks.choice.questions import read_questions

    path = folder / "questions.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "question", "A", "B", "C", "D", "answer"])
        rows.writerows([i, f"{WORDS}{i}?", "one", "two", "three", "four", "ABCD"[i % 4]]
                       for i in range(14_000))
    return processor_seconds(lambda: read_questions(path))


def megabyte(folder: Path) -> float:
    """Cutting a megabyte of text with a trie of 400 pieces."""
    from ponder.tokenizers.pieces import Trie

    trie = Trie.learn(WORDS * 40, 400)
    text = (WORDS * 25_000)[:1_000_000]
    return processor_seconds(lambda: trie.encode(text))


def processor_seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


ROWS: list[tuple[str, Callable[[Path], float], float, str]] = [
    ("--help", help_page, 1.4, "times Hydra alone"),
    ("--cfg job", configuration, 1.4, "times Hydra alone"),
    ("action=compare, 1,000 runs", thousand_runs, 5, "s"),
    ("action=sweep, 200 jobs", long_queue, 5, "s"),
    ("14,000 questions", many_questions, 2, "s"),
    ("a megabyte with a trie", megabyte, 1, "s"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows, above = [["", "best", "limit", "unit", ""]], False
    for name, measure, limit, unit in ROWS:
        if options.only in name:
            with tempfile.TemporaryDirectory(prefix="limits_") as folder:
                best = min(measure(Path(folder)) for _ in range(options.repeats))
            above |= best > limit
            rows.append([name, f"{best:.2f}", f"{limit:g}", unit,
                         "above its limit" if best > limit else ""])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    return int(above)


if __name__ == "__main__":
    raise SystemExit(main())
