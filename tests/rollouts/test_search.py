"""Searches against brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from ponder.config.players import ThinkerConfig, thought_count
from ponder.config.spine import Config, schemas, search_schema
from ponder.core.types import Problems
from ponder.models.policies.base import Policy
from ponder.rollouts.search import close, described, leaf_values
from ponder.rollouts.search.balanced import (
    Balanced,
    BalancedConfig,
    Codebook,
    assign,
    deal,
    padded_groups,
)
from ponder.rollouts.search.exhaustive import Beam, Exhaustive, every_thought
from ponder.rollouts.search.tree import Forest, Tree, TreeConfig
from ponder.training.collector import StopRequested
from support.small import generator, make_policy, make_task

SEARCH = search_schema()
QUIET = SEARCH(noise=0.0, balance=False, samples=3)


def brute_force(policy: Policy, problems: Problems, samples: int) -> list[list[list[int]]]:
    """The best thoughts of each problem, every one of them scored by itself."""
    rules, first = policy.rules, policy.vocabulary.first_thought
    lengths = range(0 if rules.stops else rules.tokens, rules.tokens + 1)
    words = range(first, len(policy.vocabulary))
    codes = [c for n in lengths for c in itertools.product(words, repeat=n)]
    best = []
    for i in range(len(problems)):
        one = problems[torch.tensor([i])]
        scores = [policy.answer(one, torch.tensor([[*c, policy.vocabulary.end]]))[0].item()
                  for c in codes]
        order = sorted(range(len(codes)), key=lambda j: -scores[j])[:samples]
        best.append([list(codes[j]) for j in order])
    return best


def found(thought: torch.Tensor, policy: Policy, samples: int) -> list[list[list[int]]]:
    first = policy.vocabulary.first_thought
    rows = [[t for t in row if t >= first] for row in thought.tolist()]
    return [rows[i:i + samples] for i in range(0, len(rows), samples)]


def players(stops: bool, sees: tuple[str, ...], answer: str = "number") -> tuple[Policy, Problems]:
    task = make_task(thoughts=3, max=10, answer=answer)
    return make_policy(task, tokens=2, stops=stops, sees=sees), task.sample(4, generator())


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("sees", [("thought",), ("question", "thought")])
@pytest.mark.parametrize("answer", ["number", "digits"])
def test_exhaustive_search_is_brute_force(stops: bool, sees: tuple[str, ...], answer: str) -> None:
    policy, problems = players(stops, sees, answer)
    thought = Exhaustive(QUIET).collect(policy, problems, 0, generator()).thought
    assert found(thought, policy, 3) == brute_force(policy, problems, 3)


def test_a_search_can_be_interrupted_between_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 thoughts for each of 4 questions, two questions at once."""
    policy, problems = players(True, ("question", "thought"))
    search = Exhaustive(QUIET)
    whole = search.collect(policy, problems, 0, generator()).thought
    monkeypatch.setattr("ponder.rollouts.search.ROWS_AT_ONCE", 26)
    heard: list[tuple] = []
    policy.on_progress = lambda *said: heard.append(said)
    assert torch.equal(search.collect(policy, problems, 0, generator()).thought, whole)
    assert heard == [("trying thoughts", rows, 52) for rows in (0, 26, 52)]

    def stop(doing: str, rows: int, total: int) -> None:
        if rows == 26:
            raise StopRequested

    policy.on_progress = stop
    with pytest.raises(StopRequested):
        search.collect(policy, problems, 0, generator())


@pytest.mark.parametrize(("search", "said"), [(Beam, "searching token"), (Tree, "simulation")])
def test_what_takes_rounds_can_be_interrupted_between_them(search: Any, said: str) -> None:
    policy, problems = players(True, ("question", "thought"))
    heard: list[tuple] = []
    policy.on_progress = lambda *now: heard.append(now)
    search(QUIET).collect(policy, problems, 0, generator())
    total = policy.rules.tokens if search is Beam else QUIET.tree.simulations
    assert heard == [(said, number, total) for number in range(total + 1)] and total > 1

    def stop(doing: str, number: int, total: int) -> None:
        if number == 1:
            raise StopRequested

    policy.on_progress = stop
    with pytest.raises(StopRequested):
        search(QUIET).collect(policy, problems, 0, generator())


@pytest.mark.parametrize("stops", [True, False])
def test_a_beam_as_wide_as_the_space_is_brute_force(stops: bool) -> None:
    policy, problems = players(stops, ("question", "thought"))
    thought = Beam(replace(QUIET, width=9)).collect(policy, problems, 0).thought
    expected = brute_force(policy, problems, 13)
    ours = found(thought, policy, 3)
    for mine, every in zip(ours, expected, strict=True):
        assert mine == [code for code in every if code][:3]  # a beam never weighs the empty thought


@pytest.mark.slow
@pytest.mark.parametrize("stops", [True, False])
def test_a_long_tree_search_finds_the_best_thought(stops: bool) -> None:
    policy, problems = players(stops, ("question", "thought"))
    config = replace(QUIET, tree=TreeConfig(simulations=200, exploration=100.0), samples=1)
    thought = Tree(config).collect(policy, problems, 0).thought
    expected = brute_force(policy, problems, 13)
    for mine, every in zip(found(thought, policy, 1), expected, strict=True):
        assert mine[0] == next(code for code in every if code)


def test_tree_backs_up_what_it_visits() -> None:
    policy, problems = players(False, ("question", "thought"))
    forest = Forest(policy, problems, 30)
    for _ in range(30):
        forest.simulate(1.0, lambda p, q, prefix: leaf_values(p, q, prefix[:, None])[:, 0])
    assert (forest.visits[:, 0].sum(1) == 30).all()
    root_mean = forest.total[:, 0].sum(1) / 30
    below, above = forest.value[:, 1:].clone(), forest.value[:, 1:].clone()
    below[torch.isinf(below)] = torch.inf
    assert (root_mean >= below.amin(1) - 1e-5).all() and (root_mean <= above.amax(1) + 1e-5).all()
    prior = forest.prior[:, 0]
    assert torch.allclose(prior.sum(1), torch.ones(len(problems)), atol=1e-5)


def test_a_short_tree_search_still_returns_whole_thoughts() -> None:
    policy, problems = players(False, ("thought",))
    config = replace(QUIET, tree=TreeConfig(simulations=1), samples=2)
    rollouts = Tree(config).collect(policy, problems, 0)
    assert (rollouts.lengths == 2).all()


@pytest.mark.slow
def test_value_model_learns_the_answerers_values() -> None:
    policy, problems = players(False, ("thought",))
    search = Tree(replace(QUIET, tree=TreeConfig(8, value="model", value_lr=1e-2)))
    errors = []
    for step in range(60):
        rollouts = search.collect(policy, problems, step)
        assert search.value is not None
        prefixes = rollouts.thought[:, :-1]
        question = problems.question.repeat_interleave(3, 0)
        with torch.no_grad():
            guess = search.value(torch.cat([question, prefixes], 1), problems.pad)
        truth = leaf_values(policy, problems, prefixes.view(4, 3, 2)).flatten()
        errors.append(float((guess - truth).square().mean()))
        search.observe(policy, rollouts, None)  # type: ignore[arg-type]
    assert errors[-1] < 0.2 * errors[0]


def test_thoughts_are_counted_and_closed() -> None:
    policy, _ = players(True, ("thought",))
    assert len(every_thought(policy, torch.device("cpu"))) == thought_count(2, 3, True) == 13
    assert thought_count(3, 10, False) == 1000
    assert close(torch.tensor([[7, 0], [7, 8], [0, 0]]), 5, 0).tolist() == [
        [7, 5, 0], [7, 8, 5], [5, 0, 0]]


# --- balanced self-labelling --------------------------------------------------------------------


def test_a_search_is_described_by_its_method_and_space() -> None:
    """Two of ten tokens, or fewer: 1 + 10 + 100 thoughts; too few for a code for each of 5000."""
    config = Config(thinker=ThinkerConfig(tokens=2, vocabulary=10), rollout=SEARCH(),
                    strategy=schemas("strategy")["star"]())
    assert described(config, 100) == "rollout.method=balanced: a space of 111 thoughts"
    assert described(config, 5000) == "rollout.method=exhaustive: a space of 111 thoughts"


def test_balanced_exhaustive_search_gives_every_answer_its_own_thought() -> None:
    task = make_task(thoughts=10, max=10)
    policy = make_policy(task, tokens=1, stops=False, sees=("thought",))
    problems = task.test()
    search = Exhaustive(SEARCH(noise=0.0))
    rollouts = search.collect(policy, problems, 0)
    assert problems.label is not None
    pairs = {(int(a), int(t)) for a, t in zip(problems.label, rollouts.thought[:, 0], strict=True)}
    answers = len(problems.label.unique())
    assert len(pairs) == answers
    merged = Exhaustive(QUIET).collect(policy, problems, 0).thought[::3, 0].unique()
    assert len({t for _, t in pairs}) > len(merged)


def test_padded_groups_by_hand() -> None:
    index, mask = padded_groups(torch.tensor([7, 3, 7, 7, 3]))
    assert index[mask].tolist() == [1, 4, 0, 2, 3]
    assert mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("answers", [100, 97, 1000])
def test_assignment_respects_quotas_and_leaves_codes_distinct(answers: int) -> None:
    codes = torch.zeros(answers, 3, dtype=torch.long)
    group = torch.zeros(answers, dtype=torch.long)
    for position in range(3):
        codes[:, position] = assign(torch.randn(answers, 10), group, codes[:, position], 0.3)
        for members in group.unique():
            used = codes[group == members, position].bincount(minlength=10)
            assert used.max() <= -(-int((group == members).sum()) // 10)
        group = group * 10 + codes[:, position]
    assert len(codes.unique(dim=0)) == answers


def test_dealing_gives_everyone_the_best_when_nobody_competes() -> None:
    plan = torch.eye(4)[None] * 5
    whole = torch.ones(1, 4, dtype=torch.bool)
    assert deal(plan, whole, torch.tensor([1])).tolist() == [[0, 1, 2, 3]]
    contested = torch.tensor([[[3.0, 2, 0], [2.9, 0, 1], [2, 1.5, 0]]])
    dealt = deal(contested, torch.ones(1, 3, dtype=torch.bool), torch.tensor([1]))
    assert dealt.tolist() == [[0, 2, 1]]


def test_assignment_follows_the_table_and_the_bonus_keeps_labels() -> None:
    truth = torch.arange(40) % 10
    table = torch.nn.functional.one_hot(truth, 10).float()
    nobody = torch.zeros(40, dtype=torch.long)
    assert torch.equal(assign(table, nobody, torch.zeros_like(truth), 0.0), truth)
    present = torch.randperm(40) % 10
    assert torch.equal(assign(torch.randn(40, 10) * 0.01, nobody, present, 50.0), present)
    equal = torch.full((40, 10), -2.3) + torch.randn(40, 10).sign() * 2e-7  # up to rounding
    assert torch.equal(assign(equal, nobody, present, 0.01), present)


def test_codebook_table_is_a_mean_by_answer() -> None:
    book = Codebook(3, 2, 4, BalancedConfig(), torch.device("cpu"))
    logprobs = torch.randn(5, 2, 4)
    label = torch.tensor([0, 2, 2, 0, 2])
    book.note(label, logprobs, 0)
    mean = book.total / book.count.clamp_min(1)
    assert torch.allclose(mean[2], logprobs[[1, 2, 4]].mean(0))
    assert (book.total[1] == 0).all()
    assert book.prefix(2).tolist() == [0, 0, 0]


def test_balanced_search_begins_with_one_position_and_distinct_codes_at_the_end() -> None:
    task = make_task(thoughts=4, max=10)
    policy = make_policy(task, tokens=2, stops=False, sees=("thought",))
    eager = replace(SEARCH(), balanced=BalancedConfig(every=1, next_known=0.0,
                                                            next_change=1.0))
    search = Balanced(eager, task, 2, torch.device("cpu"))
    problems = task.sample(64, generator())
    first = search.collect(policy, problems, 0, generator())
    assert first.thought.shape[1] == 2 and search.active == 1
    for step in range(1, 4):
        rollouts = search.collect(policy, problems, step, generator())
        search.observe(policy, rollouts, policy.score(rollouts, search.sampling(step)))
    assert search.active == 2
    assert len(search.book.codes.unique(dim=0)) == 10
    assert problems.label is not None
    again = search.collect(policy, problems, 3, generator()).thought
    same = problems.label[:, None] == problems.label
    equal = (again[:, None] == again).all(-1)
    assert torch.equal(same, equal)


def test_a_first_token_that_resists_makes_the_thinker_start_anew() -> None:
    task = make_task(thoughts=4, max=10)
    policy = make_policy(task, tokens=2, stops=False, sees=("thought",))
    config = replace(SEARCH(), balanced=BalancedConfig(every=1, first_known=0.99, patience=3))
    search = Balanced(config, task, 2, torch.device("cpu"))
    problems, before = task.sample(64, generator()), policy.thinker.head.clone()
    for step in range(3):
        search.collect(policy, problems, step, generator())
    assert search.restarts == 0 and torch.equal(policy.thinker.head, before)
    rollouts = search.collect(policy, problems, 3, generator())
    assert search.restarts == 1 and search.active == 1 and rollouts.thought.shape[1] == 2
    assert not torch.equal(policy.thinker.head, before)
    first = search.book.codes.clone()
    for step in range(4, 9):
        search.book.known[0] = 1.0
        rollouts = search.collect(policy, problems, step, generator())
        search.observe(policy, rollouts, policy.score(rollouts, search.sampling(step)))
    assert search.restarts == 1 and not torch.equal(search.book.codes, first)
