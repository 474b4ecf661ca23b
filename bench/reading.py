"""Thoughts at positions of a text, compared with no thoughts: the table of docs/results.md.

    python bench/reading.py <folder with the texts> [--only smollm2]
    python bench/reading.py --table

For each text and seed: a normal model (`experiment=normal`, or SmolLM2 as it is); then, from its
checkpoint, thoughts (`experiment=supervised_rollout_think` or `supervised_rollout_smollm2`), the
same without thoughts for as many steps on as many passages, and without thoughts for as many
seconds. Runs are kept as those of bench/results.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import results
from paths import ROOT, fill

TEXTS = {"shakespeare": "tinyshakespeare.txt", "fineweb": "fineweb_edu_tiny.jsonl",
         "smollm2": "wikitext2_valid.txt"}
TABLES = {"reading": ("shakespeare", "fineweb"), "reading_smollm2": ("smollm2",)}
OURS = "experiment=supervised_rollout_think"
THEIRS = "experiment=supervised_rollout_smollm2"
STEPS = {"shakespeare": 400, "fineweb": 100,  # of the second half; the little text is soon learnt
         "smollm2": 24}
BEGINS = {"shakespeare": [], "fineweb": ["trainer.max_steps=200"]}
NAMES = {"normal": "the normal model they begin with", "think": "with thoughts",
         "tokens": "none, as many passages", "compute": "none, as many seconds"}


def at(text: str, name: str, seed: int) -> Path:
    return results.RUNS / f"reading_{text}_{name}" / str(seed)


def summary(text: str, name: str, seed: int) -> dict[str, Any] | None:
    path = at(text, name, seed) / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def run(text: str, name: str, seed: int, words: list[str]) -> None:
    directory = at(text, name, seed)
    if summary(text, name, seed) is None:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "output.txt").open("w") as output:
            subprocess.run([sys.executable, str(ROOT / "run.py"), *words, f"seed={seed}",
                            "task.seed=0", "trainer.threads=1", f"hydra.run.dir={directory}"],
                           stdout=output, stderr=subprocess.STDOUT, check=False)
    found = summary(text, name, seed)
    print(text, name, seed, found["metrics"]["val/loss"] if found else "FAILED", flush=True)


def seed_of(folder: Path, text: str, seed: int) -> None:
    """All four runs of a seed, one after the other."""
    data = f"task.data={folder / TEXTS[text]}"
    same = [THEIRS, data]
    if text == "smollm2":
        run(text, "normal", seed, [*same, "think=false", "strategy=sft", "trainer.max_steps=0"])
    else:
        run(text, "normal", seed, ["experiment=normal", data, *BEGINS[text]])
        newest = max(at(text, "normal", seed).glob("checkpoint_*"),
                     key=lambda path: int(path.name.rpartition("_")[2]))
        same = [OURS, data, f"model.name={newest}"]
    plain = [*same, "think=false", "strategy=sft"]
    run(text, "think", seed, [*same, f"trainer.max_steps={STEPS[text]}"])
    run(text, "tokens", seed, [*plain, f"trainer.max_steps={STEPS[text]}"])
    think, tokens = summary(text, "think", seed), summary(text, "tokens", seed)
    if think and tokens:
        more = round(STEPS[text] * think["seconds"] / tokens["seconds"])
        run(text, "compute", seed, [*plain, f"trainer.max_steps={more}"])


def row(text: str, name: str) -> str:
    found = [value for seed in results.SEEDS if (value := summary(text, name, seed))]
    if not found:
        return f"| {text} | {NAMES[name]} | not run yet | | | | | |"

    def of(key: str) -> str:
        return " / ".join(f"{value['metrics'][key]:.3f}" for value in found) \
            if key in found[0]["metrics"] else ""

    mean = statistics.mean(value["metrics"]["val/loss"] for value in found)
    kinds = ("shuffled", "random", "constant", "dropped") if name == "think" else ()
    replaced = " / ".join(f"{statistics.mean(told):.3f}" for kind in kinds if (
        told := [value["metrics"][f"necessity_loss/{kind}"] for value in found]))
    seconds = " / ".join(f"{value['seconds']:.0f}" for value in found)
    return (f"| {text} | {NAMES[name]} | {mean:.3f} | {of('val/loss')} | {of('val/loss_without')} "
            f"| {replaced} | {' / '.join(str(value['steps']) for value in found)} | {seconds} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--only", choices=TEXTS, help="of the texts this one alone")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    wanted = [options.only] if options.only else list(TEXTS)
    if not options.table:
        for seed in results.SEEDS:
            for text in wanted:
                seed_of(Path(options.folder).resolve(), text, seed)
    head = ("| text | thoughts | mean loss (nats per token) | seeds 0 / 1 / 2 | its loss "
            "without thoughts | with shuffled / random / constant / no thoughts | steps | seconds "
            "|\n|---|---|---|---|---|---|---|---|\n")
    for mark, texts in TABLES.items():
        if {*texts} & {*wanted}:
            table = head + "\n".join(row(text, name) for text in texts for name in NAMES) + "\n"
            fill(results.PAGE, mark, table)
            print(table)


if __name__ == "__main__":
    main()
