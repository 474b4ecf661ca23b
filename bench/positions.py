"""Thoughts after every position of a passage: how fast, and which tokens rewards pay.

    python bench/positions.py <text> <normal> <another normal> <one that thinks>

The first two are checkpoints of `experiment=normal`, the last one of
`experiment=supervised_rollout_think`.

Speed: all positions in one batch, beside one position after the other, each a question of its own
with its own cache; in turns, one thread, the median of the ratios. Rewards: the same thoughts,
after every position of the same passages, are paid in several ways; the table shows the correlation
of reward and of credit with the difficulty of the next token (-log p of the second normal model,
the reference). An untrained thinker would not do: what it predicts after a thought is noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from paths import ROOT, fill
from ponder.core.credit import group_advantages
from ponder.core.math import Sampling, correlation
from ponder.core.types import Problems, Rollouts
from ponder.models.policies.base import Policy
from ponder.models.policies.next_token import PositionPolicy
from ponder.rewards.answers import Reward
from ponder.rollouts.sampler import all_positions, sample, think_at_positions
from ponder.training import build as builders
from ponder.training.build_policies import build_judge
from pretrain import composed

TURNS = 3
SIZES = tuple((count, length, samples) for count in (1, 8) for samples in (1, 4)
              for length in (64, 128, 256))
PAID = {"log-likelihood": ("log_likelihood", "none"),
        "group mean": ("log_likelihood", "group_mean"),
        "no thought": ("gain", "none"), "reference": ("reference", "none")}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def one_by_one(policy: Policy, passages: Problems, samples: int) -> None:
    """Each position is a question of its own: the passage up to there."""
    for end in range(1, passages.question.shape[1] + 1):
        sample(policy, replace(passages, question=passages.question[:, :end]), samples, Sampling())


def speed(config, task, net) -> str:
    """The table of times; SIZES: passages, tokens of each, thoughts a position."""
    lines = ["| passages | tokens of each | thoughts a position | at once (s) | one by one (s) | "
             "ratio |", "|---|---|---|---|---|---|"]
    for count, length, samples in SIZES:
        policy = PositionPolicy(net, task.vocabulary, builders.build_rules(config), 1, True)
        passages = task.test()[slice(0, count)]
        passages = replace(passages, question=passages.question[:, :length],
                           answer=passages.answer[:, :length])
        there = replace(passages, positions=all_positions(policy, passages))
        pairs = [(seconds(lambda there=there, p=policy, g=samples: think_at_positions(
                      p, there, g, Sampling())),
                  seconds(lambda rest=passages, p=policy, g=samples: one_by_one(p, rest, g)))
                 for _ in range(TURNS)]
        ratio = statistics.median(slow / fast for fast, slow in pairs)
        fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
        lines.append(f"| {count} | {length} | {samples} | {fast:.3f} | {slow:.2f} | {ratio:.1f} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def correlations(config, task, policy: PositionPolicy, reference: PositionPolicy) -> str:
    passages = task.test()[slice(0, 64)]
    passages = replace(passages, positions=all_positions(policy, passages))
    rollouts = think_at_positions(policy, passages, config.rollout.samples, Sampling(),
                                  torch.Generator().manual_seed(0))
    hard = policy.difficulty(rollouts, reference)
    lines = ["| paid by | reward with difficulty | size of credit with difficulty | "
             "credit with difficulty |", "|---|---|---|---|"]
    for name, (reward, baseline) in PAID.items():
        paid: Rollouts = Reward({reward: 1.0}, reference)(policy, replace(rollouts))
        assert paid.reward is not None
        credit = group_advantages(paid.reward, rollouts.group_size, baseline, "none")
        lines.append(f"| {name} | {float(correlation(paid.reward, hard)):+.3f} | "
                     f"{float(correlation(credit.abs(), hard)):+.3f} | "
                     f"{float(correlation(credit, hard)):+.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("model")
    parser.add_argument("reference")
    parser.add_argument("thinker")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = composed("experiment=supervised_rollout_think", f"task.data={options.text}",
                      f"model.name={options.model}", f"model.ref_name={options.reference}",
                      "task.length=256")
    task = builders.build_task(config)
    fast = speed(config, task, builders.build_policy(config, task).thinker)
    fill(ROOT / "docs" / "results.md", "places", fast)
    short = composed("experiment=supervised_rollout_think", f"task.data={options.text}",
                     f"model.name={options.thinker}", f"model.ref_name={options.reference}")
    task = builders.build_task(short)
    policy, reference = builders.build_policy(short, task), build_judge(short, task)
    pays = correlations(short, task, policy, reference)
    fill(ROOT / "docs" / "results.md", "easy_tokens", pays)
    print(fast + "\n" + pays)


if __name__ == "__main__":
    main()
