"""What every policy has in common: thinker, answerer, value head, reference, and how likely
thoughts are under them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ponder.core.math import (
    Sampling,
    at_least_float32,
    distribution,
    entropy,
    is_one_of,
    precise,
)
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, rows_at_once
from ponder.models.policies.value_head import ValueHead
from ponder.tokenizers.vocabulary import TextVocabulary, Vocabulary

Part = TypeVar("Part")
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rules:
    """What holds for every thought: at most so many tokens; whether it may end earlier; what the
    answerer sees; whether it consists of thought tokens, of text or of both (`writes`); whether it
    is always the same token, as often as there may be any (`filler`); whether the answerer's
    positions count from its end (`from_end`); how many tokens it has for each move of its question,
    where these decide its length (`pace`, else 0).
    """

    tokens: int
    stops: bool
    sees_question: bool = True
    sees_thought: bool = True
    writes: str = "thoughts"
    filler: bool = False
    from_end: bool = False
    pace: int = 0

    @property
    def ragged(self) -> bool:
        """Whether thoughts differ in length."""
        return self.stops or self.pace > 0


class Policy(nn.Module):
    """Thinker and answerer over one vocabulary; they may be one network.

    - judge: the network that scores thoughts, the answerer itself or a frozen copy of it that
      `refresh` renews (the target network of Q-learning, Mnih et al. 2015).
    - critic: the value head.
    - reference: the network that a KL penalty compares the thinker with. compares, without a
      reference: the thinker as it began, its adapters off.
    - on_progress: called with what is done to rows, how many are done, and how many there are.
    - answers_in_text: answers are learnt with the thoughts, as text.
    - answer_mode: how an answer is found, where there are several ways.
    - draws_vectors: thoughts are made while they are scored, with gradients.
    - thinks_in_vectors: thoughts are vectors, and no tokens.
    """

    answers_in_text = False
    answer_mode = ""
    draws_vectors = False
    thinks_in_vectors = False

    def __init__(self, thinker: Backbone, answerer: Backbone | None,
                 vocabulary: Vocabulary | TextVocabulary, rules: Rules, frozen: bool = False,
                 critic: ValueHead | None = None, reference: Backbone | None = None,
                 compares: bool = False) -> None:
        super().__init__()
        self.thinker = thinker
        self.answerer = thinker if answerer is None else answerer
        self.vocabulary = vocabulary
        self.rules = rules
        self.frozen = copy.deepcopy(self.answerer).requires_grad_(False) if frozen else None
        self.critic = critic
        self.reference = None if reference is None else reference.requires_grad_(False)
        self.compares = compares
        self.on_progress: OnProgress = lambda doing, rows, total: None

    @property
    def judge(self) -> Backbone:
        return self.frozen or self.answerer

    @property
    def has_modes(self) -> bool:
        """Whether training mode matters (dropout, checkpointing). Then the policy is in evaluation
        mode except where it learns.
        """
        return self.thinker.has_modes

    @property
    def attached(self) -> dict[str, nn.Module]:
        """Small modules that a checkpoint saves beside the networks, by attribute name."""
        return {}

    def refresh(self) -> None:
        """Make the frozen judge equal to the answerer."""
        if self.frozen is not None:
            self.frozen.load_state_dict(self.answerer.state_dict())

    @contextlib.contextmanager
    def ruled(self, **changes: Any) -> Iterator[None]:
        """With other rules for a while."""
        rules = self.rules
        self.rules = replace(rules, **changes)
        try:
            yield
        finally:
            self.rules = rules

    @property
    def end(self) -> int:
        """Id of the token that ends a thought; the first of them where there are several."""
        return self.vocabulary.end

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of all tokens that end a thought."""
        return self.vocabulary.ends

    def is_end(self, tokens: Tensor) -> Tensor:
        """(...,): whether tokens (...,) end a thought."""
        return is_one_of(tokens, self.ends)

    @property
    def allowed(self) -> slice:
        """Ids of the V tokens a thinker may choose from."""
        return self.vocabulary.allowed(self.rules.stops)

    # --- how likely thoughts are ----------------------------------------------------------------

    def decisions(self, problems: Problems, thought: Tensor, samples: int,
                  net: Backbone | None = None) -> Tensor:
        """Logits (B, K, V) of every decision of thoughts (B, K + 1), by the thinker or `net`."""
        player = net or self.thinker
        return self._before_each(player, problems, thought, samples,
                                 lambda hidden: player.logits(hidden, self.allowed))

    @staticmethod
    def _before_each(net: Backbone, problems: Problems, thought: Tensor, samples: int,
                     look: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Tensor:
        """`look` applied to the states (B, K, D) before each token of thoughts (B, K + 1)."""
        count = thought.shape[1] - 1
        if count == 0:
            return look(torch.zeros(len(thought), 0, net.width, dtype=net.dtype,
                                    device=thought.device))
        return net.after(problems, thought[:, :count - 1], samples, count, look)

    def _decisions_alike(self, problems: Problems, thought: Tensor, samples: int,
                         net: Backbone | None = None) -> Tensor:
        """`decisions` where every group holds the same thoughts: those that differ in their last
        token only are read once. All V^K thoughts of K tokens are V^(K - 1) such rows.
        """
        begun, which = thought[:samples, :-2].unique(dim=0, return_inverse=True)
        rows = nn.functional.pad(begun, (0, 2), value=problems.pad)
        logits = self.decisions(problems, rows.repeat(len(problems), 1), len(begun), net)
        return logits.unflatten(0, (len(problems), -1))[:, which].flatten(0, 1)

    def think(self, rollouts: Rollouts, sampling: Sampling, net: Backbone | None = None,
              ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(logprobs (B, K), entropy (B, K), distribution (B, K, V)) of given thoughts, in nats. No
        distribution where logits are computed in chunks.
        """
        player = net or self.thinker
        if player.chunked:
            states = self._before_each(player, rollouts.problems, rollouts.thought,
                                       rollouts.samples)
            return *self._chosen(player, rollouts, states, sampling), None
        alike = rollouts.same_thoughts and rollouts.thought.shape[1] > 2
        decisions = self._decisions_alike if alike else self.decisions
        return self._as_written(rollouts, sampling, decisions(
            rollouts.problems, rollouts.thought, rollouts.samples, net))

    def _as_written(self, rollouts: Rollouts, sampling: Sampling, logits: Tensor,
                    ) -> tuple[Tensor, Tensor, Tensor]:
        """`think`, from the logits (B, K, V) of all decisions."""
        thought, logits = rollouts.thought, at_least_float32(logits)
        taken = (thought[:, :-1] - self.allowed.start).clamp(0, logits.shape[-1] - 1)
        logprobs = distribution(logits, sampling, keep=taken)
        real = self._decided(rollouts)
        chosen = logprobs.gather(-1, taken[..., None])[..., 0].masked_fill(~real, 0.0)
        return chosen, entropy(logprobs) * real, logprobs

    def _decided(self, rollouts: Rollouts) -> Tensor:
        """(B, K): which tokens of thoughts a thinker decides on; not on the end of a paced one."""
        real = rollouts.mask[:, :-1]
        return real & ~self.is_end(rollouts.thought[:, :-1]) if self.rules.pace else real

    def _chosen(self, net: Backbone, rollouts: Rollouts, states: Tensor, sampling: Sampling,
                ) -> tuple[Tensor, Tensor]:
        """(logprobs (B, K), entropy (B, K)) of every decision, from the states (B, K', D) before
        it. K' <= K, where no row has more than K' tokens.
        """
        assert rollouts.under in (None, sampling), "rollouts are of another distribution"
        width = states.shape[1]
        real = self._decided(rollouts)
        used, target = real[:, :width], rollouts.thought[:, :width]
        found = states.new_zeros(*real.shape, 2, dtype=precise(states.dtype))
        found[:, :width][used] = net.logprobs(states[used], target[used], sampling,
                                              self.allowed).to(found.dtype)
        return found[..., 0], found[..., 1]

    @staticmethod
    def _of_text(net: Backbone, states: Tensor, text: Tensor, pad: int,
                 vocabulary: slice | None = None) -> Tensor:
        """(N, A): log p of each token of texts (N, A), given the states (N, A, D) before it, in
        nats; 0 on padding.
        """
        used = text != pad
        found = states.new_zeros(used.shape, dtype=precise(states.dtype))
        found[used] = -net.predict(states[used], text[used], vocabulary)[0].to(found.dtype)
        return found

    # --- value head and reference ---------------------------------------------------------------

    def _think_and_value(self, rollouts: Rollouts, sampling: Sampling,
                         ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """`think` and `values`, in one pass where the value head reads the thinker's states."""
        critic, net = self.critic, self.thinker
        if net.chunked:
            states = self._before_each(net, rollouts.problems, rollouts.thought, rollouts.samples)
            return (*self._chosen(net, rollouts, states, sampling), None,
                    self.values(rollouts, states))
        if critic is None or critic.trunk is not None or critic.reads != "token":
            return *self.think(rollouts, sampling), self.values(rollouts)

        def look(hidden: Tensor) -> Tensor:
            logits = at_least_float32(net.logits(hidden, self.allowed))
            return torch.cat([logits, critic(hidden)[..., None]], -1)

        both = self._before_each(net, rollouts.problems, rollouts.thought, rollouts.samples, look)
        return *self._as_written(rollouts, sampling, both[..., :-1]), both[..., -1]

    def values(self, rollouts: Rollouts, states: Tensor | None = None) -> Tensor | None:
        """(B, K): the value head's prediction before each token; None without one. states
        (B, K, D): the thinker's before each token, where they have been computed.
        """
        if self.critic is None:
            return None
        if states is not None and self.critic.trunk is None and self.critic.reads == "token":
            return self.critic(states)
        net, problems = self.critic.trunk or self.thinker, rollouts.problems
        count, samples = rollouts.thought.shape[1] - 1, rollouts.samples
        if self.critic.reads == "token":
            return self._before_each(net, problems, rollouts.thought, samples, self.critic)
        value = self.critic.of_question(net, problems.question, problems.mask)
        return value.repeat_interleave(samples)[:, None].expand(-1, count)

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """The rollouts with the value head's values, and log-probabilities under the reference, of
        the distribution `sampling`.
        """
        rollouts = replace(rollouts, under=sampling)
        if self.rules.pace:
            decided = self._decided(rollouts)
            rollouts = replace(rollouts, chosen=rollouts.chosen & decided,
                               learn=rollouts.learn & decided)
        if rollouts.thought.shape[1] == 1:
            return rollouts
        if self.critic is not None:
            rollouts = replace(rollouts, value=self._in_turn(
                "valuing texts", self._parts(rollouts), len(rollouts),
                lambda part: cast(Tensor, self.values(part))))
        if self.has_reference:
            with self.as_reference() as net:
                rollouts = replace(rollouts, reference=self.logprobs(rollouts, sampling, net))
        return rollouts

    @torch.no_grad()
    def logprobs(self, rollouts: Rollouts, sampling: Sampling, net: Backbone | None = None,
                 ) -> Tensor:
        """(B, K): log-probabilities of thoughts under the sampling distribution, by the thinker or
        `net`, a part of the rows at a time.
        """
        return self._in_turn("comparing texts", self._parts(rollouts), len(rollouts),
                             lambda part: self.think(part, sampling, net)[0])

    @property
    def has_reference(self) -> bool:
        """Whether the thinker is compared with a reference."""
        return self.compares or self.reference is not None

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[Backbone]:
        """The reference model: a network of its own, or the thinker with its adapters off."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.thinker.as_it_began():
                yield self.thinker

    def _in_turn(self, doing: str, parts: Iterable[Part], total: int,
                 look: Callable[[Part], Tensor]) -> Tensor:
        """`look` at each part of some rows, the results concatenated; `on_progress` is called."""
        found: list[Tensor] = []
        for part in parts:
            if self.thinker.chunked:
                self.on_progress(doing, sum(map(len, found)), total)
            found.append(look(part))
        if self.thinker.chunked:
            self.on_progress(doing, total, total)
        return torch.cat(found) if len(found) > 1 else found[0]

    def _parts(self, rollouts: Rollouts, whole_logits: bool = False) -> list[Rollouts]:
        """The rollouts in parts of whole groups, each read in one pass without gradients. Small
        networks take all in one part, unless `whole_logits`: all logits of a part are in memory.
        """
        if not (self.thinker.chunked or whole_logits):
            return [rollouts]
        problems = rollouts.problems
        width = problems.question.shape[1] + rollouts.samples * rollouts.thought.shape[1]
        words = 1 if self.thinker.chunked else self.vocabulary.predicted.stop
        return [rollouts[part] for part in rows_at_once(len(problems), width,
                                                        rollouts.thought.device, words)]

    def remarks(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """More numbers (0-dim) for the log, about rollouts with their credit."""
        return {}

    # --- answers --------------------------------------------------------------------------------

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(log p(answer | context) (B,) in nats, whether the answer is right (B,))."""
        raise NotImplementedError

    def unthinking(self, rollouts: Rollouts) -> Tensor:
        """(B,): log p(answer) by the judge with an empty thought, in nats."""
        problems = rollouts.problems
        empty = problems.answer.new_full((len(problems), 1), self.vocabulary.end)
        logprob, _ = self.answer(problems, empty, 1, self.judge)
        return logprob.repeat_interleave(rollouts.samples, 0)

    def answer_logits(self, problems: Problems, thought: Tensor, samples: int,
                      net: Backbone | None = None, ragged: bool | None = None) -> Tensor:
        """Logits (B, A, V) of the gold answer's tokens; only where answers are predicted."""
        raise NotImplementedError

    def reply(self, problems: Problems, thought: Tensor) -> Tensor:
        """Greedy answers (P, A); only where answers are predicted."""
        raise NotImplementedError

    def judge_thoughts(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, 3): log p(answer), how right it is (1: right), and which one it is (-1: none)."""
        logprob, right = self.answer(problems, thought, samples)
        return torch.stack([logprob, right.to(logprob), torch.full_like(logprob, -1)], 1)

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients.

        answer_thought (P, K + 1): the answerer learns from these thoughts, one for each question,
        instead of the rollouts' own. Log-probabilities of two distributions are never compared:
        `sampling` is that of the rollouts.
        """
        assert rollouts.under in (None, sampling), "rollouts are of another distribution"
        logprobs, spread, full, value = self._think_and_value(rollouts, sampling)
        if answer_thought is None:
            answer, _ = self.answer(rollouts.problems, rollouts.thought, rollouts.samples)
        else:
            answer, _ = self.answer(rollouts.problems, answer_thought)
        return Scores(logprobs, spread, logprobs[..., None] if full is None else full, answer,
                      value)
