"""Rollouts per second beside TRL's GRPOTrainer, and beside one rollout at a time.

    python bench/rollouts.py [--profile] [--json] [--quick] [--peer PATH] [--threads N]

The work: 32 questions x 8 samples x 4 thought tokens, GPT-2 of d_model 64 and 2 layers, reward =
thought tokens that are the gold digits, one full update (backward, clip, AdamW) a step, no
answerer. The peer script runs as a subprocess in turns with ours, on as many threads.

What is alike: addition modulo 100, six question tokens, two gold digits and four thought tokens (so
tokens three and four are never right), 24 tokens in the vocabulary, 64 positions, tied embeddings,
float32, group-relative advantages divided by the group's standard deviation, no KL penalty.
What differs: the peer samples from the whole vocabulary and may end early, we from the ten
thoughts; its reward reads text, ours tokens; it repeats the question for each sample, we compute it
once. A share (ours) or a number (its) of right tokens gives the same advantages. The row `with
answerer` also trains the answer's two digits after the thought, as users do; the peer has no such
work.

The notes' way: one rollout at a time until end-of-thought (at most 4 tokens), every prefix computed
again, logits of the whole row and vocabulary; then forward and backward one row at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from common import Work, build_trainer, last_json, median, seconds, table
from paths import ROOT, fill
from ponder.models.policies.base import Policy
from ponder.training.trainer import Trainer
from stopwatch import profile

WORK = Work()
FASTER_THAN_PEER, FASTER_THAN_ALONE, RAGGED_AT_MOST = 8.0, 20.0, 2.0


@dataclass
class Rates:
    """Repeated measurements of one row: rollouts and thought tokens per second."""

    rollouts: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)

    def note(self, rollouts: float, tokens: float, sampled: float | None = None) -> None:
        self.rollouts.append(rollouts)
        self.tokens.append(tokens)
        if sampled is not None:
            self.sampled.append(sampled)


# --- the systems --------------------------------------------------------------------------------

def measure(trainer: Trainer, steps: int, rates: Rates) -> None:
    """Some steps of the framework's own loop: collect, then one update."""
    rollouts = tokens = 0
    sampling = 0.0
    started = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        found = trainer.collect()
        sampling += time.perf_counter() - before
        trainer.step([found])
        rollouts += len(found)
        tokens += int(found.lengths.sum())
    spent = time.perf_counter() - started
    rates.note(rollouts / spent, tokens / spent, rollouts / sampling)


@torch.no_grad()
def think_alone(policy: Policy, question: Tensor) -> Tensor:
    """(1, Q + t): one question (1, Q) and a thought after it; every prefix is computed again."""
    net, allowed, row = policy.thinker, policy.allowed, question
    for _ in range(policy.rules.tokens):
        logits = net.logits(net(row)[0])[:, -1, allowed]
        token = allowed.start + torch.multinomial(logits.softmax(-1), 1)
        row = torch.cat([row, token], 1)
        if int(token) == policy.vocabulary.end:
            break
    return row


def measure_alone(trainer: Trainer, count: int, rates: Rates) -> None:
    """The notes' way: rollouts sampled and learnt from one by one, then one optimizer step."""
    policy = trainer.policy
    questions = trainer.task.sample(count, trainer.generator).question
    started = time.perf_counter()
    rows = [think_alone(policy, question[None]) for question in questions]
    sampled = time.perf_counter()
    trainer.learner.optimizer.zero_grad()
    for row in rows:
        logits = policy.thinker.logits(policy.thinker(row[:, :-1])[0])
        logprobs = logits.log_softmax(-1).gather(-1, row[:, 1:, None])
        (-logprobs[:, questions.shape[1] - 1:].sum() / count).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    trainer.learner.optimizer.step()
    spent = time.perf_counter() - started
    tokens = sum(row.shape[1] - questions.shape[1] for row in rows)
    rates.note(count / spent, tokens / spent, count / (sampled - started))


def peer_missing(peer: Path) -> str | None:
    """Why the peer cannot run, or None."""
    if not peer.is_file():
        return f"no peer script at {peer}"
    if importlib.util.find_spec("trl") is None:
        return "trl is not installed (pip install '.[peers]')"
    return None


def measure_peer(peer: Path, steps: int, threads: int, rates: Rates) -> None:
    """The peer's own figure. Raises `RuntimeError` with its last line where it fails."""
    words = [sys.executable, str(peer), "--steps", str(steps), "--threads", str(threads),
             "--questions", str(WORK.questions), "--samples", str(WORK.samples),
             "--tokens", str(WORK.tokens), "--d", str(WORK.d_model), "--layers", str(WORK.layers)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=ROOT,
                         env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or ["no output"])[-1])
    found = last_json(run.stdout)
    rates.note(found["rollouts_per_s"], found["thought_tokens_per_s"])


# --- taking turns -------------------------------------------------------------------------------

def take_turns(options: argparse.Namespace) -> tuple[dict[str, Rates], str | None]:
    """Measure every row `repeats` times in alternation; (rows, why there is no peer)."""
    ours = {"fixed": build_trainer(WORK), "answerer": build_trainer(replace(WORK, answerer=True)),
            "ragged": build_trainer(replace(WORK, stops=True))}
    alone = build_trainer(replace(WORK, stops=True))
    missing = "--quick" if options.quick else peer_missing(options.peer)
    rates = {name: Rates() for name in (*ours, "alone", "peer")}
    for trainer in ours.values():
        seconds(lambda trainer=trainer: trainer.step([trainer.collect()]), options.warm)
    measure_alone(alone, options.warm, Rates())
    for _ in range(options.repeats):
        for name, trainer in ours.items():
            measure(trainer, options.steps, rates[name])
        measure_alone(alone, options.alone, rates["alone"])
        if missing is None:
            try:
                measure_peer(options.peer, options.peer_steps, options.threads, rates["peer"])
            except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                missing = f"the peer failed: {error}"
    return rates, missing


def ratio(above: list[float], below: list[float]) -> float | None:
    """Median of the ratios of neighbours in time."""
    return median([a / b for a, b in zip(above, below, strict=False)])


def summarise(rates: dict[str, Rates], missing: str | None,
              options: argparse.Namespace) -> dict[str, object]:
    fixed, ragged, alone, peer = (rates[name] for name in ("fixed", "ragged", "alone", "peer"))
    return {
        "rollouts_per_s": median(fixed.rollouts),
        "rollouts_per_s_with_answerer": median(rates["answerer"].rollouts),
        "rollouts_per_s_ragged": median(ragged.rollouts),
        "rollouts_per_s_peer": median(peer.rollouts),
        "rollouts_per_s_alone": median(alone.rollouts),
        "ratio_peer": ratio(fixed.rollouts, peer.rollouts),
        "ratio_peer_with_answerer": ratio(rates["answerer"].rollouts, peer.rollouts),
        "ratio_alone": ratio(fixed.rollouts, alone.rollouts),
        "ratio_alone_sampling": ratio(fixed.sampled, alone.sampled),
        "ragged_cost_per_token": ratio(fixed.tokens, ragged.tokens),
        "peer": missing or str(options.peer), "threads": options.threads,
        "repeats": options.repeats, "torch": torch.__version__}


def report(rates: dict[str, Rates], found: dict, missing: str | None) -> str:
    """The table that a person reads."""
    def number(value: float | None, unit: str = "") -> str:
        return "-" if value is None else f"{value:,.{0 if value >= 100 else 1}f}{unit}"

    rows = [["", "rollouts/s", "thought tokens/s", "sampled/s", "fixed is", "target"]]
    for name, title, against, target in (
            ("fixed", "ponder, fixed", "", ""),
            ("answerer", "ponder, with answerer", "", ""),
            ("ragged", "ponder, ragged",
             number(found["ragged_cost_per_token"], " x cheaper a token"),
             f"at most {RAGGED_AT_MOST:g}"),
            ("alone", "one rollout at a time", number(found["ratio_alone"], " x faster"),
             f"at least {FASTER_THAN_ALONE:g}"),
            ("peer", "TRL GRPOTrainer", number(found["ratio_peer"], " x faster"),
             f"at least {FASTER_THAN_PEER:g}")):
        own = rates[name]
        rows.append([title, *(number(median(values)) for values in
                              (own.rollouts, own.tokens, own.sampled)), against, target])
    note = f"\nTRL skipped: {missing}" if missing else ""
    return table(rows) + note


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=ROOT / "../shared/peers/trl_grpo_add.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="timed steps of ours a turn")
    parser.add_argument("--peer-steps", type=int, default=12)
    parser.add_argument("--alone", type=int, default=64, help="rollouts of the notes' way a turn")
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--write", action="store_true", help="put it into docs/results.md")
    parser.add_argument("--quick", action="store_true", help="two steps, no peer: for tests")
    options = parser.parse_args(arguments)
    options.peer = options.peer if options.peer.is_absolute() else ROOT / options.peer
    if options.quick:
        options.repeats, options.steps, options.alone, options.warm = 1, 2, 2, 1
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rates, missing = take_turns(options)
    found = summarise(rates, missing, options)
    text = report(rates, found, missing)
    if options.profile:
        text += "\n\n" + profile(build_trainer(WORK), options.steps)
    print(text)
    if options.write:
        fill(ROOT / "docs" / "results.md", "rollouts", f"```\n{text}\n```\n")
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
