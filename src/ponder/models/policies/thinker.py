"""A language model as thinker: it writes text, and its every token is a decision.

A question is read once for its samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import rows_at_once
from ponder.models.huggingface.model import Model
from ponder.models.policies.question import Policy, Rules
from ponder.models.value_head import Critic
from ponder.tokenizers.vocabulary import TextVocabulary

Part = TypeVar("Part")
Hearing = Callable[[str, int, int], None]


class TextThinker(Policy):
    """The half of `TextPolicy` that thinks: states, log-probabilities, values, the reference.

    The reference is a model of its own, or, with LoRA, the same one as it began. `heard` hears what
    is done with rows of text, of how many before it begins with more, and of how many in all.
    """

    answers_in_text = True
    has_modes = True
    mode = ""  # how a thought is judged, where there are several ways
    vocabulary: TextVocabulary  # type: ignore[assignment]

    def __init__(self, net: Model, vocabulary: TextVocabulary, rules: Rules,
                 critic: Critic | None = None, reference: Model | None = None,
                 leashed: bool = False) -> None:
        super().__init__(net, None, vocabulary, rules, False,  # type: ignore[arg-type]
                         critic, reference)  # type: ignore[arg-type]
        self.leashed = leashed
        self.heard: Hearing = lambda doing, rows, total: None

    @property
    def net(self) -> Model:
        return self.thinker  # type: ignore[return-value]

    def think(self, rollouts: Rollouts, sampling: Sampling,  # type: ignore[override]
              net: Model | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(logprobs (B, K), entropy (B, K), None) of the thoughts as written."""
        net = net or self.net
        return *self._decisions(net, rollouts, self._states(net, rollouts)[0], sampling), None

    @staticmethod
    def _decisions(net: Model, rollouts: Rollouts, states: Tensor, sampling: Sampling,
                   ) -> tuple[Tensor, Tensor]:
        """(logprobs (B, K), entropy (B, K)) of every decision, from the states (B, K', D) before
        it; behind K' nothing was written."""
        width = states.shape[1]
        real = rollouts.mask[:, :-1]
        used, target = real[:, :width], rollouts.thought[:, :width]
        found = states.new_zeros(*real.shape, 2, dtype=precise(states))
        found[:, :width][used] = net.logprobs(states[used], target[used], sampling).to(found.dtype)
        return found[..., 0], found[..., 1]

    def _states(self, net: Model, rollouts: Rollouts, text: Tensor | None = None,
                ) -> tuple[Tensor, Tensor | None]:
        """States (B, K', D) before each token of the thoughts, and (B, A, D) before each token of a
        text (B, A) behind thought and bridge. One sample a question is one sequence, read in one
        pass; several share the question.
        """
        problems, thought = rollouts.problems, rollouts.thought
        width = max(int(rollouts.mask[:, :-1].sum(1).max()) if thought.shape[1] > 1 else 0, 1)
        thought = thought[:, :width]
        said = (thought != problems.pad) & (thought != self.vocabulary.end)
        rest, shown = self._behind(problems, rollouts.samples, text) if text is not None else (
            thought[:, :0], said[:, :0])
        if text is not None and not self.rules.sees_question:
            row, mask = torch.cat([thought, rest], 1), torch.cat([said, shown], 1)
            answer = net.read(row, mask, keep=False)[0][:, -text.shape[1]:]
            return self._states(net, rollouts)[0], answer
        question = problems.question
        if rollouts.samples == 1:
            real = question != problems.pad
            hidden, _ = net.read(torch.cat([question, thought, rest], 1),
                                 torch.cat([real, said, shown], 1), keep=False)
            start = question.shape[1] - 1
        else:
            first, segment = net.read(question, problems.mask)
            hidden, _ = net.read(torch.cat([thought, rest], 1), torch.cat([said, shown], 1),
                                 [segment], keep=False)
            hidden = torch.cat([first[:, -1:].repeat_interleave(rollouts.samples, 0), hidden], 1)
            start = 0
        return hidden[:, start:start + width], (
            None if text is None else hidden[:, -text.shape[1]:])

    @staticmethod
    def _behind(problems: Problems, samples: int, text: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, mask) (B, W + A - 1) of what stands behind a thought: the bridge, and a text
        without its last token."""
        assert problems.answer_prefix is not None
        row = torch.cat([problems.answer_prefix.repeat_interleave(samples, 0), text[:, :-1]], 1)
        return row, row != problems.pad

    def judge_thoughts(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, 3): what `answer` gives, and the option that is answered; -1 where none is."""
        logprob, right = self.answer(problems, thought, samples)
        return torch.stack([logprob, right.to(logprob), torch.full_like(logprob, -1)], 1)

    def asked(self, rollouts: Rollouts) -> Tensor | None:
        """(B, A): the text behind thought and bridge that is learnt too; None where there is none.
        """
        return None

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients."""
        text = self.asked(rollouts)
        states, behind = self._states(self.net, rollouts, text)
        logprobs, spread = self._decisions(self.net, rollouts, states, sampling)
        value = None
        if self.critic is not None:
            value = (self._valued(states, rollouts) if self.critic.trunk is None
                     else self.values(rollouts))
        answer = torch.zeros_like(logprobs[:, 0])
        if text is not None and behind is not None:
            answer = self._of_text(text, behind)
        return Scores(logprobs, spread, logprobs[..., None], answer, value)

    def _of_text(self, text: Tensor, states: Tensor) -> Tensor:
        """(N,): log p of texts (N, A), given the states (N, A, D) before their tokens."""
        used = text != self.vocabulary.pad
        each = states.new_zeros(used.shape, dtype=precise(states))
        each[used] = self.net.logprobs(states[used], text[used], Sampling())[:, 0].to(each.dtype)
        return each.sum(1)

    def values(self, rollouts: Rollouts) -> Tensor | None:
        """(B, K): what the critic expects before each token; None without one."""
        if self.critic is None:
            return None
        net: Model = self.critic.trunk or self.net  # type: ignore[assignment]
        return self._valued(self._states(net, rollouts)[0], rollouts)

    def _valued(self, states: Tensor, rollouts: Rollouts) -> Tensor:
        """(B, K): the critic's values of states (B, K', D), 0 behind them."""
        assert self.critic is not None
        if self.critic.reads != "token":  # of the question: its last state
            states = states[:, :1].expand(-1, rollouts.thought.shape[1] - 1, -1)
        value = self.critic(states)
        missing = rollouts.thought.shape[1] - 1 - value.shape[1]
        return torch.nn.functional.pad(value, (0, missing))

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """Note what the critic expected and how likely the reference finds the thoughts."""
        parts = list(self._parts(rollouts))
        if self.critic is not None:
            rollouts.value = self._in_turn("valuing", parts, len(rollouts), self.values)  # type: ignore[arg-type]
        if self.leashed:
            with self._as_reference() as net:
                rollouts.reference = self._in_turn(
                    "comparing", parts, len(rollouts),
                    lambda part: self.think(part, sampling, net)[0])
        return rollouts

    def _in_turn(self, doing: str, parts: Iterable[Part], total: int,
                 look: Callable[[Part], Tensor]) -> Tensor:
        """What is found in the parts of some rows, one below the other; `heard` hears of each."""
        found: list[Tensor] = []
        for part in parts:
            self.heard(doing, sum(map(len, found)), total)
            found.append(look(part))
        self.heard(doing, total, total)
        return torch.cat(found)

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Model]:
        if self.reference is not None:
            yield self.reference  # type: ignore[misc]
        else:
            with self.net.as_it_began():
                yield self.net

    @staticmethod
    def _parts(rollouts: Rollouts) -> Iterator[Rollouts]:
        """The rollouts in parts of whole groups, as many as may be read at once."""
        problems = rollouts.problems
        width = problems.question.shape[1] + rollouts.samples * rollouts.thought.shape[1]
        for part in rows_at_once(len(problems), width, rollouts.thought.device):
            yield rollouts[part]


def precise(states: Tensor) -> torch.dtype:
    """Of log-probabilities: single precision at least."""
    return torch.promote_types(torch.float32, states.dtype)
