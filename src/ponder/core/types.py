"""The records that everything else passes around, and the letters of their shapes.

P problems, G samples of each, B = P * G rows; Q question columns, K thought tokens at most (so K
decisions a row), A answer columns; V tokens a thinker may choose from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ponder.core.lazy_imports import Tensor, torch
from ponder.core.math import Sampling

# Fields that had another name in checkpoints of earlier versions.
RENAMED = {"bridge": "answer_prefix", "places": "positions", "alike": "same_thoughts",
           "idle": "placeholder"}


@dataclass(frozen=True)
class Problem:
    """One question as text. `thought` is the task's gold thought, if it has one."""

    question: str
    answer: str
    thought: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problems:
    """P problems as tokens.

    - question (P, Q), padded on the left; padded: whether any of them has padding.
    - answer (P, A), padded on the right.
    - thought (P, K + 1), padded on the right: the gold thought and its end-of-thought token.
    - label (P,): the number of the right answer, among the task's answers or the options.
    - options (P, C, A): the answer options, padded on the right; a row of padding is no option.
    - option_sizes (P, C): what the log-likelihood of each option is divided by where they are
      compared; 1 where there is no such option.
    - answer_prefix (P, W), padded on the left: the tokens between thought and option.
    - features: the value (P,) of each named property of the answer, such as its units digit.
    - groups: for each name, which problems (P,) belong to the group; evaluations report the
      accuracy of each group.
    - states (P, S): what is true after each step of a question, as numbers of `state_names`; -1
      where it has fewer steps. Held-out problems alone have them, for evaluations: they need no
      thought tokens.
    - index (P,): the number of each question in its task.
    - level (P,): which level of difficulty a question is of, from 1, where a curriculum asks.
    - easier: the P problems one level easier, of the same widths; the same ones at level 1.
    - moves (P,): how many moves a question has, or levels, which thoughts may have a step for each
      of (`thinker.pace`).
    - asked (P, M, W): M questions about each thought, padded on the left, which follow the thought
      in what the answerer reads; asked_answer (P, M, A): their answers, padded on the right. None:
      the answer to `question` follows at once.
    - also: M other questions about the thought of each problem: every tensor is (P, M, ...).
    - positions (P, N): the tokens of a passage after which there are thoughts; None where there is
      one thought, after the question.

    Optional fields are None where the task does not have them.
    """

    question: Tensor
    answer: Tensor
    thought: Tensor | None
    pad: int
    label: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    padded: bool = False
    options: Tensor | None = None
    option_sizes: Tensor | None = None
    answer_prefix: Tensor | None = None
    index: Tensor | None = None
    groups: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    states: Tensor | None = None
    state_names: tuple[str, ...] = ()
    level: Tensor | None = None
    easier: Problems | None = None
    moves: Tensor | None = None
    asked: Tensor | None = None
    asked_answer: Tensor | None = None
    also: Problems | None = None

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Problems:
        """The problems that `dataclasses.asdict` made a dictionary of, also of an earlier version.
        """
        nested = {name: cls.from_dict(state[name]) for name in ("easier", "also")
                  if state.get(name)}
        return cls(**{**renamed(state, RENAMED), **nested})

    def __len__(self) -> int:
        return len(self.question)

    @property
    def mask(self) -> Tensor | None:
        """(P, Q), False on the padding of questions; None where there is none."""
        return self.question != self.pad if self.padded else None

    @property
    def option_mask(self) -> Tensor:
        """(P, C), False where a question has fewer options."""
        assert self.options is not None
        return (self.options != self.pad).any(2)

    def concatenate(self, other: Problems) -> Problems:
        """These and others of the same widths; fields that only one side has become None."""
        return _map(lambda mine, theirs: torch.cat([mine, theirs]), self, other)

    def __getitem__(self, rows: Tensor | slice) -> Problems:
        return _map(lambda value: value[rows], self)

    def beside(self, others: Problems) -> Problems:
        """The same with P * M others, M for each problem, as `also`."""
        count = len(others) // len(self)
        return replace(self, also=_map(lambda value: value.unflatten(0, (-1, count)), others))

    def alternatives(self) -> list[Problems]:
        """M batches of P problems: the first others about each thought, the second ones, ..."""
        if self.also is None:
            return []
        return [_map(lambda value, at=at: value[:, at], self.also)
                for at in range(self.also.question.shape[1])]

    def to(self, device: torch.device) -> Problems:
        return _map(lambda value: value.to(device), self)


@dataclass(frozen=True)
class Rollouts:
    """G thoughts for each of P problems, with everything that was found out about them.

    Rows p * G to p * G + G - 1 belong to problem p. Decision k is the token thought[:, k].

    - thought (B, K + 1): thought tokens up to and including end-of-thought, then padding.
    - chosen (B, K): True where the policy chose the token; False: forced, given or padding.
    - logprobs (B, K): log-probabilities of chosen tokens under the distribution they were drawn
      from, in nats; of given tokens when the round began, where that was noted; 0 elsewhere.
    - learn (B, K): True where the thinker may learn from the token.
    - credit (B, K): what the token earns.
    - reward (B,); token_reward (B, K): rewards of single tokens, added to it.
    - parts: each reward before its weight, (B,) or (B, K).
    - weight (B,): how much the answerer learns from the row.
    - value (B, K): the value head's estimate before each token; returns (B, K): its target.
    - reference (B, K): log-probabilities under the reference policy.
    - answered (B, 3): log p(answer), how right the answer is (1: right), and which option it is,
      where that was found during collection.
    - noise (B, K, V): the uniform numbers by which tokens are drawn while they are scored.
    - same_thoughts: all groups hold the same thoughts, so that shared prefixes are computed once.
    - placeholder: a micro-batch with zero loss, so that all processes run equally many.
    - under: the distribution that `logprobs` and `reference` are of, and `Scores.logprobs` must be
      of; None before the rollouts are annotated.
    """

    problems: Problems
    samples: int
    thought: Tensor
    chosen: Tensor
    logprobs: Tensor
    learn: Tensor
    reward: Tensor | None = None
    credit: Tensor | None = None
    weight: Tensor | None = None
    token_reward: Tensor | None = None
    value: Tensor | None = None
    returns: Tensor | None = None
    reference: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    same_thoughts: bool = False
    answered: Tensor | None = None
    noise: Tensor | None = None
    placeholder: bool = False
    under: Sampling | None = None

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Rollouts:
        """The rollouts that `dataclasses.asdict` made a dictionary of, also of an earlier version.
        """
        under = state.get("under")
        return cls(**{**renamed(state, RENAMED), "under": under and Sampling(**under),
                      "problems": Problems.from_dict(state["problems"])})

    def __len__(self) -> int:
        return len(self.thought)

    @property
    def group_size(self) -> int:
        """Rows that are compared with each other: the samples of a question or of a position."""
        positions = self.problems.positions
        return self.samples if positions is None else self.samples // positions.shape[1]

    @property
    def total_reward(self) -> Tensor:
        """(B,): the reward of each row, with those of its tokens."""
        assert self.reward is not None
        return self.reward if self.token_reward is None else self.reward + self.token_reward.sum(1)

    def old_logprobs(self, scores: Scores) -> Tensor:
        """(B, K): log-probabilities when sampled, or noted; of other tokens the present ones."""
        known = self.chosen | (self.logprobs != 0)
        return torch.where(known, self.logprobs, scores.logprobs.detach())

    def log_ratio(self, scores: Scores) -> Tensor:
        """(B, K): log of the present probability over that when sampled, with gradients."""
        return scores.logprobs - self.old_logprobs(scores)

    @property
    def repeats(self) -> Tensor:
        """(B, K): whether the token after each decision repeats it."""
        return (self.thought[:, 1:] == self.thought[:, :-1]) & self.mask[:, 1:]

    @property
    def mask(self) -> Tensor:
        """(B, K + 1), True on thought tokens, False on padding."""
        return self.thought != self.problems.pad

    @property
    def lengths(self) -> Tensor:
        """(B,): thought tokens in each row, without end-of-thought."""
        return self.mask.sum(1) - 1

    def __getitem__(self, problems: Tensor) -> Rollouts:
        """The rollouts of some problems, chosen by index (p,)."""
        return replace(self.select_rows(self._rows_of(problems), self.samples),
                       problems=self.problems[problems], same_thoughts=self.same_thoughts)

    def _rows_of(self, problems: Tensor) -> Tensor:
        """(p * G,): the rows of some problems, by index (p,)."""
        sample = torch.arange(self.samples, device=problems.device)
        return (problems[:, None] * self.samples + sample).flatten()

    def select_rows(self, rows: Tensor, samples: int) -> Rollouts:
        """Some rows (b,) by index, `samples` of every problem; the problems stay the same."""
        return replace(_map(lambda value: value[rows], self), samples=samples, same_thoughts=False)

    def learnable(self, rows_alone: bool) -> Rollouts:
        """Without the groups from which nothing is learnt. rows_alone: a row's credit does not
        depend on its group, so single rows are dropped and each of the others is its own group.
        """
        assert self.weight is not None
        row = self.learn.any(1) | (self.weight > 0)
        if not rows_alone or self.samples == 1:
            return self[row.view(-1, self.samples).any(1).nonzero()[:, 0]]
        rows = row.nonzero()[:, 0]
        return replace(self.select_rows(rows, 1), problems=self.problems[rows // self.samples])

    def concatenate(self, other: Rollouts) -> Rollouts:
        """These and others with as many samples; fields that only one side has become None."""
        assert self.samples == other.samples

        return replace(_map(lambda mine, theirs: torch.cat([mine, theirs]), self, other),
                       problems=self.problems.concatenate(other.problems), same_thoughts=False)

    def replace_groups(self, problems: Tensor, other: Rollouts) -> Rollouts:
        """These with the groups of some problems, by index (p,), replaced by `other`; fields that
        only one side has become None.
        """
        rows = self._rows_of(problems)
        return replace(_map(lambda mine, new: mine.index_copy(0, rows, new.to(mine.dtype)), self,
                            other), same_thoughts=False)


@dataclass(frozen=True)
class Scores:
    """What the networks say about a batch of rollouts, with gradients.

    logprobs (B, K): of the thought tokens, under `Rollouts.under`, the distribution that thoughts
    were sampled from (or, where TRL learns, the model's own); 0 on padding.
    entropy (B, K): of that distribution, in nats; 0 on padding. distribution (B, K, V): its
    log-probabilities. answer (B,): log p(answer | what the answerer sees), in nats. value (B, K):
    the value head's, where there is one.
    """

    logprobs: Tensor
    entropy: Tensor
    distribution: Tensor
    answer: Tensor
    value: Tensor | None = None


Record = TypeVar("Record", Problems, Rollouts)


def _map(function: Callable[..., Tensor], *records: Record) -> Record:
    """A record like the first, each tensor replaced by `function` of those that all records have in
    its place; None, or no entry of a dictionary, where one of them has none there.
    """
    def mapped(first: Any, *others: Any) -> Any:
        if isinstance(first, dict):
            return {name: mapped(value, *(other[name] for other in others))
                    for name, value in first.items() if all(name in other for other in others)}
        if isinstance(first, Problems) and isinstance(records[0], Problems):
            return _map(function, first, *others) if all(others) else None
        if isinstance(first, Tensor):
            missing = any(other is None for other in others)
            return None if missing else function(first, *others)
        return first

    return replace(records[0], **{
        item.name: mapped(*(getattr(record, item.name) for record in records))
        for item in fields(records[0])})


def renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The fields of a record under their present names; names: from earlier ones."""
    return {names.get(name, name): value for name, value in state.items()}
