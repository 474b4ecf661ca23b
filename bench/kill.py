"""Kill a run at random moments, resume it, and compare its weights with an undisturbed run's.

    python bench/kill.py [--trials N] [--strategy reinforce,ppo,dpo,star] [--seed S] [--json]

A trial runs one small training with SIGKILL after a random time, again and again in the same
directory until it ends by itself; moments lie inside start-up, sampling, steps and saves. It holds
if the last weights are bit by bit those of the undisturbed run and metrics.jsonl has each line
once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

SMALL = ["experiment=add_think_fixed_blind_super", "task.max=10", "trainer.train_batch_size=16",
         "rollout.samples=4", "model.d_model=16", "model.heads=2", "task.test_questions=20",
         "trainer.max_steps=60", "trainer.val_every_n_steps=20", "trainer.log_every_n_steps=1",
         "trainer.save_every_n_steps=3", "trainer.gen_batch_size=32", "trainer.threads=1"]
STRATEGIES = {
    "reinforce": ["strategy=reinforce", "strategy.baseline=running_mean"],
    "ppo": ["strategy=ppo", "strategy.value=shared", "strategy.kl=0.01",
            "trainer.internal_epochs=2"],
    "dpo": ["strategy=dpo", "trainer.internal_epochs=2"],
    "star": ["experiment=add_think_fixed_blind_search", "strategy=star"],
}


@dataclass
class Outcome:
    strategy: str
    kills: int
    same_weights: bool
    whole_log: bool

    @property
    def held(self) -> bool:
        return self.same_weights and self.whole_log


def start(strategy: str, directory: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(ROOT / "run.py"), *SMALL, *STRATEGIES[strategy],
             f"hydra.run.dir={directory}"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env={**os.environ, "HF_HUB_OFFLINE": "1"})


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that nobody kills. Raises `RuntimeError` with its words where it fails."""
    _, errors = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(errors.decode().strip()[-500:])


def undisturbed(strategy: str, directory: Path) -> float:
    """Seconds that a whole run takes."""
    started = time.monotonic()
    finish(start(strategy, directory))
    return time.monotonic() - started


def left(directory: Path) -> tuple[str, list[tuple[int, str]]]:
    """(hash of the last weights, the step and the keys of every line of metrics.jsonl)."""
    summary = json.loads((directory / "summary.json").read_text())
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return summary["weights_sha256"], [(line["step"], ",".join(sorted(line))) for line in lines]


def trial(strategy: str, directory: Path, expected: Path, length: float, luck: random.Random,
          most: int = 6) -> Outcome:
    """Kill up to `most` times, then let it end."""
    kills = 0
    for _ in range(most):
        process = start(strategy, directory)
        try:
            process.communicate(timeout=luck.uniform(0.3, 1.0) * length)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    finish(start(strategy, directory))
    weights, lines = left(directory)
    other, all_lines = left(expected)
    return Outcome(strategy, kills, weights == other, lines == all_lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--strategy", default=",".join(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    luck, names = random.Random(options.seed), options.strategy.split(",")
    folder = Path(tempfile.mkdtemp(prefix="kill_"))
    lengths = {name: undisturbed(name, folder / name) for name in names}
    outcomes = []
    for number in range(options.trials):
        name = names[number % len(names)]
        outcome = trial(name, folder / f"{name}_{number}", folder / name, lengths[name], luck)
        outcomes.append(outcome)
        print(f"{number + 1}/{options.trials} {name}: {outcome.kills} kills, "
              f"{'held' if outcome.held else f'FAILED, see {folder}'}", flush=True)
    held = sum(outcome.held for outcome in outcomes)
    kills = sum(outcome.kills for outcome in outcomes)
    print(f"{held} of {len(outcomes)} trials held, {kills} kills")
    if options.json:
        print(json.dumps({"trials": len(outcomes), "held": held, "kills": kills}))
    if held == len(outcomes):
        shutil.rmtree(folder)
    return int(held < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
