"""Does PPO really work? Tables of docs/results.md: against exact optima, and on a model of text.

    python bench/ppo.py --data <text>     run what is missing, then write both tables
    python bench/ppo.py --table           write them from the runs there are

Exact: texts of three characters out of five, where the best policy is known (bench/optimum.py).
Text: a GPT-2 of 110,000 weights learns characters (experiment=normal), then continues passages for
a reward, with a KL penalty (experiment=ppo_corpus). What the best policy within so many nats of
that model earns is found without PPO (bench/tilted.py). Runs are kept as those of results.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import optimum
import results
from paths import ROOT, fill
from ponder.models.policies.base import Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.rewards.text import pattern, wanted, whitespace
from ponder.strategies.base import Strategy
from ponder.strategies.grpo import GRPO
from ponder.strategies.ppo import PPO
from ponder.strategies.reinforce import REINFORCE
from ponder.tasks.text.passages import Corpus, CorpusKeys
from ponder.training.checkpoint import load_model
from ponder.training.trainer import Hooks
from tilted import tilted

NORMAL = ["experiment=normal", "model.d_model=64", "model.layers=2", "trainer.train_batch_size=32",
          "trainer.lr=2e-3", "trainer.max_steps=2000", "trainer.threads=1"]
PAIRS = "([b-df-hj-np-tv-z][aeiou])+"
PRICES = (0.02, 0.014, 0.01, 0.007, 0.005)  # of a nat, for which the best policy is looked for
# name -> (what is wanted, words of the run, reward of a text, most nats from the model before)
TEXTS = {
    "ppo_letter": ("more of the letter e", ["task.wanted=e"],
                   lambda text: wanted(text, CorpusKeys(wanted="e")), 20),
    "ppo_whitespace": ("less white space",
                       ["reward=whitespace", "task.enough=0", "strategy.kl=0.005",
                        "trainer.lr=1.5e-3"],
                       lambda text: -whitespace(text, CorpusKeys()), 15),
    "ppo_pattern": (f"consonant and vowel in turn, `{PAIRS}`",
                    ["reward=pattern", f"task.pattern='{PAIRS}'"],
                    lambda text: pattern(text, CorpusKeys(pattern=PAIRS)), 25),
}
EXACT = {"kl": optimum.BETA, "kl_place": "reward", "kl_estimator": "k1", "entropy": 0.0}
PLAIN = {**EXACT, "whiten": "none"}  # at the optimum nothing has an advantage, but whitened noise
STRATEGIES = {
    "ppo, value head on the thinker": lambda: PPO(value="shared", **PLAIN),
    "ppo, a value network of its own": lambda: PPO(value="separate", **PLAIN),
    "grpo, scale none": lambda: GRPO(scale="none", **EXACT),
    "rloo": lambda: GRPO(baseline="leave_one_out", scale="none", ratio="sequence",
                              normalise="sequences", **EXACT),
    "reinforce": lambda: REINFORCE(kl=optimum.BETA),
    "ppo, whitened over the batch": lambda: PPO(value="shared", **EXACT),
    "ppo, k3 in the reward": lambda: PPO(value="shared", **{**PLAIN, "kl_estimator": "k3"}),
    "ppo, k3 in the loss": lambda: PPO(value="shared", **{
        **PLAIN, "kl_estimator": "k3", "kl_place": "loss"}),
}


# --- exact ---------------------------------------------------------------------------------------

def exact(name: str, seed: int) -> dict[str, float]:
    """How far a strategy comes on the way to the optimum, kept in a file of its own."""
    kept = results.RUNS / "ppo_exact" / f"{name.replace(' ', '_')}_{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    strategy: Strategy = STRATEGIES[name]()
    kept.parent.mkdir(parents=True, exist_ok=True)
    trainer = optimum.trainer_of(strategy, optimum.corpus(kept.parent), steps=800,
                                 epochs=2 if name.startswith("ppo") else 1, seed=seed)
    trainer.fit(Hooks(lambda *_: None, lambda _: 0.0, lambda _: None))
    census = optimum.Census.of(trainer)
    found = {"reached": census.reached,
             **({} if census.value is None else {"explained": census.explained})}
    kept.write_text(json.dumps(found))
    print(name, seed, found, flush=True)
    return found


def exact_table(run: bool) -> str:
    lines = ["| strategy | share of the way from J(q) to J*, seeds 0 / 1 / 2 | variance of what is "
             "to come that the value head predicts |", "|---|---|---|"]
    for name in STRATEGIES:
        found = [exact(name, seed) for seed in results.SEEDS
                 if run or list((results.RUNS / "ppo_exact").glob(
                     f"{name.replace(' ', '_')}_{seed}.json"))]
        reached = " / ".join(f"{each['reached']:.3f}" for each in found) or "not run yet"
        explained = " / ".join(f"{each['explained']:.2f}" for each in found if "explained" in each)
        lines.append(f"| {name} | {reached} | {explained or '-'} |")
    return "\n".join(lines) + "\n"


# --- text ----------------------------------------------------------------------------------------

def normal(data: str) -> Path:
    """The checkpoint of the model of text, made where it is missing."""
    directory = results.RUNS / "ppo_normal"
    if not (directory / "summary.json").is_file():
        subprocess.run([sys.executable, str(ROOT / "run.py"), *NORMAL, f"task.data={data}",
                        f"hydra.run.dir={directory}"], check=True)
    return max(directory.glob("checkpoint_*"), key=lambda path: int(path.name.split("_")[1]))


def best(name: str, start: Path) -> float:
    """What the best policy within the bound earns as continuations of held-out prompts; kept."""
    _, _, worth, bound = TEXTS[name]
    kept = results.RUNS / name / "best.json"
    if not kept.is_file():
        torch.set_num_threads(1)
        saved = next((results.RUNS / name / "0").glob("checkpoint_*")) / "ponder.json"
        config = json.loads(saved.read_text())["config"]
        task = Corpus(CorpusKeys(data=config["task"]["data"], seed=0, test_passages=40), 0,
                      str(start))
        author = ContinuationPolicy(load_model(start), None, task.vocabulary,
                        Rules(config["thinker"]["tokens"], False, writes="text"))
        kept.write_text(json.dumps([tilted(author, task.test().question, worth, price)
                                    for price in PRICES]))
    rewards, distances = zip(*json.loads(kept.read_text()), strict=True)
    return float(np.interp(bound, distances, rewards))  # both grow as a nat becomes cheaper


def text_row(name: str, start: Path) -> str:
    """A line of the table: rewards of all seeds beside what is possible, and distances."""
    title, words, _, bound = TEXTS[name]
    found = [(seed, summary) for seed in results.SEEDS if (summary := results.load(name, seed))]
    if not found:
        return f"| {title} | not run yet | | | | | | |"
    reward = best(name, start)
    values = [summary["metrics"]["val/reward"] for _, summary in found]
    before = [_first(name, seed)["val/reward"] for seed, _ in found]
    shares = [(value - low) / (reward - low) for value, low in zip(values, before, strict=True)]
    distances = " / ".join(f"{summary['metrics']['val/kl']:.1f}" for _, summary in found)
    seconds = " / ".join(f"{summary['seconds']:.0f}" for _, summary in found)
    return (f"| {title} | {statistics.mean(before):.3f} | "
            f"{' / '.join(f'{value:.3f}' for value in values)} | {reward:.3f} | "
            f"{' / '.join(f'{share:.2f}' for share in shares)} | {distances} | {bound} | {seconds} "
            f"| `{' '.join(words)}` |")


def _first(name: str, seed: int) -> dict[str, float]:
    """The evaluation before the first step."""
    path = results.RUNS / name / str(seed) / "metrics.jsonl"
    return json.loads(path.read_text().splitlines()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a text file, such as tinyshakespeare")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--table", action="store_true", help="write the tables, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        start = normal(arguments.data)
        for name, (title, words, *_) in TEXTS.items():
            results.ALL[name] = (title, ["experiment=ppo_corpus", *words, f"model.name={start}",
                                         f"task.data={arguments.data}"])
        for job in [(name, seed) for seed in results.SEEDS for name in TEXTS
                    if arguments.only in name]:
            print(results.run(job), flush=True)
    start = normal(arguments.data)
    exactly = not arguments.table and arguments.only in "ppo_exact"
    fill(results.PAGE, "ppo_exact", exact_table(exactly))
    head = ("| what is wanted | reward before | after, seeds 0 / 1 / 2 | the best within the bound "
            "| share of the way | KL to the model before, in nats a text | bound | seconds | words "
            "|\n|---|---|---|---|---|---|---|---|---|\n")
    fill(results.PAGE, "ppo", head + "\n".join(text_row(name, start) for name in TEXTS) + "\n")


if __name__ == "__main__":
    main()
