"""What evaluations say about thoughts: their language, and which tokens matter. What is asked
about them, and whether their tokens carry the state: `test_state.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ponder.core.types import Problems
from ponder.evaluation.language import describe, dictionary
from ponder.evaluation.question import by_position, edited, evaluate, latent_edited
from ponder.rollouts.sampler import greedy
from ponder.tasks.toy.add import Add
from ponder.tasks.toy.cups import Cups
from ponder.tasks.toy.parity import Parity
from support.small import generator, make_policy, make_task


def states_of(problems: Problems) -> list[str]:
    assert problems.states is not None
    return [" ".join(problems.state_names[state] for state in row if state >= 0)
            for row in problems.states.tolist()]


def test_states_are_read_from_the_text_whatever_tokens_there_are() -> None:
    """Also where no thought token is there to spell them."""
    task = Cups(thoughts=0, steps=4, min_steps=1, test_questions=50)
    problems = task.test()
    thoughts = [one.thought for side, one in task.problems() if side == "test"]
    assert states_of(problems) == thoughts and problems.thought is None
    assert problems.states is not None and (problems.states[:, 1:] < 0).any()  # shorter ones
    assert task.sample(5, generator()).states is None


def test_states_of_sums_are_the_digits_of_their_gold_thoughts(tmp_path) -> None:
    task = Add(thoughts=10, max=90, gold="scratchpad", test_questions=20)
    problems = task.test()
    assert problems.thought is not None and problems.states is not None
    assert torch.equal(problems.states,
                       problems.thought[:, :-1] - task.vocabulary.first_thought)
    assert make_task(gold="none").test().states is None


def test_a_dictionary_by_hand() -> None:
    """`a` means 0 (3 of 4 times) and `b` 1 (4 of 4), but at the second step `b` and `a` are
    exchanged: 7 of 12 by one dictionary, 11 of 12 by one for each step.
    """
    counts = torch.tensor([[[3, 1], [0, 4]], [[0, 2], [2, 0]]])
    found = dictionary(counts, ["a", "b"], ["0", "1"])
    assert found["agreement"] == found["one_to_one"] == pytest.approx(7 / 12)
    assert found["by_position"] == {"all": [0.875, 0.0], "own": [0.875, 1.0]}
    assert found["own_agreement"] == pytest.approx(11 / 12)
    assert found["readings"] == [{"a": "0", "b": "1"}, {"a": "1", "b": "0"}]
    assert found["tokens"] == [["a", "b"], ["b", "a"]]
    assert found["words"] == [
        {"state": "0", "token": "a", "of_state": 3 / 5, "of_token": 3 / 6, "steps": 5},
        {"state": "1", "token": "b", "of_state": 4 / 7, "of_token": 4 / 6, "steps": 7}]


def test_synonyms_agree_and_are_not_one_to_one() -> None:
    """`a` and `c` both mean 0, two and one of three times."""
    found = dictionary(torch.tensor([[[2, 0], [0, 3], [1, 0]]]), ["a", "b", "c"], ["0", "1"])
    assert found["agreement"] == 1.0 and found["one_to_one"] == pytest.approx(5 / 6)
    assert found["readings"] == [{"a": "0", "b": "1", "c": "0"}]
    assert found["confusion"] == [[2, 0, 1], [0, 3, 0]] and found["apart"] == 1.0


def test_states_that_share_a_token_are_not_told_apart() -> None:
    """Of three states that occur, 1 and 2 are both `b`, which means 2 more often; 3 never occurs.
    At the second step all are `a`: one of three by its own dictionary.
    """
    first = torch.tensor([[4, 0, 0, 0], [0, 2, 3, 0]])
    found = dictionary(first[None], ["a", "b"], [*"0123"])
    assert found["apart"] == pytest.approx(2 / 3) and found["agreement"] == pytest.approx(7 / 9)
    assert found["confusion"] == [[4, 0], [0, 2], [0, 3], [0, 0]]
    assert found["confusion_by_position"] == [found["confusion"]]
    second = torch.tensor([[1, 3, 2, 0], [0, 0, 0, 0]])
    both = dictionary(torch.stack([first, second]), ["a", "b"], [*"0123"])
    assert len(both["readings"]) == 2 and both["apart"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def cups(minimum: int = 3) -> tuple[Cups, Problems, Tensor]:
    """Questions of up to three swaps with gold thoughts (P, K + 1)."""
    task = Cups(thoughts=8, steps=3, min_steps=minimum, test_questions=600)
    problems = task.test()
    assert problems.thought is not None
    return task, problems, problems.thought


@pytest.mark.parametrize("minimum", [3, 1])
def test_gold_thoughts_say_the_states(minimum: int) -> None:
    task, problems, thought = cups(minimum)
    found = describe(thought, problems, task.vocabulary)
    assert found.metrics["thought/state_agreement"] == 1.0
    assert found.metrics["thought/state_agreement_one_to_one"] == 1.0
    assert found.metrics["thought/states_apart"] == 1.0 and found.metrics["thought/codes"] == 5
    assert [found.metrics[f"meaning/t{k}/step"] for k in (1, 2, 3)] == pytest.approx(
        found.report["entropy"], abs=1e-4)
    assert found.report["readings"] == [{f"<t{i}>": str(i) for i in range(5)}]
    assert found.metrics["thought/topographic_similarity"] > 0.8
    assert found.metrics["thought/positional_disentanglement"] > 0.3
    assert found.report["information"][0][1] < 0.7 * found.report["information"][0][0]


def test_a_language_of_its_own_at_each_position_is_read_position_by_position() -> None:
    """Token i at step k stands for state (i + k) mod 5."""
    task, problems, thought = cups()
    first = task.vocabulary.first_thought
    turned = thought.clone()
    turned[:, :-1] = first + (thought[:, :-1] - first + torch.arange(3)) % 5
    found = describe(turned, problems, task.vocabulary)
    assert found.metrics["thought/state_agreement"] < 0.7
    assert found.metrics["thought/state_agreement_by_position"] == 1.0
    assert found.metrics["thought/states_apart"] == 1.0
    assert found.report["by_position"]["own"] == [1.0, 1.0, 1.0]
    assert [reading[f"<t{k}>"] for k, reading in enumerate(found.report["readings"])] == ["0"] * 3


def test_thoughts_about_nothing_have_no_language() -> None:
    task, problems, thought = cups()
    random = torch.randint(8, (len(thought), 3), generator=generator())
    thought = torch.cat([task.vocabulary.first_thought + random, thought[:, -1:]], 1)
    metrics = describe(thought, problems, task.vocabulary).metrics
    assert max(metrics[f"meaning/t{k}/step"] for k in (1, 2, 3)) < 0.05
    assert abs(metrics["thought/topographic_similarity"]) < 0.1
    assert metrics["thought/positional_disentanglement"] < 0.02
    empty = torch.full_like(thought, task.vocabulary.pad)
    empty[:, 0] = task.vocabulary.end
    assert describe(empty, problems, task.vocabulary).metrics == {}
    assert describe(thought, replace(problems, states=None), task.vocabulary).metrics == {}


def test_without_states_features_are_the_meaning() -> None:
    task = make_task(max=100, test_questions=300)
    problems = task.test()
    assert problems.thought is not None
    found = describe(problems.thought, replace(problems, states=None), task.vocabulary)
    assert found.report["attributes"] == ["units", "tens"]
    assert found.metrics["thought/positional_disentanglement"] > 0.8
    assert "thought/state_agreement" not in found.metrics


# --- which tokens matter -------------------------------------------------------------------------

def test_one_token_is_replaced_by_another_or_the_rest_is_cut() -> None:
    task = make_task(10)
    vocabulary, policy = task.vocabulary, make_policy(task)
    pad, end, first = vocabulary.pad, vocabulary.end, vocabulary.first_thought
    own = torch.tensor([[first, first + 1, first + 9, end], [first + 3, end, pad, pad]] * 50)
    edits = edited(policy, own, generator())
    assert [*edits] == ["replaced/t1", "replaced/t2", "replaced/t3",
                        "truncated/0", "truncated/1", "truncated/2", "truncated/3"]
    for k in range(3):
        thought, counts = edits[f"replaced/t{k + 1}"]
        changed = (thought != own).nonzero()
        assert {*changed[:, 1].tolist()} == {k}  # and each of those that have it, as another token
        assert torch.equal(changed[:, 0], counts.nonzero()[:, 0])
        assert counts.sum() == (100 if k == 0 else 50)
        assert {*thought[counts, k].tolist()} <= {*range(first, first + 10)}
    assert edits["truncated/1"][0][:2].tolist() == [[first, end, pad, pad],
                                                    [first + 3, end, pad, pad]]
    assert edits["truncated/0"][0][0].tolist() == [end, pad, pad, pad]
    assert torch.equal(edits["truncated/3"][0], own)


def test_vectors_are_replaced_and_cut() -> None:
    own = torch.randn(40, 3, 4, generator=generator())
    edits = latent_edited(make_policy(make_task()), own, generator())
    thought, counts = edits["replaced/t2"]
    assert torch.equal(thought[:, [0, 2]], own[:, [0, 2]]) and counts.all()
    assert (thought[:, 1] != own[:, 1]).all()
    assert [edits[f"truncated/{k}"][0].shape[1] for k in range(4)] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "from_end"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("sees", [("thought",), ("question", "thought")])
def test_all_at_once_is_one_after_the_other(stops: bool, from_end: bool,
                                            sees: tuple[str, ...]) -> None:
    """Each edited thought answered by itself; the whole thought, and none, are as in the table."""
    torch.manual_seed(3)
    task = Parity(thoughts=4, steps=6, min_steps=3, test_questions=30)
    policy, problems = make_policy(task, 4, stops, sees, dtype=torch.float64).eval(), task.test()
    policy.rules = replace(policy.rules, from_end=from_end)
    own = greedy(policy, problems).thought
    found = by_position(policy, problems, own, edited, generator())
    edits = edited(policy, own, generator())
    assert {f"necessity/{name}" for name in edits} == {*found}
    for name, (thought, counts) in edits.items():
        right = [bool(policy.answer(problems[row:row + 1], thought[row:row + 1, :int(
            (thought[row] != 0).sum())], ragged=False)[1]) for row in counts.nonzero()[:, 0]]
        assert found[f"necessity/{name}"] == pytest.approx(sum(right) / len(right)), name
    table = evaluate(policy, problems).metrics
    longest = int((own != 0).sum(1).max()) - 1
    assert table["necessity/truncated/0"] == pytest.approx(table["necessity/dropped"])
    assert table[f"necessity/truncated/{longest}"] == pytest.approx(table["necessity/own"])
