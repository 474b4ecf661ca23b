"""The two players: a thinker that writes thoughts and an answerer that reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ponder.core.math import Sampling, at_least_float32, distribution, entropy, left_justify
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone
from ponder.models.value_head import Critic
from ponder.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Rules:
    """What is said about a thought: its length, its end, who sees what, what it is made of."""

    tokens: int
    stops: bool
    sees_question: bool = True
    sees_thought: bool = True
    writes: str = "thoughts"


class Policy(nn.Module):
    """Thinker and answerer over one vocabulary; they may be one network.

    answers_in_text says whether answers are in the same language as the thoughts, has_modes whether
    learning differs from all else, by dropout or checkpointing: then it is in the mode of
    evaluation but where it learns.

    judge is the network that scores thoughts: the answerer itself, or a frozen copy of it that
    `refresh` renews (the target network of Q-learning, Mnih et al. 2015).
    """

    answers_in_text = False
    has_modes = False

    def __init__(self, thinker: Backbone, answerer: Backbone | None, vocabulary: Vocabulary,
                 rules: Rules, frozen: bool = False, critic: Critic | None = None,
                 reference: Backbone | None = None) -> None:
        super().__init__()
        self.thinker = thinker
        self.answerer = thinker if answerer is None else answerer
        self.vocabulary = vocabulary
        self.rules = rules
        self.frozen = copy.deepcopy(self.answerer).requires_grad_(False) if frozen else None
        self.critic = critic
        self.reference = None if reference is None else reference.requires_grad_(False)

    @property
    def judge(self) -> Backbone:
        return self.frozen or self.answerer

    @property
    def attached(self) -> dict[str, nn.Module]:
        """Small modules that a checkpoint keeps beside the networks, by the names of attributes."""
        return {}

    def refresh(self) -> None:
        """Make the frozen judge equal to the answerer."""
        if self.frozen is not None:
            self.frozen.load_state_dict(self.answerer.state_dict())

    @property
    def end(self) -> int:
        """Id of what a thought ends with."""
        return self.vocabulary.end

    @property
    def allowed(self) -> slice:
        """Ids of the V tokens a thinker may choose from."""
        return self.vocabulary.allowed(self.rules.stops)

    # --- the thinker ----------------------------------------------------------------------------

    def decisions(self, problems: Problems, thought: Tensor, samples: int,
                  net: Backbone | None = None) -> Tensor:
        """Logits (B, K, V) of every decision of thoughts (B, K + 1), by the thinker or another net.

        The question is computed once for its samples; one sample a question is one plain sequence.
        """
        player = net or self.thinker
        return self._before_each(player, problems, thought, samples,
                                 lambda hidden: player.logits(hidden, self.allowed))

    @staticmethod
    def _before_each(net: Backbone, problems: Problems, thought: Tensor, samples: int,
                     read: Callable[[Tensor], Tensor]) -> Tensor:
        """What `read` makes of the states (B, K, D) before each token of thoughts (B, K + 1)."""
        count = thought.shape[1] - 1
        if count == 0:
            empty = torch.zeros(len(thought), 0, net.width, dtype=net.dtype, device=net.device)
            return read(empty)
        return net.after(problems, thought[:, :count - 1], samples, count, read)

    def _decisions_alike(self, problems: Problems, thought: Tensor, samples: int,
                         net: Backbone | None = None) -> Tensor:
        """`decisions` where every group holds the same thoughts: common beginnings count once.

        All thoughts of K tokens out of V have V^(K - 1) beginnings, a V-th of their number.
        """
        begun, which = thought[:samples, :-2].unique(dim=0, return_inverse=True)
        rows = nn.functional.pad(begun, (0, 2), value=problems.pad)
        logits = self.decisions(problems, rows.repeat(len(problems), 1), len(begun), net)
        return logits.unflatten(0, (len(problems), -1))[:, which].flatten(0, 1)

    def think(self, rollouts: Rollouts, sampling: Sampling, net: Backbone | None = None,
              ) -> tuple[Tensor, Tensor, Tensor]:
        """(logprobs (B, K), entropy (B, K), distribution (B, K, V)) of the thoughts as written."""
        alike = rollouts.same_thoughts and rollouts.thought.shape[1] > 2
        decisions = self._decisions_alike if alike else self.decisions
        return self._as_written(rollouts, sampling, decisions(
            rollouts.problems, rollouts.thought, rollouts.samples, net))

    def _as_written(self, rollouts: Rollouts, sampling: Sampling, logits: Tensor,
                    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `think` gives, of the logits (B, K, V) of all decisions."""
        thought, logits = rollouts.thought, at_least_float32(logits)
        taken = (thought[:, :-1] - self.allowed.start).clamp(0, logits.shape[-1] - 1)
        logprobs = distribution(logits, sampling, keep=taken)
        real = rollouts.mask[:, :-1]
        chosen = logprobs.gather(-1, taken[..., None])[..., 0].masked_fill(~real, 0.0)
        return chosen, entropy(logprobs) * real, logprobs

    def _think_and_value(self, rollouts: Rollouts, sampling: Sampling,
                         ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What `think` and `values` give, from one pass where a critic reads the same states."""
        critic, net = self.critic, self.thinker
        if critic is None or critic.trunk is not None or critic.reads != "token":
            return *self.think(rollouts, sampling), self.values(rollouts)

        def read(hidden: Tensor) -> Tensor:
            logits = at_least_float32(net.logits(hidden, self.allowed))
            return torch.cat([logits, critic(hidden)[..., None]], -1)

        both = self._before_each(net, rollouts.problems, rollouts.thought, rollouts.samples, read)
        return *self._as_written(rollouts, sampling, both[..., :-1]), both[..., -1]

    def values(self, rollouts: Rollouts) -> Tensor | None:
        """(B, K): what the critic expects before each token; None without one."""
        if self.critic is None:
            return None
        net, problems = self.critic.trunk or self.thinker, rollouts.problems
        count, samples = rollouts.thought.shape[1] - 1, rollouts.samples
        if self.critic.reads == "token":
            return self._before_each(net, problems, rollouts.thought, samples, self.critic)
        value = self.critic.of_question(net, problems.question, problems.mask)
        return value.repeat_interleave(samples)[:, None].expand(-1, count)

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """Note what the critic expected and how likely the reference finds the thoughts."""
        if rollouts.thought.shape[1] > 1:
            rollouts.value = self.values(rollouts)
            if self.reference is not None:
                rollouts.reference = self.think(rollouts, sampling, self.reference)[0]
        return rollouts

    def remarks(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Numbers (0-dim) for the log about rollouts with their credit."""
        return {}

    # --- the answerer ---------------------------------------------------------------------------

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int,
                      net: Backbone | None = None, ragged: bool | None = None) -> Tensor:
        """Logits (B, A, ordinary vocabulary) of the gold answer's tokens, given thoughts (B, T).

        The answerer's context is what `rules` lets it see; where the question is not in it,
        positions restart at 0. End-of-thought is always there: it says "answer now". ragged:
        whether thoughts differ in length (default: where the thinker stops by itself).
        """
        net = net or self.answerer
        answer = problems.answer[:, :-1].repeat_interleave(samples, 0)
        if not self.rules.sees_thought:
            thought = thought.new_full((len(thought), 1), self.vocabulary.end)
        row = torch.cat([thought, answer], 1)
        ragged = (self.rules.stops if ragged is None else ragged) and thought.shape[1] > 1
        row = left_justify(row, problems.pad) if ragged else row
        width = problems.answer.shape[1]
        if not ragged:
            hidden = self._context(net, problems, row, samples, width)
        else:
            start = (thought != problems.pad).sum(1, keepdim=True) - 1
            at = start + torch.arange(width, device=row.device)
            hidden = self._context(net, problems, row, samples, row.shape[1])
            hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        return at_least_float32(net.logits(hidden, slice(0, self.vocabulary.end)))

    def _context(self, net: Backbone, problems: Problems, row: Tensor, samples: int,
                 last: int) -> Tensor:
        """Last hidden states (B, last, D) of rows (B, T) behind the question, if it may be seen."""
        if not self.rules.sees_question:
            return net.read(row, last=last, keep=False)[0]
        return net.after(problems, row, samples, last)

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(log p(answer | context) (B,) in nats, whether the greedy answer is right (B,))."""
        logits = self.answer_logits(problems, thought, samples, net, ragged)
        gold = problems.answer.repeat_interleave(samples, 0)
        real = gold != problems.pad
        logprobs = logits.log_softmax(-1).gather(-1, gold[..., None])[..., 0]
        right = ((logits.argmax(-1) == gold) | ~real).all(1)
        return (logprobs * real).sum(1), right

    def unthinking(self, rollouts: Rollouts) -> Tensor:
        """(B,): log p(answer) by the judge with an empty thought, in nats."""
        problems = rollouts.problems
        empty = problems.answer.new_full((len(problems), 1), self.vocabulary.end)
        logprob, _ = self.answer(problems, empty, 1, self.judge)
        return logprob.repeat_interleave(rollouts.samples, 0)

    def reply(self, problems: Problems, thought: Tensor) -> Tensor:
        """Greedy answers (P, A) to P questions with one thought each."""
        filled = problems[:]
        filled.answer = problems.answer.clone()
        for column in range(problems.answer.shape[1]):
            logits = self.answer_logits(filled, thought, 1)
            filled.answer[:, column] = logits[:, column].argmax(-1)
        return filled.answer

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients.

        answer_thought (P, K + 1): the answerer learns from these thoughts, one a question, instead
        of the rollouts' own.
        """
        logprobs, spread, full, value = self._think_and_value(rollouts, sampling)
        if answer_thought is None:
            answer, _ = self.answer(rollouts.problems, rollouts.thought, rollouts.samples)
        else:
            answer, _ = self.answer(rollouts.problems, answer_thought)
        return Scores(logprobs, spread, full, answer, value)
