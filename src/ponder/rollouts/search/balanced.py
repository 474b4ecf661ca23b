"""Balanced self-labelling: the thinker chooses the language it finds easy.

Every answer has a code, its assigned thought. A table keeps, for each answer and position, a mean
of log p(token | question, the code so far) over questions with that answer. Now and then the
answers that share a prefix are dealt out to the tokens in equal parts, each to a token it is likely
to get (self-labelling by optimal transport: Asano et al. 2020; here labels are thoughts and groups
are prefixes). This is an E-step; learning the codes by likelihood is the M-step. Positions begin
one after another; a code that follows what the thinker finds easy is learnt at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ponder.config.option import option
from ponder.config.registry import search
from ponder.core.credit import flat
from ponder.core.lazy_imports import F, Tensor, no_grad, torch
from ponder.core.math import sinkhorn
from ponder.core.types import Problems, Rollouts, Scores
from ponder.rollouts import PreparedSource, given

if TYPE_CHECKING:
    from ponder.config.spine import Config
    from ponder.models.policies.base import Policy
    from ponder.tasks.base import Task

SHARPNESS = 0.3  # temperature of the transport plan
COUNTERS = ("active", "frozen", "calm", "still", "last", "begun", "restarts", "settled_at")
BOOK = ("codes", "total", "count", "known", "stay", "change", "took_off")


@dataclass
class BalancedConfig:
    """Balanced self-labelling: answers are dealt out to codes the thinker finds easy."""

    every: int = option(20, "steps between assignments", low=1)
    measure: int = option(20, "questions of each answer looked at before a position starts", low=1)
    decay: float = option(0.5, "share of the table that is kept at each assignment", low=0, high=1)
    bonus: float = option(0.3, "first bonus for the token an answer has now, in standard "
                          "deviations of the table; a thermostat regulates it", low=0)
    change: float = option(0.3, "share of the labels of unlearnt answers that may move", low=0)
    half_life: float = option(400, "steps in which that share halves once a position is learnt",
                              low=1)
    next_known: float = option(0.9, "the next position starts at this training accuracy ...", low=0)
    next_change: float = option(0.03, "... when no more of the labels moved", low=0)
    first_known: float = option(0.0, "the first token must be learnt this well ...", low=0, high=1)
    patience: int = option(900, "... within so many steps, or the thinker starts anew from other "
                           "weights", low=1)
    frozen_known: float = option(0.95, "labels are frozen at this training accuracy ...", low=0)
    frozen_change: float = option(0.005, "... when no more of them moved", low=0)
    settled_known: float = option(0.93, "the language has settled when every position reaches this",
                                  low=0, high=1)
    freeze_after: int = option(250, "steps after that at which all labels are frozen", low=0)


@search("balanced", keys=BalancedConfig)
class Balanced(PreparedSource):
    """Balanced self-labelling: answers are dealt out evenly to codes, position after position.

    A position k starts when k - 1 is nearly learnt and its labels are nearly still; its labels are
    frozen when they are quite still. The language has settled when all positions are learnt well.
    A first token that resists (`first_known`) is a poor foundation: the thinker starts anew.
    """

    def __init__(self, config: Any, task: Task, tokens: int, device: torch.device) -> None:
        assert task.labels is not None, "chosen only for tasks that number their answers"
        self.config, self.task = config.balanced, task
        self.book = Codebook(task.labels, tokens, task.vocabulary.thoughts, config.balanced, device)
        self.active = self.frozen = self.calm = self.still = 0
        self.last = self.begun = self.restarts = 0
        self.settled_at: int | None = None

    @staticmethod
    def refuses(config: Config) -> Iterator[str]:
        """What of a configuration makes no sense with it, as lines."""
        if config.answerer.learns_from == "gold" or "gold_thought" in config.reward:
            yield ("rollout.method=balanced: found super or clean, but it invents a language of "
                   "its own; legal: auto, exhaustive, beam, tree")
        if config.thinker.asked:
            yield (f"rollout.method=balanced: found thinker.asked={config.thinker.asked}, but a "
                   "code is dealt to each answer; legal: auto, grow, exhaustive, beam, tree")

    @no_grad
    def prepare(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> None:
        """Assign codes, and begin another position, where it is time."""
        begins = self.active == 0
        if not begins and step - self.last >= self.config.every:
            self.last = step
            self._reassign(step)
            if begins := self._resists(step):
                self._restart(policy, step)
            else:
                begins = self._due(step)
        if begins:
            self._begin(policy, problems, generator)

    def make(self, policy: Policy, problems: Problems, step: int, drawn: Tensor | None) -> Rollouts:
        """The assigned code of each problem's answer, as far as positions have begun."""
        return given(problems, self._thoughts(policy, problems))

    def constants(self, policy: Policy, step: int) -> Hashable | None:
        return self.active, self.frozen, self.restarts

    def tensors(self) -> list[Tensor]:
        return [self.book.total, self.book.count, self.book.known]

    def _thoughts(self, policy: Policy, problems: Problems) -> Tensor:
        """(P, active + 1): codes as tokens, with end-of-thought."""
        assert problems.label is not None
        tokens = policy.vocabulary.first_thought + self.book.codes[problems.label, :self.active]
        return F.pad(tokens, (0, 1), value=policy.vocabulary.end)

    def observe(self, policy: Policy, rollouts: Rollouts, scores: Scores) -> None:
        """Note what the thinker finds likely, and how well it knows the codes."""
        label = rollouts.problems.label
        assert label is not None
        with torch.no_grad():
            logprobs = scores.distribution[..., -self.book.words:].detach().float()
            self.book.note(label, logprobs, self.frozen)

    def settled(self) -> bool:
        return self.settled_at is not None

    def metrics(self) -> dict[str, float]:
        book, k = self.book, max(self.active - 1, 0)
        return {"language/positions": self.active, "language/frozen": self.frozen,
                "language/restarts": self.restarts, "language/change": book.change[k],
                "language/known": float(book.known[k]),
                "language/codes": float(len(book.codes[:, :self.active].unique(dim=0)))}

    def state(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in COUNTERS}
        return {**own, "book": {name: getattr(self.book, name) for name in BOOK}}

    def load(self, state: dict[str, Any]) -> None:
        for name in COUNTERS:
            setattr(self, name, state[name])
        for name in BOOK:
            setattr(self.book, name, state["book"][name])

    # --- the rule -------------------------------------------------------------------------------

    def _begin(self, policy: Policy, problems: Problems,
               generator: torch.Generator | None) -> None:
        """Start a position with the labels an untrained thinker happens to prefer."""
        k, self.active, self.calm = self.active, self.active + 1, 0
        batches = -(-self.config.measure * self.book.answers // len(problems))
        for _ in range(batches):
            drawn = self.task.sample(len(problems), generator or torch.default_generator)
            drawn = drawn.to(problems.question.device)
            logits = policy.decisions(drawn, self._thoughts(policy, drawn), 1)
            logprobs = logits[..., -self.book.words:].float().log_softmax(-1)
            assert drawn.label is not None
            self.book.add(drawn.label, logprobs, k)
        self.book.reassign(k, stay=0.0)

    def _resists(self, step: int) -> bool:
        return (self.active == 1 and float(self.book.known[0]) < self.config.first_known
                and step - self.begun >= self.config.patience)

    def _restart(self, policy: Policy, step: int) -> None:
        """Other weights and an empty codebook."""
        policy.thinker.reset()
        answers, tokens = self.book.codes.shape
        self.book = Codebook(answers, tokens, self.book.words, self.config,
                             self.book.codes.device)
        self.active = self.frozen = self.calm = self.still = 0
        self.begun, self.restarts = step, self.restarts + 1

    def _reassign(self, step: int) -> None:
        for k in range(self.frozen, self.active):
            self.book.reassign(k)
            self.book.regulate(k, step)
        self.book.forget()

    def _due(self, step: int) -> bool:
        """Freeze, settle; True when the next position must begin."""
        config, book, last = self.config, self.book, self.active - 1
        positions = len(book.change)
        known = book.known.tolist()
        if self.frozen < self.active:
            quiet = (book.change[self.frozen] <= config.frozen_change
                     and known[self.frozen] >= config.frozen_known)
            self.still = self.still + 1 if quiet else 0
            if self.still >= 2:
                self.frozen, self.still = self.frozen + 1, 0
        wanted = max(config.next_known, config.first_known if last == 0 else 0.0)
        nearly = book.change[last] <= config.next_change and known[last] >= wanted
        self.calm = self.calm + 1 if nearly else 0
        if self.active < positions:
            return self.calm >= 2
        if self.settled_at is None and self.calm and min(known) >= config.settled_known:
            self.settled_at = step
        if self.settled_at is not None and step - self.settled_at >= config.freeze_after:
            self.frozen = positions
        return False


class Codebook:
    """The code (K tokens) of each of N answers, and the table that they are dealt from.

    codes (N, K); total (N, K, V) and count (N, K, 1) make the running means; stay, change and known
    are for each position: the bonus for staying, the share of labels that moved at the last
    assignment, and the running accuracy of the thinker on its token.
    """

    def __init__(self, answers: int, tokens: int, words: int, config: BalancedConfig,
                 device: torch.device) -> None:
        self.answers, self.words, self.config = answers, words, config
        self.codes = torch.zeros(answers, tokens, dtype=torch.long, device=device)
        self.total = torch.zeros(answers, tokens, words, device=device)
        self.count = torch.zeros(answers, tokens, 1, device=device)
        self.known = torch.zeros(tokens, device=device)
        self.stay = [config.bonus] * tokens
        self.change = [1.0] * tokens
        self.took_off: list[int | None] = [None] * tokens

    def note(self, label: Tensor, logprobs: Tensor, frozen: int) -> None:
        """Add a training batch: logprobs (B, active, V) of answers label (B,)."""
        active = logprobs.shape[1]
        right = logprobs.argmax(-1) == self.codes[label, :active]
        self.known[:active].lerp_(right.float().mean(0), 0.1)
        self.add(label, logprobs, frozen)

    def add(self, label: Tensor, logprobs: Tensor, start: int) -> None:
        """Add log-probabilities (B, active, V) of positions `start` and later to the table."""
        active = logprobs.shape[1]
        if start >= active:
            return
        self.total[:, start:active].index_add_(0, label, logprobs[:, start:])
        ones = torch.ones(len(label), active - start, 1, device=label.device)
        self.count[:, start:active].index_add_(0, label, ones)

    def prefix(self, k: int) -> Tensor:
        """(N,): number of the first k tokens of each code."""
        powers = self.words ** torch.arange(k, device=self.codes.device)
        return (self.codes[:, :k] * powers).sum(1)

    def reassign(self, k: int, stay: float | None = None) -> None:
        """Deal token k out anew. Where it changes, means of later tokens are forgotten: they are of
        another prefix.
        """
        table = self.total[:, k] / self.count[:, k].clamp_min(1e-6)
        bonus = self.stay[k] if stay is None else stay
        new = assign(table, self.prefix(k), self.codes[:, k], bonus)
        moved = new != self.codes[:, k]
        self.codes[:, k] = new
        self.total[moved, k + 1:] = 0
        self.count[moved, k + 1:] = 0
        self.change[k] = float(moved.float().mean())

    def regulate(self, k: int, step: int) -> None:
        """Adjust the bonus for staying, so that labels change at a rate in proportion to the error,
        which falls with time.

        Without a bonus labels change for ever and nothing is learnt; with too large a one the first
        labels stay, however hard they are.
        """
        known = float(self.known[k])
        if self.took_off[k] is None and known > 0.5:
            self.took_off[k] = step
        age = step - (self.took_off[k] or step)
        aim = self.config.change * (1 - known) * 0.5 ** (age / self.config.half_life)
        factor = 1.3 if self.change[k] > aim else 1 / 1.3
        self.stay[k] = min(3.0, max(1e-3, self.stay[k] * factor))

    def forget(self) -> None:
        """Old means lose weight, as the thinker changes."""
        self.total *= self.config.decay
        self.count *= self.config.decay


# --- dealing answers out to tokens in equal parts -------------------------------------------------

def assign(table: Tensor, group: Tensor, labels: Tensor, stay: float) -> Tensor:
    """New labels (N,): within each group every token goes to at most ceil(size / V) answers.

    table (N, V) is the mean log-probability of each token for each answer, group (N,) the id of
    the earlier tokens of its code, labels (N,) the tokens answers have now, and stay the bonus for
    keeping them, in standard deviations of the table. An answer with equal tokens prefers none.
    """
    index, mask = padded_groups(group)
    score = table - table.mean(1, keepdim=True)
    score = score / (score.std() + 1e-8)
    score = score.masked_fill(flat(table), 0.0)  # rounding is no preference
    stays = torch.full_like(labels, stay, dtype=score.dtype)[:, None]
    score = score.scatter_add(1, labels[:, None], stays)
    plan = sinkhorn(score[index], rounds=30, temperature=SHARPNESS, mask=mask)
    quota = -(-mask.sum(1) // table.shape[1])
    return labels.scatter(0, index[mask], deal(plan, mask, quota)[mask])


def padded_groups(group: Tensor) -> tuple[Tensor, Tensor]:
    """Members of every group as a rectangle: (index (n, S), mask (n, S), False on filling)."""
    _, which, count = group.unique(return_inverse=True, return_counts=True)
    order = which.argsort(stable=True)
    before = (count.cumsum(0) - count)[which[order]]
    slot = torch.arange(len(group), device=group.device) - before
    index = torch.zeros(len(count), int(count.max()), dtype=torch.long, device=group.device)
    mask = torch.zeros(index.shape, dtype=torch.bool, device=group.device)
    index[which[order], slot] = order
    mask[which[order], slot] = True
    return index, mask


def deal(plan: Tensor, mask: Tensor, quota: Tensor) -> Tensor:
    """Round a plan (n, S, V) of log-weights to one token a member, (n, S), exactly within quota.

    Every member asks for the best token that has not refused it; a token keeps its `quota` (n,)
    best askers and refuses the others for good; the refused ask again (deferred acceptance, Gale
    and Shapley 1962).
    """
    plan = plan.masked_fill(~mask[..., None], -torch.inf).clone()
    while True:
        ask = plan.argmax(2, keepdim=True)
        bid = torch.full_like(plan, -torch.inf).scatter(2, ask, plan.gather(2, ask))
        bid = bid.masked_fill(~mask[..., None], -torch.inf)
        rank = bid.argsort(dim=1, descending=True).argsort(dim=1).gather(2, ask)
        refused = (rank >= quota[:, None, None]) & mask[..., None]
        if not refused.any():
            return ask[..., 0]
        left = torch.where(refused, -torch.inf, plan.gather(2, ask))
        plan.scatter_(2, ask, left)
