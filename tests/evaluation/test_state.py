"""Other questions about the thoughts of an evaluation, and swaps of tokens between thoughts."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.core.types import Problems
from ponder.evaluation.question import evaluate
from ponder.evaluation.swaps import _decided, _gone_on, asked_together, swap_test
from ponder.models.policies.base import Rules
from ponder.rollouts.sampler import greedy
from ponder.tasks.toy.half import Half, moved
from support.small import make_policy, make_task

ALL = 11  # questions about the place of a ball below five cups: one swap more
TOLD_APART = 4 / 11  # of the questions, about places 3 and 4: a swap of one of them with 0 or 1


class Thinker:
    """Writes the place after each swap, by the swap and the place that its last token is, or that
    would be right if it does not follow.
    """

    def __init__(self, task: Half, follows: bool) -> None:
        self.task, self.follows = task, follows

    def read(self, question: Tensor, mask: Tensor | None, last: int) -> tuple[Tensor, Any]:
        self.swaps = [self.task.vocabulary.text(row).split() for row in question.tolist()]
        self.written, self.right = 0, [0] * len(question)
        return self._next(self.right)[:, None], None

    def decoder(self, *_: Any) -> Thinker:
        return self

    def step(self, tokens: Tensor) -> Tensor:
        self.written += 1
        places = (tokens - self.task.vocabulary.first_thought).tolist()
        return self._next(places if self.follows else self.right)

    def logits(self, hidden: Tensor, allowed: slice) -> Tensor:
        return hidden[..., allowed]

    def _next(self, places: list[int]) -> Tensor:
        """(N, V): the token of the next place, or the end behind the last swap."""
        vocabulary, said = self.task.vocabulary, []
        self.right = []
        for place, swaps in zip(places, self.swaps, strict=True):
            done = self.written >= len(swaps)
            one, other = map(int, "00" if done else swaps[self.written])
            self.right.append({one: other, other: one}.get(place, place))
            said.append(vocabulary.end if done else vocabulary.first_thought + self.right[-1])
        return torch.nn.functional.one_hot(torch.tensor(said), len(vocabulary)).float()


class Reader:
    """An answerer that is a table: the last token of a thought is a place, and what is asked about
    it is answered from that alone.
    """

    def __init__(self, task: Half, reads: bool = True, follows: bool = True) -> None:
        self.task, self.vocabulary, self.reads = task, task.vocabulary, reads
        self.rules = Rules(task.steps, True)
        self.thinker, self.end = Thinker(task, follows), self.vocabulary.end
        self.allowed = self.vocabulary.allowed(True)

    def is_end(self, tokens: Tensor) -> Tensor:
        return tokens == self.end

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        first, end = self.vocabulary.first_thought, self.vocabulary.end
        said = []
        for row, tokens in enumerate(thought.tolist()):
            place = tokens[tokens.index(end) - 1] - first if self.reads else 0
            for after in self._moved(problems, row, place):
                said.append(self.task._number[self.task._group(after)])
        return torch.nn.functional.one_hot(torch.tensor(said), len(self.vocabulary))[:, None]

    def _moved(self, problems: Problems, row: int, place: int) -> list[int]:
        """Where the ball is after each swap that is asked about; where it is, without any."""
        if problems.asked is None:
            return [place]
        swaps = [self.vocabulary.text(one) for one in problems.asked[row].tolist()]
        return [moved(place, [] if word == "." else [(int(word[0]), int(word[1]))])
                for word in swaps]


def half(asks: int = 1, steps: int = 2, **keys: int) -> tuple[Half, Problems, Tensor]:
    """(task, problems with all questions about each thought, gold thoughts); 0: only their own."""
    task = Half(thoughts=8, asks=asks, steps=steps, min_steps=1, test_questions=100, held_out=0.9,
                **keys)
    problems = task.asking(task.test(), task._held_out, Random("all"), ALL)
    assert problems.thought is not None and problems.states is not None
    return task, problems, problems.thought


def swaps(task: Half, problems: Problems, thought: Tensor, **reader: bool) -> dict[str, float]:
    policy: Any = Reader(task, **reader)
    return swap_test(policy, problems, thought)


@pytest.mark.parametrize("asks", [0, 1])
def test_a_perfect_language_passes_the_swap_test(asks: int) -> None:
    """Whether all questions are asked, or the problem's own alone."""
    task, problems, thought = half(asks)
    found = swaps(task, problems, thought)
    assert found.pop("swap/before") < 0.8
    assert {*found.values()} == {1.0} and [*found] == [
        "swap/same_state", "swap/other_state", "swap/earlier_state"]


def test_no_answer_is_that_of_another_state_before_the_swap() -> None:
    """Where the answer is the place itself, all are wrong before and right after it. Of a thinker
    that does not follow from what it wrote, all are its own after an earlier swap.
    """
    for follows in (True, False):
        found = swaps(*half(0, cups=3, groups=3, steps=4), follows=follows)
        assert (found["swap/before"], found["swap/other_state"]) == (0.0, 1.0)
        assert found["swap/earlier_state"] == float(follows)


def test_only_questions_that_the_state_decides_are_counted() -> None:
    """Of four thoughts with states 0, 0, 1, 1 the second question has two answers in state 0."""
    empty = torch.zeros(4, 1, dtype=torch.long)
    problems = Problems(empty, empty, None, 0, asked=torch.tensor([[[1], [2]]] * 4),
                        asked_answer=torch.tensor([[[5], [5]], [[5], [6]], [[6], [5]], [[6], [5]]]))
    state = torch.tensor([0, 0, 1, 1])
    assert _decided(problems, state).tolist() == [[True, False]] * 4
    assert not _decided(problems, torch.arange(4)).any()  # each state once: nothing shows it


def test_one_token_for_two_states_fails_the_swap_test() -> None:
    """Places 3 and 4 are both `<t3>`, read as 3: so many answers are wrong where the donor is at 4;
    with the same state nothing changes.
    """
    task, problems, thought = half()
    merged = thought.where(thought != task.vocabulary.first_thought + 4, thought - 1)
    found = swaps(task, problems, merged)
    assert found["swap/same_state"] == 1.0
    assert problems.states is not None
    rows = int((problems.states >= 0).all(1).sum())
    donors = (1 - found["swap/other_state"]) / TOLD_APART * rows
    assert donors == pytest.approx(round(donors), abs=1e-3) and 0.05 * rows < donors < 0.4 * rows


def test_tokens_about_nothing_change_answers_and_ignored_ones_change_none() -> None:
    task, problems, thought = half()
    first = task.vocabulary.first_thought
    content = thought >= first
    numbers = torch.randint(5, thought.shape, generator=torch.Generator().manual_seed(1))
    found = swaps(task, problems, thought.where(~content, first + numbers))
    assert found["swap/same_state"] < 0.95 and found["swap/other_state"] < 0.8
    found = swaps(task, problems, thought, reads=False)
    assert found["swap/same_state"] == 1.0
    assert found["swap/other_state"] == found["swap/before"] < 0.8


def test_only_tokens_about_a_step_are_swapped() -> None:
    """No states; thoughts of another length than their problems; nothing that decides the answer:
    a sum has more digits than its last one.
    """
    task, problems, thought = half()
    assert swaps(task, replace(problems, states=None), thought) == {}
    pad, end = task.vocabulary.pad, task.vocabulary.end
    empty = torch.full_like(thought, pad).index_fill(1, torch.tensor(0), end)
    assert swaps(task, problems, empty) == {}
    reader: Any = Reader(task)
    for rules in (Rules(2, True, sees_thought=False), Rules(2, False, filler=True)):
        reader.rules = rules
        assert swap_test(reader, problems, thought) == {}
    task = make_task(max=100, gold="scratchpad", test_questions=200)
    gold = task.test().thought
    assert gold is not None
    assert [*swap_test(make_policy(task), task.test(), gold)] == ["swap/same_state"]


@pytest.mark.parametrize("stops", [True, False])
def test_a_thinker_goes_on_from_its_own_token_as_before(stops: bool) -> None:
    torch.manual_seed(3)
    task = Half(thoughts=4, steps=3, min_steps=1, test_questions=40)
    policy, problems = make_policy(task, 4, stops).eval(), task.test()
    own = greedy(policy, problems).thought
    step = torch.arange(len(own)) % 3
    with torch.no_grad():
        assert torch.equal(_gone_on(policy, problems, own, step), own)


@pytest.mark.slow
def test_probes_are_answered_with_the_thoughts_of_the_plain_question() -> None:
    """One question at a time, and as an evaluation without them in all else."""
    torch.manual_seed(3)
    task = Half(thoughts=4, asks=2, steps=3, min_steps=1, test_questions=40, unasked=0.4)
    policy = make_policy(task, sees=("thought",)).eval()
    problems, probes = task.test(), task.probes()
    found = evaluate(policy, problems, probes=probes).metrics
    plain = evaluate(policy, problems).metrics
    assert {*found} - {*plain} >= {"asked/accuracy", "unasked/accuracy"}
    assert all(found[name] == value for name, value in plain.items() if "swap" not in name)
    thought = greedy(policy, problems).thought
    for name, one in probes.items():
        assert one.asked is not None and one.asked_answer is not None
        right = [policy.answer(replace(one, asked=one.asked[:, m:m + 1],
                                       asked_answer=one.asked_answer[:, m:m + 1]), thought)[1]
                 for m in range(4)]
        assert found[f"{name}/accuracy"] == pytest.approx(float(torch.stack(right).float().mean()))
    together = asked_together(problems, probes)
    assert together.asked is not None and together.asked.shape[1] == 8
    assert asked_together(problems, {}) is problems
