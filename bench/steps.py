"""Where thoughts are needed: docs/steps.svg and the tables of serial tasks in docs/results.md.

    python bench/steps.py                    run what is missing, two at a time, then draw
    python bench/steps.py --only cups        settings whose name contains a word
    python bench/steps.py --table            draw and write from the runs there are

Runs are kept, and found again, as those of bench/results.py: one thread, a directory a seed. Those
of tasks of steps are asked for questions of every length besides (`action=evaluate`), which is kept
in the directory <seed>_lengths.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import results
from paths import ROOT, fill

PICTURE = ROOT / "docs" / "steps.svg"
NETWORK = ["model.init_std=0.07", "model.query_key_std=0.07", "model.embedding_std=0.05",
           "model.position_std=0.05", "model.head_std=0.07"]  # those of invent_steps
LOOP = ["trainer.train_batch_size=192", "trainer.lr=0.0005", "trainer.weight_decay=0",
        "trainer.warmup=0", "trainer.cooldown=300", "trainer.val_every_n_steps=1000000"]
GROW = ["experiment=invent_steps"]
ANSWERS = [*NETWORK, *LOOP, "trainer.max_steps=2000"]  # what learns from answers alone
# task -> (title, overrides, those that ask for all lengths, chance)
TASKS = {
    "cups": ("cups, 16 swaps", ["task=cups"], ["task.min_steps=1"], 0.2),
    "parity": ("parity, 24 bits", ["task=parity", "task.steps=24"], ["task.min_steps=1"], 0.5),
    "chain": ("chain, 8 operations mod 7", ["task=chain", "task.steps=8"], ["task.min_steps=1"],
              1 / 7),
    "chase": ("chase, 6 hops of 12", ["task=chase"], ["task.min_steps=1"], 1 / 12),
    "half": ("half: which group of cups, 16 swaps", ["task=half"], ["task.min_steps=1"], 0.6),
}
# way -> (title, overrides); of what is trained on answers alone, questions of all lengths
WAYS = {
    "grow": ("thoughts that nobody taught", GROW),
    "direct": ("direct answer", ["variant=[]", *ANSWERS]),
    "deep": ("direct, twice as deep", ["variant=[]", *ANSWERS, "model.layers=4"]),
    "filler": ("filler tokens", ["variant=[think]", "thinker.filler=true", *ANSWERS]),
}
PARTICULAR = {"steps_parity_grow": ["thinker.vocabulary=4"],
              "steps_chain_grow": ["thinker.vocabulary=10"],
              "steps_chase_grow": ["thinker.vocabulary=16"],
              "steps_half_grow": ["thinker.asked=4"]}
ASKED = (0, 1, 2, 11)  # questions about each thought of task=half, beside 4
AUTOMATA = ((3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0), (7, 0), (8, 0),
            (8, 1))  # states, and the seed that each is drawn with
OTHERS = {"carry": ["task=carry", "thinker.asked=4", "thinker.vocabulary=24"],
          "registers": ["task=registers", "task.registers=2", "thinker.asked=2",
                        "thinker.vocabulary=24"]}


def settings() -> dict[str, tuple[str, list[str]]]:
    """name -> (what it is, overrides), of every task in every way."""
    found = {}
    for task, (about, words, lengths, _) in TASKS.items():
        for way, (title, more) in WAYS.items():
            name = f"steps_{task}_{way}"
            mixed = [] if way == "grow" else lengths
            found[name] = (f"{about}: {title}", [*more, *words, *mixed, *PARTICULAR.get(name, [])])
    about, words, _, _ = TASKS["half"]
    for count in ASKED:
        found[f"steps_half_asked{count}"] = (
            f"{about}: asked {count or 'the plain question'}",
            [*GROW, *words, f"thinker.asked={count}", "trainer.max_steps=1500"])
    for states, machine in AUTOMATA:
        found[f"steps_automaton_{states}_{machine}"] = (
            f"automaton of {states} states, drawn with {machine}, 16 letters",
            [*GROW, "task=automaton", f"task.states={states}", f"task.machine={machine}",
             "thinker.asked=4", "thinker.vocabulary=12"])
    for name, words in OTHERS.items():
        found[f"steps_{name}_grow"] = (f"{name}, 16 moves: {WAYS['grow'][0]}", [*GROW, *words])
    return found


SETTINGS = settings()
results.ALL.update(SETTINGS)


def of_lengths(job: tuple[str, int]) -> dict[int, float]:
    """Accuracy of a run for each number of steps, on held-out questions; evaluated once."""
    name, seed = job
    run, kept = results.RUNS / name / str(seed), results.RUNS / name / f"{seed}_lengths"
    if not (run / "summary.json").is_file() or name.split("_")[1] not in TASKS:
        return {}
    if not (kept / "summary.json").is_file():
        lengths = TASKS[name.split("_")[1]][2]
        words = [sys.executable, str(ROOT / "run.py"), "action=evaluate",
                 f"model.name={newest(run)}", *lengths, "task.test_questions=4000",
                 f"hydra.run.dir={kept}", "trainer.threads=1"]
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    metrics = json.loads((kept / "summary.json").read_text())["metrics"]
    found = {int(key.split("/")[1].split("_")[0]): value for key, value in metrics.items()
             if key.startswith("accuracy/") and key.endswith("_steps")}
    return dict(sorted(found.items()))


def newest(run: Path) -> Path:
    """The last checkpoint of a run."""
    return max(run.glob("checkpoint_*/manifest.json"), key=lambda path: json.loads(
        path.read_text())["step"]).parent


def draw() -> None:
    """Accuracy by number of swaps: the mean of the seeds, and each seed thinly."""
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    for colour, way in zip(("tab:blue", "tab:orange", "tab:red", "tab:green"), WAYS, strict=True):
        curves = [curve for seed in results.SEEDS
                  if (curve := of_lengths((f"steps_cups_{way}", seed)))]
        for curve in curves:
            axis.plot([*curve], [*curve.values()], color=colour, linewidth=0.5)
        if curves:
            lengths = [*curves[0]]
            means = [statistics.mean(curve[n] for curve in curves) for n in lengths]
            axis.plot(lengths, means, color=colour, linewidth=2, label=WAYS[way][0])
    axis.axhline(TASKS["cups"][3], color="grey", linewidth=0.8, linestyle=":", label="chance")
    axis.set_xlabel("swaps of five cups")
    axis.set_ylabel("accuracy on held-out questions")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def row(name: str) -> str:
    """A line of the table: accuracy of each seed at the longest questions, with shuffled thoughts,
    steps and seconds.
    """
    found = [(summary, of_lengths((name, seed))) for seed in results.SEEDS
             if (summary := results.load(name, seed))]
    title, overrides = SETTINGS[name]
    if len(found) < len(results.SEEDS):
        title += f" ({len(found)} of {len(results.SEEDS)} seeds run so far)"
    longest = " / ".join(f"{lengths[max(lengths)] if lengths else summary['accuracy']:.3f}"
                         for summary, lengths in found)
    shuffled = [summary["necessity"].get("shuffled") for summary, _ in found if
                summary["necessity"]]
    steps = " / ".join(str(summary["steps"]) for summary, _ in found)
    falls = " / ".join(str(falls_of(name, seed)) for seed in results.SEEDS
                       if results.load(name, seed))
    swaps = " / ".join(f"{share:.2f}" for summary, _ in found if (
        share := summary["metrics"].get("swap/other_state")) is not None) or "-"
    seconds = " / ".join(f"{summary['seconds']:.0f}" for summary, _ in found)
    line = " ".join(results.last_words(overrides))
    return (f"| {title} | {longest} | {f'{max(shuffled):.3f}' if shuffled else '-'} | {swaps} | "
            f"{steps} | {falls} | {seconds} | `{line}` |")


def falls_of(name: str, seed: int) -> str:
    """How often training went back to shorter questions; "-" where no curriculum decides."""
    rows = map(json.loads, (results.RUNS / name / str(seed) / "metrics.jsonl").open())
    falls = [row["curriculum/falls"] for row in rows if "curriculum/falls" in row]
    return f"{falls[-1]:.0f}" if falls else "-"


def write_table() -> None:
    """Replace the table between the markers of docs/results.md."""
    head = ("| task: way | accuracy at the longest, seeds 0 / 1 / 2 | highest with shuffled "
            "thoughts | answers that follow a swapped state | steps | falls | seconds | overrides "
            "|\n|---|---|---|---|---|---|---|---|\n")
    run = [name for name in SETTINGS if any(results.load(name, seed) for seed in results.SEEDS)]
    missing = ", ".join(f"`{name}`" for name in SETTINGS if name not in run)
    left = f"\nNot run yet: {missing}.\n" if missing else ""
    fill(results.PAGE, "steps", head + "\n".join(map(row, run)) + f"\n{left}")


def main() -> None:
    results.run_what_is_asked(__doc__, results.run, lambda word: [
        (name, seed) for seed in results.SEEDS for name in SETTINGS if word in name])
    write_table()
    draw()


if __name__ == "__main__":
    main()
