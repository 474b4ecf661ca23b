"""Tasks whose answer hides the state, against brute force; and what is asked about a thought."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ponder.config.errors import UserError
from ponder.config.registry import TASKS, discover
from ponder.core.types import Problem, Problems
from ponder.tasks.toy.automaton import Automaton, Machine, drawn_machine
from ponder.tasks.toy.carry import Carry
from ponder.tasks.toy.half import Half
from ponder.tasks.toy.registers import Registers
from ponder.tasks.toy.steps import StepTask
from support.small import generator

discover(())
NAMES = ("automaton", "carry", "half", "registers")
WRONG = "23"  # a question of which a task has a wrong opinion


def made(name: str, asks: int = 0, **keys: Any) -> Any:
    """A task of 1 to 6 steps, with 64 thought tokens."""
    kind = TASKS[name].target
    return kind(kind.Keys(name=name, seed=0, thought_length=None,
                          **{"min_steps": 1, "steps": 6, **keys}), 64, asks)


def drawn(task: StepTask, count: int = 60) -> list[Problem]:
    """Problems of a task, half of them one step easier."""
    random = Random(1)
    problems = [task.problem(random) for _ in range(count // 2)]
    return problems + [task.easier(one) for one in problems]


# --- half -----------------------------------------------------------------------------------------

def test_half_by_hand() -> None:
    """The ball goes from 0 to 2, 1 and 0; of five cups, the last three are group b."""
    task, swaps = Half(steps=3, min_steps=1), Problem("02 12 01", "a")
    assert task.asked([], ["02", "12", "01"], ["2", "1", "0"]) == replace(swaps, thought="2 1 0")
    said = dict(task.questions(swaps))
    assert task.solution(swaps) == said["."] == said["01"] == said["34"] == "a"
    assert said["02"] == said["03"] == said["04"] == "b" and len(said) == 11
    assert task.questions(swaps)[0] == (".", "a")
    twice = dict(Half(steps=3, min_steps=1, further=2).questions(swaps))
    assert len(twice) == 1 + 10 + 100 and twice[". ."] == twice["02 12"] == "a"
    assert twice[". 02"] == twice["01 12"] == twice["34 03"] == "b"


def group(place: int, cups: int, groups: int) -> str:
    """The cups are dealt to the groups from the right, so that the last groups are the larger."""
    dealt = sorted(range(groups)[-1 - cup % groups] for cup in range(cups))
    return "abcdefghi"[dealt[place]]


@pytest.mark.parametrize("cups, groups, further", [(5, 2, 1), (5, 3, 2), (7, 3, 1), (4, 4, 2)])
def test_half_is_a_list_of_cups(cups: int, groups: int, further: int) -> None:
    def after(swaps: list[str]) -> int:
        cup = [*range(cups)]
        for one, other in swaps:
            cup[int(one)], cup[int(other)] = cup[int(other)], cup[int(one)]
        return cup.index(0)

    task = made("half", cups=cups, groups=groups, further=further)
    pairs = [f"{a}{b}" for a in range(cups) for b in range(a + 1, cups)]
    more = [list(word) for n in range(further + 1) for word in product(pairs, repeat=n)]
    for one in drawn(task):
        swaps = one.question.split()
        assert one.thought == " ".join(str(after(swaps[:n + 1])) for n in range(len(swaps)))
        assert one.answer == group(after(swaps), cups, groups)
        assert dict(task.questions(one)) == {
            " ".join(["."] * (further - len(word)) + word): group(after(swaps + word), cups, groups)
            for word in more}


# --- automaton ------------------------------------------------------------------------------------

def words(letters: int, longest: int, shortest: int = 0) -> list[tuple[int, ...]]:
    """All words of these lengths, the shorter and then the alphabetically first ones before."""
    return [word for length in range(shortest, longest + 1)
            for word in product(range(letters), repeat=length)]


def told(machine: Machine, before: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """The bits after a word and each further one, letter by letter."""
    found = []
    for word in words(len(machine.moves[0]), longest):
        state = 0
        for letter in (*before, *word):
            state = machine.moves[state][letter]
        found.append(machine.outputs[state])
    return tuple(found)


def test_copies_of_states_are_merged() -> None:
    """Two states for each parity of the first letter; the second one goes to the copy."""
    machine = Machine(((1, 2), (2, 3), (3, 0), (0, 1)), (0, 1, 0, 1))
    assert machine.minimal() == Machine(((1, 0), (0, 1)), (0, 1))
    assert machine.separated(0) == machine.separated(9) == [0, 1, 0, 1]


def test_longer_words_separate_more_states() -> None:
    """Three a in a row are told. State 2 is an a from there, state 1 two. 4 is never reached."""
    machine = Machine(((1, 0), (2, 0), (3, 0), (3, 3), (0, 0)), (0, 0, 0, 1, 0))
    assert [machine.separated(n) for n in range(4)] == [
        [0, 0, 0, 1, 0], [0, 0, 1, 2, 0], [0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]
    assert machine.minimal() == Machine(((1, 0), (2, 0), (3, 0), (3, 3)), (0, 0, 0, 1))
    assert [machine.reached(n) for n in (1, 2, 3, 50)] == [
        {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}]


@pytest.mark.parametrize("states, letters", [(2, 2), (3, 2), (4, 2), (3, 3)])
def test_the_minimal_automaton_is_what_all_words_tell(states: int, letters: int) -> None:
    """States are the different answers to all words of up to 2 * states letters, in the order in
    which words lead to them; what `further` letters separate and `steps` reach, likewise.
    """
    random = Random(states)
    for _ in range(8):
        machine = Machine(tuple(tuple(random.choices(range(states), k=letters))
                                for _ in range(states)), tuple(random.choices((0, 1), k=states)))
        minimal = machine.minimal()
        behaviour = {word: told(machine, word, states) for word in words(letters, states)}
        order = list(dict.fromkeys(behaviour.values()))
        assert minimal.outputs == tuple(bits[0] for bits in order)
        assert all(minimal.after(word) == order.index(bits) for word, bits in behaviour.items())
        assert told(machine, (), 2 * states) == told(minimal, (), 2 * states)
        for few in range(3):
            classes = minimal.separated(few)
            bits = [told(replace(minimal), word, few) for word in behaviour]
            same = [classes[minimal.after(word)] for word in behaviour]
            assert len({*zip(bits, same, strict=True)}) == len({*bits}) == len({*same})
            assert minimal.reached(few) == {
                minimal.after(word) for word in words(letters, few, 1)}


@pytest.mark.parametrize("states, reversible", [(2, False), (4, False), (4, True), (7, True)])
def test_drawn_machines_tell_both_bits(states: int, reversible: bool) -> None:
    """After all words of each length, from as many letters as there are states on; whatever `steps`
    is, it is the same machine.
    """
    found = [drawn_machine(states, 2, reversible, seed) for seed in range(6)]
    assert len({*found}) > 3 and found[0] == drawn_machine(states, 2, reversible, 0)
    for machine in found:
        assert len(machine.moves) == states and len(machine.minimal().moves) >= 2
        for length in range(states, 10):
            assert {machine.outputs[machine.after(word)]
                    for word in words(2, length, length)} == {0, 1}
        if reversible:
            assert all(sorted(column) == [*range(states)]
                       for column in zip(*machine.moves, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [
    {"states": 4}, {"states": 5, "machine": 3, "further": 1}, {"states": 3, "letters": 3},
    {"states": 6, "further": 0}, {"states": 6, "machine": 1, "steps": 1},
    {"states": 5, "reversible": False}, {"states": 6, "machine": 2, "reversible": False}])
def test_automaton_thoughts_are_the_minimal_states(keys: dict[str, Any]) -> None:
    """Two thoughts end alike just where no word tells them apart; answers are the machine's."""
    task: Automaton = made("automaton", **keys)
    machine = drawn_machine(task.states, task.letters, task.reversible, task.machine)
    symbol: dict[tuple[int, ...], str] = {}
    for one in drawn(task, 20):
        letters = tuple("abcdef".index(letter) for letter in one.question.split())
        for n, said in enumerate((one.thought or "").split()):
            assert symbol.setdefault(told(machine, letters[:n + 1], task.states), said) == said
        suffixes = words(task.letters, task.further)
        bits = told(machine, letters, task.further)
        assert one.answer == str(bits[0])
        assert [*task.questions(one)] == [
            (" ".join([*("abcdef"[letter] for letter in word),
                       *["."] * (max(task.further, 1) - len(word))]), str(bit))
            for word, bit in zip(suffixes, bits, strict=True)]
    assert len({*symbol.values()}) == len(symbol) <= task.minimal_states
    reached = words(task.letters, task.steps, 1)
    assert task.minimal_states == len({told(machine, word, 5) for word in reached})
    assert task.separated_states == len({told(machine, word, task.further) for word in reached})


def test_symbols_are_declared_however_rare() -> None:
    """All pairs of digits, contents of registers and states are known of 500 problems of one step.
    """
    carry, registers = made("carry", steps=1), made("registers", steps=1, registers=4)
    assert len(carry.survey.symbols) == 100 + 10 + 2 and len(carry.survey.thought_symbols) == 20
    assert len(registers.survey.thought_symbols) == 4**4
    assert len(registers.survey.symbols) == 4 + 4 + 4 * 4 + 2 * 12
    assert made("automaton").survey.answers == ("0", "1")


# --- carry ----------------------------------------------------------------------------------------

def test_carry_by_hand() -> None:
    """143 + 287 = 430: 3 + 7 = 10, 4 + 8 + 1 = 13, 1 + 2 + 1 = 4, and nothing is carried."""
    task, one = Carry(steps=3, min_steps=1), Problem("37 48 12", "4")
    assert task.asked([], ["37", "48", "12"], ["10", "13", "4"]) == replace(one, thought="10 13 4")
    assert task.questions(one) == [("- 0", "4"), ("+ 0", "0"), ("+ 1", "1"), ("+ 2", "2")]
    task = Carry(steps=3, min_steps=1, back=2, ahead=1)
    assert task.questions(one) == [("- 0", "4"), ("- 1", "3"), ("- 2", "0"), ("+ 0", "0")]
    assert task.questions(Problem("37", "0")) == [
        ("- 0", "0"), ("- 1", "0"), ("- 2", "0"), ("+ 0", "1")]


@pytest.mark.parametrize("base, ahead", [(10, 10), (2, 3), (7, 1)])
def test_carry_is_pythons_sum(base: int, ahead: int) -> None:
    task = made("carry", base=base, back=3, ahead=ahead)

    def total(pairs: list[str]) -> int:
        return sum(int("".join(number)[::-1], base) for number in zip(*pairs, strict=True))

    for one in drawn(task):
        pairs = one.question.split()
        digits = [total(pairs) // base**k % base for k in range(len(pairs))]
        for n, said in enumerate((one.thought or "").split()):
            carry, digit = divmod(int(said), base)
            assert (digit, carry) == (digits[n], total(pairs[:n + 1]) // base**(n + 1))
        said = dict(task.questions(one))
        back = ([0] * 3 + digits)[::-1]
        assert one.answer == str(digits[-1])
        assert [said.pop(f"- {k}") for k in range(4)] == [*map(str, back[:4])]
        for x, y in product(range(base), repeat=2):
            if x + y < ahead:
                digit = total([*pairs, f"{x}{y}"]) // base**len(pairs) % base
                assert said[f"+ {x + y}"] == str(digit)
        assert len(said) == ahead


@pytest.mark.parametrize("base, passing, share", [
    (10, None, 0.1), (2, None, 0.5), (10, 0.5, 0.5), (3, 0.0, 0.0), (2, 1.0, 1.0)])
def test_columns_that_pass_on_a_carry(base: int, passing: float | None, share: float) -> None:
    """Of 1,200 columns; three standard errors of a half are 0.043."""
    task, random = made("carry", base=base, passing=passing, ahead=1, min_steps=6), Random(0)
    pairs = [pair for _ in range(200) for pair in task.problem(random).question.split()]
    passed = [int(one) + int(other) == base - 1 for one, other in pairs]
    assert len(passed) == 1200 and abs(sum(passed) / 1200 - share) <= 0.043 * (0 < share < 1)


# --- registers ------------------------------------------------------------------------------------

def test_registers_by_hand() -> None:
    task, one = Registers(steps=4, min_steps=1), Problem("c=b a+c b+a a+b", "3")
    states = ["011", "111", "121", "321"]
    assert task.asked([], one.question.split(), states) == replace(one, thought=" ".join(states))
    assert task.questions(one) == [("a", "3"), ("b", "2"), ("c", "1")]


@pytest.mark.parametrize("registers, values", [(3, 4), (2, 3), (4, 2)])
def test_registers_are_python(registers: int, values: int) -> None:
    task = made("registers", registers=registers, values=values)
    names, kinds = "abcd"[:registers], Counter()
    for one in drawn(task):
        space, states = {name: k % values for k, name in enumerate(names)}, []
        for move in one.question.split():
            exec(move if "=" in move else f"{move[0]} = ({move}) % {values}", {}, space)
            states.append("".join(str(space[name]) for name in names))
            kinds["+" if "+" in move else "copy" if move[2].isalpha() else "number"] += 1
        assert one.thought == " ".join(states) and one.answer == str(space["a"])
        assert dict(task.questions(one)) == {name: str(space[name]) for name in names}
    assert min(kinds.values()) > sum(kinds.values()) / 5


# --- what is asked about a thought ----------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_questions_are_equally_long_at_all_levels(name: str) -> None:
    """First comes the problem's own one; and an easier problem is the same without its last move.
    """
    task = made(name)
    problems = drawn(task)
    every = [task.questions(one) for one in problems]
    first = [text for text, _ in every[0]]
    assert all([text for text, _ in asked] == first for asked in every)
    assert len({*first}) == len(first) == task.survey.questions
    assert {len(task.cut(text)) for text in first} == {task.survey.asked}
    for one, asked in zip(problems, every, strict=True):
        assert asked[0][1] == one.answer == task.solution(one)
    for one, easier in zip(problems[:30], problems[30:], strict=True):
        if " " in one.question:
            assert one.question.rpartition(" ")[0] == easier.question
            assert (one.thought or "").rpartition(" ")[0] == easier.thought
        else:
            assert easier == one


def test_questions_are_drawn_anew() -> None:
    """5 of 11: each in 455 of 1000 draws on average, and never twice in one. All, and then some
    again, where there are fewer.
    """
    task, random = made("half"), Random(0)
    one = task.problem(random)
    every = dict(task.questions(one))
    draws = [task.drawn_questions(one, 5, random) for _ in range(1000)]
    assert all(len({*draw}) == 5 and dict(draw).items() <= every.items() for draw in draws)
    counts = Counter(text for draw in draws for text, _ in draw)
    assert counts.keys() == every.keys() and all(400 < n < 510 for n in counts.values())
    many = task.drawn_questions(one, 30, random)
    assert len(many) == 30 and dict(many) == every


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_questions_that_are_never_asked(share: float) -> None:
    """The same ones for all problems, about as many as the share says; the own one is asked."""
    task, random = made("half", cups=4, further=2, unasked=share), Random(0)
    one, other = task.problem(random), task.problem(random)
    sides = [{text for _ in range(60) for text, _ in task.drawn_questions(who, 20, random, never)}
             for who in (one, other) for never in (False, True)]
    assert sides[:2] == sides[2:] and ". ." in sides[0]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 43
    assert abs(len(sides[1]) / 43 - share) < 0.2
    assert (task.survey.trained, task.survey.unasked) == (len(sides[0]), len(sides[1]))


def test_what_is_asked_of_some_problems_alone() -> None:
    """One column has a question less than two, and that is the one that is left out."""
    class Plugin(Carry):
        def questions(self, problem: Problem) -> list[tuple[str, str]]:
            return Carry.questions(self, problem)[:3 + (" " in problem.question)]

        def is_unasked(self, asked: str, own: str) -> bool:
            return asked == "+ 2"

    found = Plugin(steps=2, min_steps=1).survey
    assert (found.questions, found.trained, found.unasked) == (4, 3, 0)


def texts(task: Any, rows: Any) -> list[str]:
    """What rows (N, T) of ordinary tokens spell."""
    symbols = dict(enumerate(task.survey.symbols, 1))
    return [" ".join(symbols[token] for token in row if token) for row in rows.tolist()]


def said(task: Any, problems: Problems) -> list[list[tuple[str, str]]]:
    """(question, answer) of each problem that its tokens spell, as text."""
    assert problems.asked is not None and problems.asked_answer is not None
    return [[*zip(texts(task, asked), texts(task, answer), strict=True)]
            for asked, answer in zip(problems.asked, problems.asked_answer, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_evaluations_ask_the_problems_own_question_and_others(name: str) -> None:
    """`test` the plain one; `probes` four of those that are asked in training, and four that never
    are, the same ones each time.
    """
    task = made(name, 3, unasked=0.4, test_questions=20)
    held_out = [one for side, one in task.problems() if side == "test"]
    assert said(task, task.test()) == [[task.questions(one)[0]] for one in held_out]
    probes = task.probes()
    assert [*probes] == ["asked", "unasked"]
    for kind, problems in probes.items():
        assert said(task, problems) == said(task, task.probes()[kind])
        for one, asked in zip(held_out, said(task, problems), strict=True):
            assert len(asked) == 4 and {*asked} <= {*task.questions(one)}
            own = task.questions(one)[0][0]
            assert all(task.is_unasked(text, own) == (kind == "unasked") for text, _ in asked)
    assert [*made(name, 3).probes()] == ["asked"]
    assert made(name).probes() == {} and made(name).test().asked is None


@pytest.mark.parametrize("name", NAMES)
def test_training_asks_as_many_questions_as_it_is_told(name: str) -> None:
    """Of a batch and of a level: right ones, other ones for each row, others the next time."""
    task = made(name, 2)
    task_of = {"batch": task.sample(40, generator()), "level": task.at_level(3, 40, generator(1))}
    for problems in task_of.values():
        asked = said(task, problems)
        assert len({*map(tuple, asked)}) > 3
        for question, row in zip(texts(task, problems.question), asked, strict=True):
            assert len({*row}) == 2 and {*row} <= {*task.questions(Problem(question, ""))}
    assert said(task, task_of["batch"]) != said(task, task.sample(40, generator(2)))


def test_rows_of_a_table_are_asked_about_too(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("question,answer,split\n02 13,b,train\n01,a,train\n04 34,b,test\n")
    task = made("half", 6, data=str(table))
    rows = task.sample(50, generator())
    asked = dict(zip(texts(task, rows.question), said(task, rows), strict=True))
    assert {*asked} == {"02 13", "01"}
    for question, row in asked.items():
        assert len({*row}) == 6 and {*row} <= {*task.questions(Problem(question, ""))}
    assert said(task, task.test()) == [[(".", "b")]]
    assert [*map(len, said(task, task.probes()["asked"]))] == [4]


@pytest.mark.parametrize("row, line", [
    ("02,a", "question '02', answer 'a': found the answer 'b' to '.' from questions(); legal: "
     "first its own question, whose answer is 'a'"),
    ("a,b", "question 'a': questions() failed (ValueError: not enough values to unpack (expected "
     "2, got 1)); legal: questions() of pairs of texts, a question and its answer")])
def test_rows_that_questions_disagree_with_are_shown(tmp_path: Path, row: str, line: str) -> None:
    """Where nothing is asked, the answers of a table are taken as they are."""
    table = tmp_path / "rows.csv"
    table.write_text(f"question,answer,split\n01,a,train\n{row},test\n")
    assert len(made("half", data=str(table)).test()) == 1
    with pytest.raises(UserError) as error:
        made("half", 2, data=str(table))
    assert str(error.value) == f"task.data={table}: {line}"


@pytest.mark.parametrize("questions, line", [
    (lambda one: [("- 0", "x")], "found the answer 'x' to '- 0' from questions(); legal: first its "
     "own question, whose answer is '"),
    (lambda one: [("- 0", one.answer), ("- 0", "x")], "found two answers to '- 0', '"),
    (lambda one: [], "found nothing from questions(); legal: the problem's own question first"),
    (lambda one: [("- 0", one.answer), ("", "1")], "('', '1')]; legal: questions() of pairs of "
     "texts, a question and its answer"),
    (lambda one: [("- 0", 1)], "found [('- 0', 1)]; legal: questions() of pairs of texts"),
    (lambda one: ["0"], "questions() failed (ValueError: not enough values to unpack"),
    (lambda one: one.no, "questions() failed (AttributeError: 'Problem' object has no attribute "
     "'no')"),
    # wrong in one of 200 problems alone, on average
    (lambda one: [("- 0", "x" if one.question == WRONG else one.answer)],
     "question '23', answer '5': found the answer 'x' to '- 0'"),
])
def test_a_task_whose_questions_disagree_is_refused(questions: Any, line: str) -> None:
    class Plugin(Carry):
        pass

    Plugin.questions = lambda self, problem: questions(problem)  # type: ignore[method-assign]
    with pytest.raises(UserError) as error:
        Plugin(Carry.Keys(name="carry", seed=0, thought_length=None, steps=2, min_steps=1), 20, 2)
    assert str(error.value).startswith("task=carry: question '") and line in str(error.value)


@pytest.mark.slow
def test_symbols_of_questions_and_their_answers_are_those_of_a_sample() -> None:
    """They get tokens of their own; one that the sample lacks is named where it is drawn."""
    class Plugin(Carry):
        def questions(self, problem: Problem) -> list[tuple[str, str]]:
            return [*Carry.questions(self, problem), ("even ?", "no"),
                    ("how late", "yes of course")]

        def _take_keys(self, keys: Any) -> None:
            Carry._take_keys(self, keys)
            vars(self).update(symbols=())

    task = Plugin(Carry.Keys(name="carry", seed=0, thought_length=None, steps=2, min_steps=1), 20,
                  6)
    assert {"even", "?", "no", "how", "late", "yes", "of", "course"} <= {*task.survey.symbols}
    assert task.answer_length == 3 and task.asked_length == 2
    rows = said(task, task.sample(3, generator()))
    assert all({("even ?", "no"), ("how late", "yes of course")} <= {*row} for row in rows)
    with pytest.raises(UserError, match=r"task=carry: found 'never' from questions\(\), whose "
                                        "length or symbols none of 500 sample problems has"):
        Plugin.questions = lambda self, problem: [("never", "1")]  # type: ignore[method-assign]
        task.test()


def test_questions_about_a_thought_have_equally_many_symbols() -> None:
    """So that what is read after a thought is always equally far from it."""
    class Plugin(Half):
        def questions(self, problem: Problem) -> list[tuple[str, str]]:
            return [*Half.questions(self, problem), ("01 02", "a")]

    keys = Half.Keys(name="half", seed=0, thought_length=None, steps=3, min_steps=1)
    with pytest.raises(UserError, match=r"found texts of \[1,2\] symbols from questions\(\); "
                                        "legal: equally many in all"):
        Plugin(keys, 5, 2)
