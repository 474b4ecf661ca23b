"""What a sample of a toy task's problems shows: their symbols, lengths and answers."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.core.lazy_imports import Tensor
from ponder.core.types import Problem
from ponder.tasks.base import in_order, padded

SAMPLE = 500  # problems that show which symbols and lengths there are
LABELLED = 50  # more distinct answers than this are numbered only if they are declared
SEEN = 5  # ... and only if each of them occurs at least so often in the sample


@dataclass(frozen=True)
class Survey:
    """What a sample of problems shows.

    symbols, thought_symbols: in the order of their tokens. question: lengths of the shortest and
    the longest. answer, thought: lengths of the longest; thought is None where some problem has no
    gold thought. answers: all of them, numbered in this order; () where they are too many. asked:
    length of the longest question about a thought; questions: how many the problem with the most
    of them has; trained: how many of one problem are asked in training, at most; unasked: how many
    of one problem never are, at least.
    """

    symbols: tuple[str, ...]
    thought_symbols: tuple[str, ...]
    question: tuple[int, int]
    answer: int
    thought: int | None
    answers: tuple[str, ...]
    asked: int = 0
    questions: int = 0
    trained: int = 0
    unasked: int = 0


def survey(task: Any) -> Survey:
    """The survey of `SAMPLE` problems, always the same ones, under what the task's class declares.
    """
    drawn = _sample(task)
    asked, said = ([task.cut(text) for text in texts] for texts in (
        [one.question for one in drawn], [one.answer for one in drawn]))
    gold = [task.cut(one.thought) for one in drawn if one.thought is not None]
    counts = Counter(one.answer for one in drawn)
    few = len(counts) <= LABELLED and min(counts.values()) >= SEEN
    lengths = [len(row) for row in asked]
    about = [questions_of(task, one) for one in drawn]
    never = [sum(task.is_unasked(text, every[0][0]) for text, _ in every) for every in about]
    pairs = {pair for every in about for pair in every}
    probes, replies = ([task.cut(pair[part]) for pair in pairs] for part in (0, 1))
    return Survey(
        tuple(task.symbols) or in_order(asked + said + probes + replies),
        tuple(task.thought_symbols) or in_order(gold),
        (min(lengths), max(lengths)), max(map(len, said + replies)),
        max(map(len, gold)) if len(gold) == SAMPLE else None,
        tuple(task.answers) or (tuple(sorted(counts)) if few else ()),
        max(map(len, probes), default=0), max(map(len, about)),
        max(len(every) - left for every, left in zip(about, never, strict=True)), min(never))


def _named(task: Any) -> str:
    return f"task={getattr(task, 'name', type(task).__name__)}"


def questions_of(task: Any, problem: Problem, where: str = "") -> list[tuple[str, str]]:
    """(what is asked, its answer) for all that may be asked about the thought of a problem. Raises
    `UserError` if `questions` fails or gives something else than texts. where: what the line begins
    with (default: the task).
    """
    found, fine = [], False
    try:
        found = [(asked, answer) for asked, answer in task.questions(problem)]
        fine = all(isinstance(text, str) and task.cut(text) for pair in found for text in pair)
        said = f"found {found!r:.80}"
    except Exception as error:  # a row of a table may be no question of the task
        said = f"questions() failed ({type(error).__name__}: {brief(error)})"
    if not fine:
        raise UserError(f"{where or _named(task)}: question {problem.question[:60]!r}: {said}; "
                        "legal: questions() of pairs of texts, a question and its answer")
    return found


def _sample(task: Any) -> list[Problem]:
    """Problems that symbols and lengths are taken from. Raises `UserError` if `problem` fails or
    gives something else than texts.
    """
    random, name = Random("sample"), _named(task)
    try:
        drawn = [task.problem(random) for _ in range(SAMPLE)]
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{name}: problem() failed ({type(error).__name__}: {brief(error)}, "
                        f"{at.filename}:{at.lineno}); legal: a Problem of texts") from error
    for one in drawn:
        texts = [one.question, one.answer] if isinstance(one, Problem) else [one]
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError(f"{name}: found {one!r} from problem(); legal: a Problem whose "
                            "question and answer are texts that are not empty")
    return drawn


def numbered(rows: Sequence[Sequence[str]]) -> tuple[Tensor | None, tuple[str, ...]]:
    """(numbers (N, width) of symbols, -1 behind the end of a row; the symbols in that order). None
    where there are no symbols.
    """
    symbols = in_order(rows)
    number = {symbol: i for i, symbol in enumerate(symbols)}
    found = padded([[number[symbol] for symbol in row] for row in rows], -1)
    return found if symbols else None, symbols


def gold_fits(kind: Any, keys: Any, config: Any) -> Iterator[str]:
    """What of a configuration needs other gold thoughts than the problems have."""
    wanted = {"gold_thought", "gold_tokens"} & {*config.reward} or config.trainer.rehearse \
        or config.answerer.learns_from == "gold" or config.rollout.gold_share
    if not config.thinker.tokens or not (wanted or config.thinker.pace) \
            or config.action != "train":
        return
    try:
        survey = kind.surveyed(keys)
    except UserError:  # of keys that a subclass refuses, or told when the task is made
        return
    if wanted and survey.thought is None:
        yield (f"task={keys.name}: found problems without a thought, which variant=super, "
               "variant=clean and trainer.rehearse need; legal: Problem(..., thought=...)")
    elif wanted and config.thinker.vocabulary < len(survey.thought_symbols):
        yield (f"thinker.vocabulary={config.thinker.vocabulary}: found "
               f"{len(survey.thought_symbols)} symbols in gold thoughts; legal: at least as many")
    elif keys.data and any(one.thought is None for _, one in kind._checked_rows(
            keys, config.thinker.vocabulary)):
        yield (f"task.data={keys.data}: found rows without a thought, which variant=super, "
               "variant=clean, trainer.rehearse and thinker.pace need; legal: a column thought "
               "that is nowhere empty")
