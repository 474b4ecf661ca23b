"""Growing thoughts and the curriculum that they need, against brute force and by hand."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ponder.config.registry import TASKS
from ponder.config.running import TrainerConfig
from ponder.config.spine import search_schema
from ponder.core.types import Problems
from ponder.models.backbone import Backbone
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rollouts.sampler import greedy
from ponder.rollouts.search.grow import Grow, GrowConfig, every_step, preference
from ponder.tasks.toy.steps import StepTask
from ponder.training import curriculum
from ponder.training.curriculum import Curriculum
from support.small import Door, generator

LARGE = Init(0.3, 0.3, 1.0, 0.3, 0.3)
GROW = ["task=cups", "task.steps=3", "variant=[think,fixed,blind,search]",
        "rollout.method=grow", "thinker.pace=1",
        "trainer.curriculum=accuracy", "trainer.curriculum_every=2",
        "trainer.curriculum_known=0", "trainer.curriculum_forgotten=0", "model.d_model=8",
        "model.layers=1", "trainer.train_batch_size=8", "trainer.threads=1",
        "task.test_questions=50", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


def step_task(name: str = "cups", thoughts: int = 3, **keys: Any) -> StepTask:
    kind = TASKS[name].target
    return kind(kind.Keys(name=name, seed=0, thought_length=None, **{
        "steps": 5, "min_steps": 5, **keys}), thoughts)


def players(sees_question: bool = False, from_end: bool = True, **keys: Any,
            ) -> tuple[StepTask, QuestionPolicy]:
    torch.manual_seed(0)
    task = step_task(**keys)
    rows = task.question_length + 10 + task.answer_length + 1
    nets = [Transformer(Shape(len(task.vocabulary), rows, 16), LARGE).double() for _ in "ab"]
    rules = Rules(10, False, sees_question, from_end=from_end, pace=1)
    for net in nets:
        net.counts_padding = task.from_left
    return task, QuestionPolicy(nets[0], nets[1], task.vocabulary, rules)


def read_alone(net: Backbone, tokens: list[int], places: list[int]) -> torch.Tensor:
    """The states (T, D) of tokens at given positions, by embeddings that are put together here."""
    assert isinstance(net, Transformer)
    shift = net.wpe(torch.tensor(places)) - net.wpe(torch.arange(len(places)))
    return net((net.wte(torch.tensor(tokens)) + shift)[None])[0][0].detach()


def asked(problems: Problems, row: int) -> list[int]:
    """The tokens of a question, which begin at position 0, without padding."""
    return [token for token in problems.question[row].tolist() if token != problems.pad]


def long_answers(problems: Problems) -> Problems:
    """The same with a second token in each answer, and padding in the first."""
    second = problems.answer.flip(0).clone()
    second[0] = problems.pad
    return replace(problems, answer=torch.cat([problems.answer, second], 1))


# --- positions that count from the end ------------------------------------------------------------

@pytest.mark.parametrize("sees_question", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_positions_from_the_end(sees_question: bool, samples: int) -> None:
    """Position by position: end-of-thought is at 10, behind the question, in thoughts of all
    lengths."""
    task, policy = players(sees_question)
    problems = long_answers(task.sample(4, generator()))
    pad, end, first = problems.pad, task.vocabulary.end, task.vocabulary.first_thought
    lengths = [0, 1, 4, 10, 3, 2, 2, 7][:4 * samples]
    thought = torch.full((len(lengths), 11), pad)
    for row, length in zip(thought, lengths, strict=True):
        row[:length] = torch.randint(first, len(task.vocabulary), (length,))
        row[length] = end
    got = policy.answer_logits(problems, thought, samples)
    net, base = policy.answerer, problems.question.shape[1] if sees_question else 0
    for row, length in enumerate(lengths):
        one = row // samples
        tokens = asked(problems, one) * sees_question
        places = [*range(len(tokens))] + [base + 10 - length + i for i in range(length + 2)]
        tokens += [*thought[row, :length + 1].tolist(), int(problems.answer[one, 0])]
        hidden = read_alone(net, tokens, places)[-2:]
        torch.testing.assert_close(got[row], net.logits(hidden, task.vocabulary.predicted))


def test_without_padding_nothing_is_moved() -> None:
    """A thought of full length has the same positions either way."""
    task, policy = players(False)
    problems = task.sample(4, generator())
    thought = torch.full((4, 11), task.vocabulary.first_thought)
    thought[:, -1] = task.vocabulary.end
    from_end = policy.answer_logits(problems, thought, 1)
    with policy.ruled(from_end=False):
        torch.testing.assert_close(policy.answer_logits(problems, thought, 1), from_end)


# --- the search -----------------------------------------------------------------------------------

@pytest.mark.parametrize("sees_question", [False, True])
@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("length, tokens", [(0, 1), (3, 1), (2, 2)])
def test_answers_after_a_shared_beginning(sees_question: bool, from_end: bool, length: int,
                                          tokens: int) -> None:
    task, policy = players(sees_question, from_end, name="chase" if tokens == 2 else "cups")
    problems = long_answers(task.sample(4, generator()))
    steps = every_step(policy, tokens, torch.device("cpu"))
    begun = torch.randint(task.vocabulary.first_thought, len(task.vocabulary), (4, length))
    found = policy.answers_after(problems, begun, steps)
    assert found.shape == (4, 3 ** tokens)
    for column, step in enumerate(steps):
        thought = torch.cat([begun, step.expand(4, -1), torch.full((4, 1), task.vocabulary.end)], 1)
        torch.testing.assert_close(found[:, column], policy.answer(problems, thought)[0])


@pytest.mark.parametrize("length, tokens", [(0, 1), (3, 1), (2, 2), (0, 2)])
def test_the_preference_is_the_thinkers(length: int, tokens: int) -> None:
    task, policy = players()
    problems = task.sample(4, generator())
    steps = every_step(policy, tokens, torch.device("cpu"))
    begun = torch.randint(task.vocabulary.first_thought, len(task.vocabulary), (4, length))
    found = preference(policy, problems, begun, steps)
    net, base = policy.thinker, problems.question.shape[1]
    for row, (column, step) in itertools.product(range(4), enumerate(steps.tolist())):
        thought, total = begun[row].tolist(), 0.0
        for token in step:
            question = asked(problems, row)
            last = [] if thought else [problems.pad]  # the first token follows the padding
            places = [*range(len(question)), *[base - 1] * len(last),
                      *range(base, base + len(thought))]
            hidden = read_alone(net, [*question, *last, *thought], places)[-1]
            logits = net.logits(hidden).detach()[task.vocabulary.first_thought:]
            total += logits.log_softmax(0)[token - task.vocabulary.first_thought].item()
            thought.append(token)
        assert found[row, column].item() == pytest.approx(total, abs=1e-5)


class Trusting(Grow):
    """Every beginning counts as right."""

    @staticmethod
    def _begun(policy: Any, problems: Problems, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        begun, right = Grow._begun(policy, problems, length)
        return begun, torch.ones_like(right)


@pytest.mark.slow
def test_wrong_beginnings_teach_nothing() -> None:
    """Only thoughts after whose beginning the easier question is answered rightly are kept; those
    of one step have no beginning.
    """
    task, policy = players(thoughts=8)
    problems = task.at_level(3, 60, generator()).concatenate(task.at_level(1, 6, generator(1)))
    search = search_schema()(grow=GrowConfig(noise=0.0))
    grow, kept = Grow(search), Trusting(search).collect(policy, problems, 0, generator())
    found = grow.collect(policy, problems, 0, generator())
    right = []
    for row in range(60):
        assert problems.easier is not None
        easier = problems.easier[row:row + 1]
        thought = F.pad(kept.thought[row:row + 1, :2], (0, 1), value=task.vocabulary.end)
        right.append(bool(policy.answer(easier, thought)[1]))
    rows = torch.tensor([*right, *[True] * 6])
    assert 3 < sum(right) < 57 and found.thought.equal(kept.thought[rows])
    assert found.problems.question.equal(problems.question[rows])
    assert grow.metrics()["grow/begun_right"] == pytest.approx(float(rows.float().mean()))


def test_a_thought_is_begun_by_the_thinker_and_ended_by_the_best_step() -> None:
    task, policy = players(thoughts=8)
    problems = task.at_level(4, 20, generator())
    grow = Trusting(search_schema()(grow=GrowConfig(own=0.0, noise=0.0, table=0.0)))
    thought = grow.collect(policy, problems, 0, generator()).thought
    assert problems.easier is not None
    with policy.ruled(tokens=3, stops=False, pace=0):
        assert not greedy(policy, problems).thought[:, :3].equal(thought[:, :3])
    for row in range(20):
        easier = problems.easier[row:row + 1]
        with policy.ruled(tokens=3, stops=False, pace=0):
            begun = greedy(policy, easier).thought[0, :3]
        assert thought[row, :3].equal(begun)
        known = [policy.answer(problems[row:row + 1], torch.tensor(
            [[*begun.tolist(), last, task.vocabulary.end]]))[0].item()
            for last in range(task.vocabulary.first_thought, len(task.vocabulary))]
        best = task.vocabulary.first_thought + max(range(8), key=lambda i: known[i])
        assert thought[row, 3:].tolist() == [best, task.vocabulary.end]


def test_thoughts_of_two_lengths_are_those_of_each_alone() -> None:
    task, policy = players(thoughts=8)
    short, long = (task.at_level(level, 6, generator(level)) for level in (2, 4))
    grow = Trusting(search_schema()(grow=GrowConfig(noise=0.0)))
    both = grow.collect(policy, long.concatenate(short), 0, generator()).thought
    alone = [grow.collect(policy, one, 0, generator()).thought for one in (long, short)]
    assert both[:6].equal(alone[0]) and both[6:, :3].equal(alone[1])
    assert (both[6:, 3:] == short.pad).all()


@pytest.mark.parametrize("numbered", [True, False])
def test_of_one_step_each_answer_has_its_own(numbered: bool) -> None:
    """Also where the task does not number its answers."""
    task, policy = players(thoughts=8)
    problems = task.at_level(1, 64, generator())
    answers = problems.answer[:, 0].tolist()
    if not numbered:
        problems = replace(problems, answer=problems.answer.expand(-1, 2), label=None)
    grow = Grow(search_schema()(grow=GrowConfig()))
    for _ in range(3):
        thought = grow.collect(policy, problems, 0, generator()).thought
        codes = {*zip(answers, thought[:, 0].tolist(), strict=True)}
        assert len(codes) == 5 == len({step for _, step in codes})
    again = Grow(search_schema()(grow=GrowConfig()))
    again.load(grow.state())
    assert again.collect(policy, problems, 0, generator()).thought.equal(
        grow.collect(policy, problems, 0, generator()).thought)


# --- levels ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["cups", "parity", "chain", "chase"])
def test_a_question_of_a_level_has_so_many_moves(name: str) -> None:
    """And its thought is that of the easier question with one state more."""
    task = step_task(name, thoughts=24)
    for level in range(1, 6):
        problems = task.at_level(level, 20, generator(level))
        assert problems.thought is not None and problems.easier is not None
        assert ((problems.thought >= task.vocabulary.first_thought).sum(1) == level).all()
        longer, shorter = ((one != problems.pad).sum(1) for one in (
            problems.question, problems.easier.question))
        assert (longer - shorter == (level > 1)).all()
        for row in range(20):
            assert problems.easier.question[row, :shorter[row]].equal(
                problems.question[row, :shorter[row]])


@pytest.mark.parametrize("name", ["sort", "equation", "graph", "many", "sat", "multiply"])
def test_levels_of_other_tasks_are_how_often_a_question_gets_easier(name: str) -> None:
    task = TASKS[name].target(seed=0)
    random = Random(0)
    easiest = [task.easier_ones(task.problem(random))[0] for _ in range(20)]
    assert all(task.easier(one).question == one.question for one in easiest)
    top = task.at_level(task.levels, 5, generator())
    assert top.easier is not None and not top.question.equal(top.easier.question)


def test_few_questions_are_all_trained_on() -> None:
    """Of one or two moves; a fifth of the longer ones is held out, at every level."""
    task = step_task("cups", steps=6, min_steps=1)
    swaps = [f"{a}{b}" for a, b in itertools.combinations(range(5), 2)]
    shares = []
    for moves in (1, 2, 3):
        asked = [task.asked([], row, row) for row in itertools.product(swaps, repeat=moves)]
        shares.append(sum(map(task.is_held_out, asked)) / len(asked))
    assert shares[:2] == [0, 0] and 0.15 < shares[2] < 0.25
    asked = task.at_level(3, 800, generator()).question.tolist()
    tried = {task.vocabulary.text(row) for row in asked}
    out = {" ".join(row) for row in itertools.product(swaps, repeat=3)
           if task.is_held_out(task.asked([], row, row))}
    assert len(tried) > 400 and not tried & out


def test_short_questions_of_bits_are_all_trained_on() -> None:
    """Those of nine bits are 512. A held-out one of three would be wrong for ever, and with it all
    longer ones that begin with it, as wrong beginnings teach nothing."""
    task, random = step_task("parity", steps=12, min_steps=1), Random(0)
    shares = []
    for moves in (3, 9, 10, 12):
        asked = [task.asked([], bits, bits) for bits in (
            [str(random.randrange(2)) for _ in range(moves)] for _ in range(500))]
        shares.append(sum(map(task.is_held_out, asked)) / len(asked))
    assert shares[:2] == [0, 0] and 0.15 < min(shares[2:]) <= max(shares[2:]) < 0.25


def test_short_questions_of_a_table_are_held_out_like_others(tmp_path: Path) -> None:
    random, path = Random(0), tmp_path / "bits.csv"
    rows = ["".join(random.choices("01", k=7)) for _ in range(50)]
    path.write_text("question,answer,thought\n" + "".join(
        f"{' '.join(bits)},{bits.count('1') % 2},{' '.join('0' * 7)}\n" for bits in rows))
    task = step_task("parity", steps=12, min_steps=1, data=str(path), check="off")
    assert 0 < len(task.test()) < 50


def test_longer_questions_than_are_trained_on_are_held_out() -> None:
    """Room for 9 moves, none of more than 4 trained on; a network is tested on all."""
    task = step_task("cups", thoughts=5, steps=9, min_steps=1, train_steps=4)
    trained = (task.sample(300, generator()).question != task.vocabulary.pad).sum(1)
    assert task.levels == 4 and sorted({*trained.tolist()}) == [1, 2, 3, 4]
    assert {f"{n}_steps" for n in range(3, 10)} == {*task.test().groups}
    drawn = task.at_level(4, 50, generator()).question
    assert ((drawn != task.vocabulary.pad).sum(1) == 4).all() and drawn.shape[1] == 10


# --- the curriculum -------------------------------------------------------------------------------

def levels(monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, float], **state: Any,
           ) -> Curriculum:
    monkeypatch.setattr(curriculum, "_accuracy",
                        lambda policy, task, level, count, generator: accuracies[level])
    found = Curriculum(**state)
    task, policy = players()
    found.look(TrainerConfig(curriculum="accuracy"), policy, task, 25, generator())
    return found


def test_the_next_level_begins_where_the_last_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(monkeypatch, {1: 0.98, 2: 0.5}).level == 2
    assert levels(monkeypatch, {1: 0.98, 2: 0.97, 3: 1.0, 4: 0.96}).level == 4  # three at once
    assert not levels(monkeypatch, dict.fromkeys(range(1, 6), 0.96), level=5, known=True).known
    assert levels(monkeypatch, {1: 0.96}).level == 1
    assert levels(monkeypatch, {1: 1.0}, looked=1).level == 1  # not yet
    last = levels(monkeypatch, dict.fromkeys(range(1, 6), 0.98), level=5)
    assert last.level == 5 and last.known


def test_training_goes_back_to_what_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    found = levels(monkeypatch, {1: 1.0, 2: 0.89, 3: 0.5, 4: 1.0}, level=4, known=True)
    assert (found.level, found.falls, found.known) == (2, 1, False)


def test_a_linear_curriculum_counts_steps() -> None:
    task, policy = players()
    config = TrainerConfig(curriculum="linear", curriculum_every=10)
    found = Curriculum()
    reached = []
    for step in range(0, 80, 5):
        found.look(config, policy, task, step, generator())
        reached.append(found.level)
    assert reached == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5]


def test_earlier_levels_are_asked_again() -> None:
    task, random = step_task(), generator()
    asked = []
    for _ in range(400):
        level = Curriculum(level=4).questions(task, 5, random, 0.6).level
        assert level is not None and level[:3].tolist() == [4, 4, 4] and level[3] == level[4]
        asked.append(int(level[4]))
    shares = [asked.count(level) / 400 for level in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cups", "columns"])
def test_a_run_that_was_cut_off_grows_the_same_language(task: str, door: Door) -> None:
    words = [*GROW[1:], f"task={task}", "thinker.vocabulary=16", "trainer.max_steps=10",
             "trainer.save_every_n_steps=4"]
    assert door(*words)[0] == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert max(row["curriculum/level"] for row in rows if "curriculum/level" in row) > 1
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    (last,) = (path.parent for path in Path("run").glob("checkpoint_*/manifest.json")
               if json.loads(path.read_text())["step"] == 10)
    shutil.rmtree(last)
    Path("run/summary.json").unlink()
    code, out, err = door(*words)
    assert code == 0 and "going on from step 8" in out + err, out + err
    assert json.loads(Path("run/summary.json").read_text())["weights_sha256"] == whole
