"""A recorded round comes first, and again where it was interrupted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ponder.config.errors import UserError
from ponder.config.players import SamplerConfig
from ponder.core.math import Sampling
from ponder.rollouts import given
from ponder.rollouts.recorded import Preloaded, Recorded, _own_tokens, match
from ponder.rollouts.sampler import Sampler
from ponder.tasks.choice.questions import Question
from support.questions import WORDS
from support.small import generator, make_policy, make_task

ASKED = [Question(str(i), f"What is {i}?", ("a", "b"), 0) for i in range(4)]
KEY = "trainer.preload_data_for_training"


def matched(rows: list[dict], samples: int = 1) -> tuple[list[int], list[str], str]:
    pd.DataFrame(rows).to_json("rows.jsonl", orient="records", lines=True)
    found = match(Path("rows.jsonl"), KEY, ASKED, samples)
    return found.numbers, [row.text for row in found.rows], found.said


def test_rows_are_of_the_question_whose_words_they_have(tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          ) -> None:
    """A number as id says nothing where the words are others; a text that is no text is none."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "1", "question": "What  is 0?", "text": "of 0"},
            {"id": "1", "question": "Who is 1?", "text": "of another 1"},
            {"id": "2", "question": "What is 2?", "text": math.nan},
            {"id": "3", "question": None, "text": "of 3"}]
    assert matched(rows) == ([0, 3], ["of 0", "of 3"], (
        f"{KEY}=rows.jsonl: 2 of 4 rows are taken, for 2 of 4 questions; 2 questions have fewer "
        "than 1; 1 rows have no text; 1 rows have the id of a question of other words"))
    again = [*rows, {"id": "9", "question": "What is 0?", "text": "more of 0"}]
    assert matched(again, 2)[:2] == ([0], ["of 0", "more of 0"])
    with pytest.raises(UserError, match=r"no question of the task with 3 rollouts \(at most 2 "):
        matched(again, 3)


@pytest.mark.parametrize(("tokens", "right"), [
    ("true", True), ("3", False), ("9 9 9", False), ("7 8 99999", False), ("-1", False),
    ("7.5", False), ("", False)])
def test_tokens_are_used_where_they_say_the_text(tokens: str, right: bool) -> None:
    """Not those of another vocabulary, nor the number of tokens."""
    own = [*WORDS.encode("so B"), WORDS.end]
    row = Recorded("1", "?", "so B", " ".join(map(str, own)) if tokens == "true" else tokens)
    assert _own_tokens(row, WORDS) == (own if right else None)


def test_ratios_of_recorded_rollouts_compare_with_the_beginning_of_the_round() -> None:
    task = make_task()
    policy = make_policy(task, tokens=2, stops=False)
    problems = replace(task.sample(3, generator()), index=torch.tensor([4, 5, 6]))
    thought = torch.full((3, 3), policy.end)
    thought[:, :2] = torch.tensor([policy.allowed.start + 1, policy.allowed.start])
    first = given(problems, thought)
    sampler = Sampler(SamplerConfig(samples=2, temperature=0.5))
    rollouts = Preloaded(first, sampler, by_ratio=True).collect(policy, problems, 0, generator())
    before = policy.score(rollouts, Sampling(0.5)).logprobs.detach()
    torch.testing.assert_close(rollouts.logprobs, before)
    with torch.no_grad():
        for weight in policy.thinker.parameters():
            weight.mul_(1.1)
    scores = policy.score(rollouts, Sampling(0.5))
    torch.testing.assert_close(rollouts.log_ratio(scores), scores.logprobs - before)
    assert rollouts.log_ratio(scores).abs().min() > 0 and not rollouts.chosen.any()
    plain = Preloaded(first, sampler).collect(policy, problems, 0, generator())
    assert plain.log_ratio(scores).abs().max() == 0


def test_an_interrupted_recorded_round_is_provided_again() -> None:
    task = make_task()
    policy = make_policy(task, tokens=2, stops=False)
    problems = replace(task.sample(3, generator()), index=torch.tensor([4, 5, 6]))
    thought = torch.full((3, 3), policy.end)
    source = Preloaded(given(problems, thought), Sampler(SamplerConfig(samples=2)))
    asked = problems[torch.tensor([0, 2])]
    first = source.collect(policy, asked, 0, generator())
    assert torch.equal(first.thought, thought[:2]) and len(first) == 2
    source.withdraw()
    assert source.state()["used"] is False
    again = source.collect(policy, asked, 0, generator())
    assert torch.equal(again.thought, first.thought)
    assert len(source.collect(policy, asked, 1, generator())) == 4  # sampled, two for each question
    source.withdraw()  # of a sampled round: the recorded one stays used
    assert source.state()["used"] is True
