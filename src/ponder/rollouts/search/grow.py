r"""Growing thoughts: where an easier question is answered, a harder one needs one step more.

A question of n steps gets a thought of n steps. All but the last of them are the thinker's own
thought about the question without its last step. The last one is searched:

.. math:: \arg\max_z \log p(a \mid z_{<n}, z) + c_o \log p_\mathrm{thinker}(z \mid q, z_{<n})
   + c_t T_{a, z} + c_n \epsilon

with the answerer's log-probability (the sum of all answers, where `thinker.asked` is several), a
little of the thinker's preference, and, where the task numbers its answers, of a table T of which
step has meant which answer at length 1. There answers are dealt to steps by an assignment (Kuhn,
1955), so that no two share one. Left out are thoughts after whose beginning the easier question is
answered wrongly: their last step would make up for a mistake, and teach the thinker to repeat it.

Both networks learn the result by likelihood. Nobody teaches the language; a curriculum decides
which lengths are asked, and an answerer whose positions count from the end
(`answerer.positions=from_end`) reads a longer thought as it reads a shorter one.

The border of the method: what a step has to carry must be readable from the answers to an easier
question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ponder.config.option import option
from ponder.config.registry import STRATEGIES, search
from ponder.core.language import assignment
from ponder.core.lazy_imports import F, Tensor, no_grad, torch
from ponder.core.types import Problems, Rollouts
from ponder.rollouts import Source, given
from ponder.rollouts.search.exhaustive import every_thought

if TYPE_CHECKING:
    from ponder.config.spine import Config
    from ponder.models.policies.question import QuestionPolicy

UNLIKELY = -5.0  # nats; a step that the thinker finds less likely is not disliked more
KEPT = 0.9  # share of the table that is kept in each round


@dataclass
class GrowConfig:
    """Growing thoughts: one step more than the thinker's own about an easier question."""

    own: float = option(0.1, "weight of the thinker's preference", low=0, later=True)
    table: float = option(0.3, "weight of what steps have meant in thoughts of one step", low=0,
                          later=True)
    noise: float = option(0.05, "standard deviation of the noise on the scores, in nats", low=0,
                          later=True)


@search("grow", keys=GrowConfig)
class Grow(Source):
    """The thinker's own thought about an easier question, and one searched step."""

    requires = frozenset({"easier", "predicted_answers"})

    def __init__(self, config: Any) -> None:
        self.config = config.grow
        self.table: Tensor | None = None  # (answers, steps), once there is a round of one step
        self.numbers: dict[tuple[int, ...], int] = {}  # of answers that the task does not number
        self.found: dict[str, float] = {}

    @staticmethod
    def refuses(config: Config) -> Iterator[str]:
        """What of a configuration makes no sense with it, as lines."""
        thinker = config.thinker
        typed = "rollout.method=grow"
        if config.trainer.curriculum == "none":
            yield (f"{typed}: found trainer.curriculum=none; legal: accuracy or linear, which say "
                   "how long the next thoughts are")
        if not thinker.pace:
            yield (f"{typed}: found thinker.pace=0, but each move of a question gets a step of "
                   "thought; legal: thinker.pace=1 or more, the tokens of a step")
        if config.rollout.samples > 1:
            yield (f"rollout.samples={config.rollout.samples}: found {typed}, which makes one "
                   "thought for each question; legal: 1")
        compares = STRATEGIES[config.strategy.name].target.of(config.strategy).compares
        if compares:
            yield (f"{typed}: found {compares}, but there is one thought for each question; legal: "
                   "strategy=star or sft")
        if config.answerer.learns_from == "gold" or "gold_thought" in config.reward:
            yield (f"{typed}: found super or clean, but it invents a language of its own; legal: "
                   "without them")
        if thinker.vocabulary ** thinker.pace > config.rollout.limit:
            yield (f"thinker.pace={thinker.pace}: found {thinker.vocabulary ** thinker.pace} "
                   f"steps to choose from, more than rollout.limit={config.rollout.limit}; legal: "
                   "fewer tokens, or a higher limit")

    @no_grad
    def collect(self, policy: Any, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        assert problems.level is not None, "the configuration check lets no such run begin"
        levels = problems.level.unique().tolist()
        most = levels[-1] * policy.rules.pace
        thought = problems.question.new_full((len(problems), most + 1), problems.pad)
        right = torch.ones_like(problems.level, dtype=torch.bool)
        for level in levels:
            rows = (problems.level == level).nonzero()[:, 0]
            grown, right[rows] = self._grown(policy, problems[rows], level, generator)
            thought[rows, :grown.shape[1]] = grown
        self.found["grow/begun_right"] = float(right.float().mean())
        found = given(problems, thought)
        return found[right.nonzero()[:, 0]] if right.any() else found

    def _grown(self, policy: QuestionPolicy, problems: Problems, level: int,
               generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(thoughts (P, n + 1) of n tokens, and their end, about questions of one level; whether
        the easier question is answered rightly after what they begin with (P,)).
        """
        tokens = policy.rules.pace
        begun, right = self._begun(policy, problems, (level - 1) * tokens)
        steps = every_step(policy, tokens, begun.device)
        scores = self._scores(policy, problems, begun, steps, generator)
        last = self._dealt(problems, scores) if level == 1 else scores.argmax(1)
        self.found = {"grow/steps_used": len(last.unique()) / len(steps)}
        grown = torch.cat([begun, steps[last]], 1)
        return F.pad(grown, (0, 1), value=policy.vocabulary.end), right

    @staticmethod
    def _begun(policy: QuestionPolicy, problems: Problems, length: int) -> tuple[Tensor, Tensor]:
        """(the thinker's greedy thoughts (P, length) about the easier questions, whether all that
        is asked about these is answered rightly (P,)).
        """
        from ponder.rollouts.sampler import greedy

        if length == 0:
            begun = problems.question[:, :0]
            return begun, torch.ones(len(begun), dtype=torch.bool, device=begun.device)
        assert problems.easier is not None
        with policy.ruled(tokens=length, stops=False, pace=0):
            thought = greedy(policy, problems.easier).thought
        right = policy.answer(problems.easier, thought, 1, policy.judge, ragged=False)[1]
        return thought[:, :-1], right == 1

    def _scores(self, policy: QuestionPolicy, problems: Problems, begun: Tensor, steps: Tensor,
                generator: torch.Generator | None) -> Tensor:
        """(P, N): how good each of N steps (N, k) is after what was begun (P, L)."""
        config = self.config
        asked = 1 if problems.asked is None else problems.asked.shape[1]
        scores = asked * policy.answers_after(problems, begun, steps).float()
        if config.noise:
            drawn = torch.randn(scores.shape, generator=generator)
            scores = scores + config.noise * drawn.to(scores.device)
        if config.own:
            own = preference(policy, problems, begun, steps)
            scores = scores + config.own * own.clamp_min(UNLIKELY)
        label, table = problems.label, self.table
        if asked == 1 and label is not None and table is not None and int(label.max()) < len(table):
            scores = scores + config.table * table[label]
        return scores

    def _dealt(self, problems: Problems, scores: Tensor) -> Tensor:
        """(P,): steps by an assignment of answers to steps, where there are enough of them; else
        the best ones. scores (P, N), of which the table keeps a slowly forgotten mean.
        """
        if problems.asked is not None and problems.asked.shape[1] > 1:
            return scores.argmax(1)
        label = self._numbered(problems.answer) if problems.label is None else problems.label
        if len(self.numbers) > len(scores[0]):  # nothing can be dealt
            return scores.argmax(1)
        known = scores[:0] if self.table is None else self.table
        table = F.pad(known, (0, 0, 0, max(int(label.max()) + 1 - len(known), 0)))
        answers = F.one_hot(label, len(table)).to(scores.dtype)
        count = answers.sum(0)[:, None]
        mean = answers.T @ scores / count.clamp_min(1)
        self.table = torch.where(count > 0, KEPT * table + (1 - KEPT) * mean, table)
        return assignment(self.table)[label] if len(table) <= len(scores[0]) else scores.argmax(1)

    def _numbered(self, answers: Tensor) -> Tensor:
        """(P,): numbers of answers (P, A), in the order in which they came up."""
        rows = map(tuple, answers.tolist())
        found = [self.numbers.setdefault(row, len(self.numbers)) for row in rows]
        return torch.tensor(found, device=answers.device)

    def metrics(self) -> dict[str, float]:
        return self.found

    def state(self) -> dict[str, Any]:
        return {"table": self.table, "numbers": self.numbers}

    def load(self, state: dict[str, Any]) -> None:
        self.table, self.numbers = state["table"], state.get("numbers", {})


def every_step(policy: QuestionPolicy, tokens: int, device: torch.device) -> Tensor:
    """(N, tokens): all that the thinker may write in one step."""
    with policy.ruled(tokens=tokens, stops=False, pace=0):
        return every_thought(policy, device)


def preference(policy: QuestionPolicy, problems: Problems, begun: Tensor, steps: Tensor) -> Tensor:
    """(P, N): log p of each of N steps (N, k) after what was begun (P, L), by the thinker, in nats.

    Those of its thoughts alone: that it could also stop is left out. Steps that differ in their
    last token only are read once.
    """
    first, words = policy.vocabulary.first_thought, policy.vocabulary.thoughts
    length, size = begun.shape[1], steps.shape[1]
    starts = steps[::words, :-1]
    rows = torch.cat([begun[:, None].expand(-1, len(starts), -1),
                      starts.expand(len(begun), -1, -1)], 2).flatten(0, 1)
    logits = policy.decisions(problems, F.pad(rows, (0, 2), value=problems.pad), len(starts))
    logprobs = logits[:, length:length + size, -words:].float().log_softmax(-1)
    logprobs = logprobs.view(len(begun), len(starts), size, words)
    earlier = logprobs[:, :, :-1].gather(-1, (starts - first).expand(len(begun), -1, -1)[..., None])
    return (earlier[..., 0].sum(2, keepdim=True) + logprobs[:, :, -1]).flatten(1)
