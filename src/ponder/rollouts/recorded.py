"""Rollouts out of a file (of an earlier run, another model or other software), what is wrong with
files that a run reads, and preference pairs for other software, as tokens and as text in TRL's
columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.config.errors import UserError
from ponder.config.inputs import check_models
from ponder.config.registry import TASKS
from ponder.config.spine import OF_A_MODEL
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.rollouts import Source, given
from ponder.tasks.base import read_table
from ponder.tasks.choice.questions import Question
from ponder.tokenizers.vocabulary import TextVocabulary

if TYPE_CHECKING:
    from ponder.config.spine import Config
    from ponder.models.policies.base import Policy
    from ponder.models.policies.choice import ChoicePolicy
    from ponder.tasks.choice.qa import Qa

TEXTS = ("rationale", "thought", "generated", "completion", "text")  # columns, by preference
KINDS = (".csv", ".jsonl", ".parquet")
PRELOAD = ("preload_data_for_training", "preload_data_for_val")  # keys of the trainer


@dataclass(frozen=True)
class Recorded:
    """A row of a table of rollouts; id, question and tokens are "" where it has none."""

    id: str
    question: str
    text: str
    tokens: str


@dataclass(frozen=True)
class Matched:
    """The rows of questions, `samples` of each, which have these numbers in a list. said: how many
    rows and questions these are, and why others are not among them.
    """

    numbers: list[int]
    rows: list[Recorded]
    said: str


def check_files(config: Config) -> None:
    """Read every file that a configuration names: of models, of the task, and of rollouts. A
    mistake in one is told before anything heavy is loaded. Raises `UserError`.
    """
    check_models(config)
    if config.action not in OF_A_MODEL:
        thoughts = config.thinker.vocabulary if config.thinker.tokens else 0
        TASKS[config.task.name].target.check_files(config.task, thoughts)
    if config.action in ("train", "export"):
        _check_preloaded(config)


def _check_preloaded(config: Config) -> None:
    """Read the tables of `PRELOAD`, and look for questions of the task in them."""
    paths = {f"trainer.{key}": getattr(config.trainer, key) for key in PRELOAD}
    kind = TASKS[config.task.name].target
    if any(paths.values()) and kind.policy_kind == "choice" and config.task.data:
        questions = kind.listed(config.task)
        for key, path in paths.items():
            if path is not None:
                match(Path(path), key, questions, config.rollout.samples)


def match(path: Path, key: str, questions: Sequence[Question], samples: int) -> Matched:
    """The first `samples` rollouts of every question for which a table has that many.

    Needed are a column id or question, and one with the text (`TEXTS`). A row with a question is
    of the question with these words; among several with the same words, and in a row without, the
    id decides. Raises `UserError` where nothing fits.
    """
    table, empty = _recorded(path, key)
    by_words, by_id = defaultdict[str, list[Recorded]](list), defaultdict[str, list[Recorded]](list)
    for row in table:
        (by_words[row.question] if row.question else by_id[row.id]).append(row)
    numbers, rows, groups = [], [], []
    for number, question in enumerate(questions):
        alike = by_words.get(_plain(question.question), [])
        found = [row for row in alike if row.id == question.id] or alike or by_id[question.id]
        groups.append(len(found))
        if len(found) >= samples:
            numbers.append(number)
            rows += found[:samples]
    if not numbers:
        raise UserError(f"{key}={path}: found no question of the task with {samples} rollouts (at "
                        f"most {max(groups, default=0)} a question); legal: a generated.csv of "
                        "these questions, or fewer rollout.samples")
    known = {_plain(question.question): question.id for question in questions}
    ids = {*known.values()}
    said = {f"{len(questions) - len(numbers)} questions have fewer than {samples}":
            len(numbers) < len(questions),
            f"{empty} rows have no text": empty,
            "{} rows have the id of a question of other words": sum(
                bool(row.question) and row.id in ids and row.question not in known
                for row in table)}
    notes = [text.format(count) for text, count in said.items() if count]
    return Matched(numbers, rows, "; ".join([
        f"{key}={path}: {len(rows)} of {len(table) + empty} rows are taken, for {len(numbers)} of "
        f"{len(questions)} questions", *notes]))


def read_generated(path: Path, key: str, task: Qa, policy: ChoicePolicy, samples: int,
                   note: Callable[[str], None], only: slice = slice(None)) -> Rollouts:
    """The rollouts of a table that `match` finds for the task's questions (`only` some of them).

    A column tokens (numbers with spaces between) has the tokens of the text, where they decode to
    it; else the text is encoded. No token counts as chosen by this policy. `note` is told what was
    taken, cut and left out.
    """
    found = match(path, key, task.list[only], samples)
    start = range(len(task.list))[only].start
    problems = task.encode([start + number for number in found.numbers]).to(policy.thinker.device)
    thought, cut, foreign = _tokens(found.rows, policy, problems.pad)
    room = policy.rules.tokens
    note("; ".join([found.said, *[f"{cut} texts are cut at thinker.tokens={room}"] * bool(cut),
                    *[f"{foreign} texts are encoded anew, as their tokens say something else"]
                    * bool(foreign)]))
    return given(problems, thought.to(policy.thinker.device), samples)


def _recorded(path: Path, key: str) -> tuple[list[Recorded], int]:
    """The rows of a table that have a text, and how many have none."""
    found, empty = list[Recorded](), 0
    for _, row in read_table(path, KINDS):
        name = next((name for name in TEXTS if name in row), None)
        if name is None or not {"id", "question"} & set(row):
            raise UserError(f"{key}={path}: found columns {', '.join(row)}; legal: id or question, "
                            f"and one of {', '.join(TEXTS)}")
        cells = {column: "" if row.get(column) is None else str(row[column])
                 for column in ("id", "question", "tokens")}
        if row[name] is None:
            empty += 1
            continue
        found.append(Recorded(cells["id"], _plain(cells["question"]), str(row[name]),
                              cells["tokens"]))
    return found, empty


def _plain(text: str) -> str:
    """A question with single spaces."""
    return " ".join(text.split())


def _tokens(texts: list[Recorded], policy: ChoicePolicy, pad: int) -> tuple[Tensor, int, int]:
    """(thoughts (B, K + 1), how many of the texts were cut at the length that thoughts may have,
    how many have tokens that decode to something else).
    """
    words, room = policy.vocabulary, policy.rules.tokens
    rows, cut, foreign = [], 0, 0
    for text in texts:
        numbers = _own_tokens(text, words)
        foreign += bool(text.tokens) and numbers is None
        numbers = words.continuing(text.text) if numbers is None else numbers
        at = next((i for i, number in enumerate(numbers) if number in words.ends), None)
        end = words.end if at is None else numbers[at]
        cut += len(numbers[:at]) > room
        numbers = numbers[:at][:room]
        rows.append([*numbers, end, *[pad] * (room - len(numbers))])
    return torch.tensor(rows), cut, foreign


def _own_tokens(row: Recorded, words: TextVocabulary) -> list[int] | None:
    """The tokens that a row names, where they are those of its text: not of another vocabulary, and
    not their number.
    """
    try:
        numbers = [int(number) for number in row.tokens.split()]
    except ValueError:
        return None
    known = bool(numbers) and all(0 <= number < len(words) for number in numbers)
    return numbers if known and words.text(numbers).strip() == row.text.strip() else None


class Preloaded(Source):
    """The first round comes out of a file, later ones from `inner`.

    by_ratio: the strategy weighs tokens by how much likelier they have become, so their
    log-probabilities are noted when the round begins.
    """

    def __init__(self, first: Rollouts, inner: Source, by_ratio: bool = False) -> None:
        self.first, self.inner, self.by_ratio = first, inner, by_ratio
        self.used = self.just_used = False

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        self.just_used = not self.used
        if self.used:
            return self.inner.collect(policy, problems, step, generator)
        self.used = True
        wanted = set(problems.index.tolist())  # type: ignore[union-attr]
        assert self.first.problems.index is not None
        kept = [place for place, number in enumerate(self.first.problems.index.tolist())
                if number in wanted]
        rollouts = self.first[torch.tensor(kept, device=self.first.thought.device)]
        if not self.by_ratio:
            return rollouts
        return replace(rollouts, logprobs=policy.logprobs(rollouts, self.sampling(step)))

    def withdraw(self) -> None:
        self.used = self.used and not self.just_used

    def sampling(self, step: int) -> Sampling:
        return self.inner.sampling(step)

    def metrics(self) -> dict[str, float]:
        return self.inner.metrics()

    def state(self) -> dict[str, Any]:
        return {"used": self.used, "inner": self.inner.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.used = state["used"]
        self.inner.load(state["inner"])


# --- pairs of preference --------------------------------------------------------------------------


def pairs_of(rollouts: Rollouts) -> list[dict[str, Any]]:
    """The pairs of rollouts with DPO's credit: prompt_ids, chosen_ids and rejected_ids, and the
    log-probabilities ref_chosen_logps and ref_rejected_logps under the reference, where noted. They
    are of the model's own distribution, as TRL compares them with such.
    """
    pad, reference = rollouts.problems.pad, rollouts.reference
    assert reference is None or rollouts.under == Sampling(), "of another distribution"
    questions = tokens_of(rollouts.problems.question, pad)
    thoughts = tokens_of(rollouts.thought[:, :-1], pad)
    pairs = []
    for number in rollouts.learn.any(1)[0::2].nonzero()[:, 0].tolist():
        won, lost = 2 * number, 2 * number + 1
        pair: dict[str, Any] = {"prompt_ids": questions[number], "chosen_ids": thoughts[won],
                                "rejected_ids": thoughts[lost]}
        if reference is not None:
            sums = (reference * rollouts.learn).sum(1)
            pair |= {"ref_chosen_logps": float(sums[won]), "ref_rejected_logps": float(sums[lost])}
        pairs.append(pair)
    return pairs


def texts_of(rollouts: Rollouts, vocabulary: TextVocabulary) -> list[dict[str, Any]]:
    """The pairs as text: prompt, chosen, rejected, and whether TRL makes the `same_tokens` of it.

    TRL puts the tokenizer's end behind a text that has none, also behind one that was cut at its
    length limit, or that ended with another token. What the tokenizer puts in front of every text
    by itself is left out of the prompt.
    """
    tokenizer, end = vocabulary.tokenizer, vocabulary.tokenizer.eos_token or ""
    added = [token for token in tokenizer("")["input_ids"] if token not in vocabulary.ends]

    def text(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    pairs = []
    for pair in pairs_of(rollouts):
        prompt = pair["prompt_ids"]
        start = len(added) if added and prompt[:len(added)] == added else 0
        row: dict[str, Any] = {"prompt": text(prompt[start:]), "chosen": text(pair["chosen_ids"]),
                               "rejected": text(pair["rejected_ids"])}
        row["same_tokens"] = all(
            tokenizer(f"{row['prompt']}{row[kind].removesuffix(end)}{end}")["input_ids"]
            == [*prompt, *pair[f"{kind}_ids"]] for kind in ("chosen", "rejected"))
        pairs.append(row)
    return pairs


def tokens_of(rows: Tensor, pad: int) -> list[list[int]]:
    """The tokens of rows (N, T) without padding."""
    return [[token for token in row if token != pad] for row in rows.tolist()]
