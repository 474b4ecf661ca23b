"""The records that everything else passes around, and the letters of their shapes.

P problems, G samples of each, B = P * G rows; Q question columns, K thought tokens at most (so K
decisions a row), A answer columns; V tokens a thinker may choose from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ponder.core.lazy_imports import Tensor, torch


@dataclass(frozen=True)
class Problem:
    """One question as text. `thought` is the task's gold thought, if it has one."""

    question: str
    answer: str
    thought: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Problems:
    """P problems as tokens.

    question (P, Q) is padded on the left, answer (P, A) and thought (P, K + 1) on the right;
    thought holds the gold thought with its end-of-thought token, None where the task has none.
    label (P,) numbers the distinct answers where the task knows them, else None. features maps the
    name of a property of the answer (such as its units digit) to its value (P,). Of a question with
    choices, options (P, C, A) are these as tokens, padded on the right (a row of padding alone is
    no option), and label the right one; bridge (P, W), padded on the left, stands between thought
    and option. index (P,) is the number of the question in its task. groups maps a name to whether
    a problem (P,) belongs to it: evaluations tell the accuracy of groups apart. places (P, N) are
    those tokens of a passage behind which there are thoughts; None where thoughts are at the end.
    """

    question: Tensor
    answer: Tensor
    thought: Tensor | None
    pad: int
    label: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    padded: bool = False
    options: Tensor | None = None
    bridge: Tensor | None = None
    index: Tensor | None = None
    groups: dict[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None

    def __len__(self) -> int:
        return len(self.question)

    @property
    def mask(self) -> Tensor | None:
        """(P, Q), False on the padding of questions; None where there is none."""
        return self.question != self.pad if self.padded else None

    @property
    def there(self) -> Tensor:
        """(P, C), False where a question has no such option."""
        assert self.options is not None
        return (self.options != self.pad).any(2)

    def __getitem__(self, rows: Tensor | slice) -> Problems:
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Problems:
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Problems:
        """With every tensor changed; each is of P problems."""
        def of(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: change(item) for name, item in value.items()}
            return change(value) if isinstance(value, Tensor) else value

        return replace(self, **{item.name: of(getattr(self, item.name)) for item in fields(self)})


@dataclass
class Rollouts:
    """G thoughts for each of P problems, with all that was found out about them.

    thought (B, K + 1) holds thought tokens up to and including end-of-thought, then padding; rows
    p * G to p * G + G - 1 belong to problem p. Everything (B, K) speaks of decisions: decision k
    is the token thought[:, k]. chosen is True where the policy chose the token (False: forced,
    given or padding); logprobs are those of chosen tokens under the distribution they were drawn
    from, else 0; learn is True where the thinker may learn from the token; credit is what the
    token earns. reward (B,), and token_reward (B, K) for what single tokens earn besides; weight
    (B,) is how much the answerer learns from the row; value (B, K) is what the value head expected
    before each token and returns (B, K) what came; reference (B, K) are the log-probabilities under
    the reference policy; parts are the unweighted rewards, each (B,) or (B, K). alike says that all
    groups hold the same thoughts, so that what these begin with need be computed once. answered
    (B, 3) is log p(answer), whether it is right and which option it is, where that is known since
    collection. noise (B, K, V) are the uniform numbers that decide tokens drawn while they are
    scored. idle says that nothing is learnt from them: a process has to be kept in step.
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
    alike: bool = False
    answered: Tensor | None = None
    noise: Tensor | None = None
    idle: bool = False

    def __len__(self) -> int:
        return len(self.thought)

    @property
    def group(self) -> int:
        """Rows that are compared with each other: the samples of a question, or of a place of it.
        """
        places = self.problems.places
        return self.samples if places is None else self.samples // places.shape[1]

    @property
    def total_reward(self) -> Tensor:
        """(B,): the reward of each row, with those of its tokens."""
        assert self.reward is not None
        return self.reward if self.token_reward is None else self.reward + self.token_reward.sum(1)

    def old(self, scores: Scores) -> Tensor:
        """(B, K): log-probabilities when sampled; of tokens nobody chose, those of now."""
        return torch.where(self.chosen, self.logprobs, scores.logprobs.detach())

    def change(self, scores: Scores) -> Tensor:
        """(B, K): log ratio of now to when sampled, with the gradient of now."""
        return scores.logprobs - self.old(scores)

    @property
    def repeats(self) -> Tensor:
        """(B, K): whether the token after each decision repeats it."""
        return (self.thought[:, 1:] == self.thought[:, :-1]) & self.mask[:, 1:]

    @property
    def mask(self) -> Tensor:
        """(B, T), True on thought tokens, False on padding."""
        return self.thought != self.problems.pad

    @property
    def lengths(self) -> Tensor:
        """(B,): thought tokens in each row, without end-of-thought."""
        return self.mask.sum(1) - 1

    def __getitem__(self, problems: Tensor) -> Rollouts:
        """The rollouts of some problems, chosen by index (p,)."""
        return replace(self.rows(self._rows_of(problems), self.samples),
                       problems=self.problems[problems], alike=self.alike)

    def _rows_of(self, problems: Tensor) -> Tensor:
        """(p * G,): the rows of some problems, by index (p,)."""
        sample = torch.arange(self.samples, device=problems.device)
        return (problems[:, None] * self.samples + sample).flatten()

    def rows(self, rows: Tensor, samples: int) -> Rollouts:
        """Some rows (b,) by index, `samples` of every problem, which stay the same."""
        def take(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return replace(self, samples=samples, thought=self.thought[rows], chosen=self.chosen[rows],
                       logprobs=self.logprobs[rows], learn=self.learn[rows],
                       reward=take(self.reward), credit=take(self.credit), weight=take(self.weight),
                       token_reward=take(self.token_reward), value=take(self.value),
                       returns=take(self.returns), reference=take(self.reference),
                       answered=take(self.answered), noise=take(self.noise),
                       parts={name: value[rows] for name, value in self.parts.items()},
                       alike=False)

    def useful(self, rows_alone: bool) -> Rollouts:
        """Without the groups from which nobody learns; where a row means the same alone, without
        such rows, each of the others its own group.
        """
        assert self.weight is not None
        row = self.learn.any(1) | (self.weight > 0)
        if not rows_alone or self.samples == 1:
            return self[row.view(-1, self.samples).any(1).nonzero()[:, 0]]
        rows = row.nonzero()[:, 0]
        return replace(self.rows(rows, 1), problems=self.problems[rows // self.samples])

    def joined(self, other: Rollouts) -> Rollouts:
        """These and others with as many samples; what only one side knows is forgotten."""
        assert self.samples == other.samples
        return replace(_joined(self, other), problems=_joined(self.problems, other.problems),
                       alike=False)

    def with_groups(self, problems: Tensor, other: Rollouts) -> Rollouts:
        """These with some groups, chosen by index (p,), replaced by those of other rollouts."""
        rows = self._rows_of(problems)

        def put(own: Any, new: Any) -> Any:
            both = isinstance(own, Tensor) and isinstance(new, Tensor)
            return own.index_copy(0, rows, new.to(own.dtype)) if both else new

        changed = {item.name: put(getattr(self, item.name), getattr(other, item.name))
                   for item in fields(self)
                   if item.name not in ("problems", "parts", "samples", "alike")}
        parts = {name: put(value, other.parts[name]) for name, value in self.parts.items()}
        return replace(self, **changed, parts=parts, alike=False)


@dataclass
class Scores:
    """What the networks say about a batch of rollouts, with gradients.

    logprobs (B, K): of the thought tokens, under the sampling distribution; 0 on padding.
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


def _joined(own: Record, other: Record) -> Record:
    """All tensors of two records one behind the other, where both have them."""
    def both(first: Any, second: Any) -> Any:
        if isinstance(first, dict):
            return {name: both(first[name], second[name]) for name in first.keys() & second.keys()}
        if isinstance(first, Tensor):
            return None if second is None else torch.cat([first, second])
        return first

    return replace(own, **{item.name: both(getattr(own, item.name), getattr(other, item.name))
                           for item in fields(own)})
