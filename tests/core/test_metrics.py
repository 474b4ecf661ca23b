"""Every number that a run writes has a name, a unit and a sentence in docs/metrics.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ponder.core.metrics import METRICS, known, pace, page
from support.small import Door

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SMALL = ["task.max=10", "model.d_model=8", "model.layers=1", "task.test_questions=20",
         "trainer.train_batch_size=4", "trainer.threads=1", "trainer.max_steps=2",
         "hydra.run.dir=run"]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page() + "\n", "run: python -m ponder.core.metrics > docs/metrics.md"


def test_every_metric_has_a_sentence_and_one_place() -> None:
    names = [metric.name for part in METRICS.values() for metric in part]
    assert len(names) == len(set(names))
    assert all(len(metric.meaning) > 10 for part in METRICS.values() for metric in part)


ALL = [
    ["experiment=add_normal"],
    ["experiment=add_think_fixed_blind_search"],
    *(["experiment=add_think", f"strategy={name}"] for name in (
        "reinforce", "rloo", "dpo", "star", "exact thinker.vocabulary=3")),
    ["experiment=add_think_fixed", "strategy=grpo", "strategy.kl=0.1"],
    ["experiment=add_think_fixed", "strategy=ppo", "strategy.kl=0.1", "reward=interim"],
    *(["experiment=add_normal", f"strategy={name}"] for name in ("ppo", "dpo", "rloo", "exact")),
    *(["experiment=add_think_fixed_blind_search", f"strategy={name}", "rollout.samples=4"]
      for name in ("rloo", "grpo", "dpo", "reinforce")),
    *(["experiment=add_think_blind", f"thinker.kind={kind}"] for kind in ("continuous", "gumbel")),
]


@pytest.mark.parametrize("words", [
    pytest.param(words, marks=pytest.mark.slow if number % 4 else []) for number, words in
    enumerate(ALL)])
def test_every_number_of_a_run_is_known(words: list[str], door: Door) -> None:
    assert door(*" ".join(words).split(), *SMALL)[0] == 0
    for line in Path("run/metrics.jsonl").read_text().splitlines():
        for name in json.loads(line):
            assert known(name), name


def test_slow_steps_have_a_rate_too() -> None:
    assert [pace(rate) for rate in (0.0188, 0.5, 1, 12.34, 1200)] == [
        "0.019", "0.5", "1.0", "12.3", "1200.0"]
