"""A policy whose thoughts are text: a language model that writes rationales and answers questions.

The question is read once for its samples, thought and bridge once for the options of an answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ponder.maths import Sampling
from ponder.models.critic import Critic
from ponder.models.hf import TextModel
from ponder.models.policy import Policy, Rules
from ponder.models.segments import Segment
from ponder.tasks.answers import parse
from ponder.tasks.questions import LETTERS
from ponder.tokens import TextVocabulary
from ponder.types import Problems, Rollouts, Scores

TOKENS = 16_384  # tokens read at once where no gradient is wanted


class TextPolicy(Policy):
    """Thinker and answerer are one language model. `answer` says how a question is answered:
    generated (a letter in the text), letter or cloze (the likeliest option after the thought).

    The reference is a model of its own, or, with LoRA, the same one without its adapter.
    """

    vocabulary: TextVocabulary  # type: ignore[assignment]

    def __init__(self, net: TextModel, vocabulary: TextVocabulary, rules: Rules, answer: str,
                 critic: Critic | None = None, reference: TextModel | None = None,
                 leashed: bool = False) -> None:
        super().__init__(net, None, vocabulary, rules, False,  # type: ignore[arg-type]
                         critic, reference)  # type: ignore[arg-type]
        self.mode = answer
        self.leashed = leashed

    @property
    def net(self) -> TextModel:
        return self.thinker  # type: ignore[return-value]

    # --- the thinker ----------------------------------------------------------------------------

    def think(self, rollouts: Rollouts, sampling: Sampling,  # type: ignore[override]
              net: TextModel | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(logprobs (B, K), entropy (B, K), None) of the thoughts as written."""
        return *self._decisions(net or self.net, rollouts, sampling)[:2], None

    def _decisions(self, net: TextModel, rollouts: Rollouts, sampling: Sampling,
                   ) -> tuple[Tensor, Tensor, Tensor]:
        """(logprobs (B, K), entropy (B, K), states (B, K', D)) of every decision; K' is as many
        columns as are in use."""
        real = rollouts.mask[:, :-1]
        states = self._states(net, rollouts)
        used = real[:, :states.shape[1]]
        target = rollouts.thought[:, :states.shape[1]]
        found = states.new_zeros(*real.shape, 2, dtype=_precise(states))
        found[:, :states.shape[1]][used] = net.logprobs(states[used], target[used], sampling)
        return found[..., 0], found[..., 1], states

    @staticmethod
    def _states(net: TextModel, rollouts: Rollouts) -> Tensor:
        """(B, K', D): the states before each token of the thoughts."""
        problems, mask = rollouts.problems, rollouts.mask
        width = max(int(mask[:, :-1].sum(1).max()) if mask.shape[1] > 1 else 0, 1)
        first, segment = net.read(problems.question, problems.mask)
        first = first[:, -1:].repeat_interleave(rollouts.samples, 0)
        if width == 1:
            return first
        rest, _ = net.read(rollouts.thought[:, :width - 1], mask[:, :width - 1], [segment],
                           keep=False)
        return torch.cat([first, rest], 1)

    def values(self, rollouts: Rollouts) -> Tensor | None:
        """(B, K): what the critic expects before each token; None without one."""
        if self.critic is None:
            return None
        net: TextModel = self.critic.trunk or self.net  # type: ignore[assignment]
        return self._valued(self._states(net, rollouts), rollouts)

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
            rollouts.value = torch.cat([self.values(part) for part in parts])  # type: ignore[arg-type]
        if self.leashed:
            with self._as_reference() as net:
                rollouts.reference = torch.cat([self.think(part, sampling, net)[0]
                                                for part in parts])
        return rollouts

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[TextModel]:
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
        numbers = torch.arange(len(problems), device=rollouts.thought.device)
        for part in numbers.split(max(1, TOKENS // width)):
            yield rollouts[part]

    # --- the answerer ---------------------------------------------------------------------------

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,  # type: ignore[override]
               net: TextModel | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(log p(answer | question, thought) (B,) in nats, whether the answer is right (B,)).

        A generated answer is in the thought, and has no likelihood of its own: 0.
        """
        logprob, right, _ = self.judge_thoughts(problems, thought, samples).unbind(1)
        return logprob, right > 0

    def judge_thoughts(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, 3): what `answer` gives, and the option that is answered; -1 where none is."""
        assert problems.label is not None
        label = problems.label.repeat_interleave(samples)
        if self.mode == "generated":
            choice = self.read_letters(problems, thought, samples)
            logprob = torch.zeros(len(thought), device=thought.device)
        else:
            total, score = self.options(problems, thought, samples)
            choice, logprob = score.argmax(1), total.gather(1, label[:, None])[:, 0]
        return torch.stack([logprob, (choice == label).to(logprob), choice.to(logprob)], 1)

    def read_letters(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B,): the option whose letter a text gives as its answer; -1 where it gives none."""
        assert problems.options is not None
        counts = (problems.options != problems.pad).any(2).sum(1).repeat_interleave(samples)
        letters = [parse(self.vocabulary.text(tokens), LETTERS[:count]).letter
                   for tokens, count in zip(thought.tolist(), counts.tolist(), strict=True)]
        return torch.tensor([-1 if letter is None else LETTERS.index(letter)
                             for letter in letters], device=thought.device)

    @torch.no_grad()
    def options(self, problems: Problems, thought: Tensor, samples: int = 1,
                ) -> tuple[Tensor, Tensor]:
        """(log p (B, C) of each option's text after the thought, the same per byte of text for
        cloze); -inf where a question has no such option."""
        assert problems.options is not None
        numbers = torch.arange(len(problems), device=thought.device)
        count, length = problems.options.shape[1:]
        width = problems.question.shape[1] + samples * (thought.shape[1] + count * length)
        found = [self._options(problems[part], _rows(thought, part, samples), samples)
                 for part in numbers.split(max(1, TOKENS // width))]
        total = torch.cat(found)
        there = (problems.options != problems.pad).any(2).repeat_interleave(samples, 0)
        total = total.masked_fill(~there, -torch.inf)
        if self.mode != "cloze":
            return total, total
        sizes = self.vocabulary.sizes.to(thought.device)[problems.options]
        sizes = sizes.sum(2).clamp_min(1)
        return total, total / sizes.repeat_interleave(samples, 0)

    def _options(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, C): log p of every option."""
        assert problems.options is not None
        options = problems.options.repeat_interleave(samples, 0)
        return self._likelihood(problems, thought, samples, options.flatten(0, 1)).view(
            options.shape[:2])

    def _likelihood(self, problems: Problems, thought: Tensor, samples: int, text: Tensor,
                    ) -> Tensor:
        """(N,): log p of texts (N, A) behind question, thought and bridge; N a multiple of B."""
        assert problems.bridge is not None
        net, real = self.net, text != problems.pad
        bridge = problems.bridge.repeat_interleave(samples, 0)
        row = torch.cat([thought, bridge], 1)
        mask = torch.cat([(thought != problems.pad) & (thought != self.vocabulary.end),
                          bridge != problems.pad], 1)
        past: list[Segment] = []
        if not self.rules.sees_thought:
            mask[:, :thought.shape[1]] = False
        start = None
        if self.rules.sees_question:
            start, segment = net.read(problems.question, problems.mask)
            past.append(segment)
        before, segment = net.read(row, mask, past)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        if start is not None:  # where neither thought nor bridge says anything
            before = torch.cat([start[:, -1:].repeat_interleave(samples, 0), before], 1)
        else:
            last = (last - 1).clamp_min(0)
        states = before[torch.arange(len(row), device=row.device), last][:, None]
        states = states.repeat_interleave(len(text) // len(row), 0)
        width = int(real.sum(1).max())
        if width > 1:
            rest, _ = net.read(text[:, :width - 1], real[:, :width - 1], [*past, segment],
                               keep=False)
            states = torch.cat([states, rest], 1)
        used = real[:, :width]
        each = states.new_zeros(used.shape, dtype=_precise(states))
        each[used] = net.logprobs(states[used], text[:, :width][used], Sampling())[:, 0]
        return each.sum(1)

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients; that of an answer per token, so that
        it counts as much as a token of the thought.
        """
        logprobs, spread, states = self._decisions(self.net, rollouts, sampling)
        value = None
        if self.critic is not None:
            value = (self._valued(states, rollouts) if self.critic.trunk is None
                     else self.values(rollouts))
        answer = torch.zeros_like(logprobs[:, 0])
        if self.mode != "generated":
            problems = rollouts.problems
            text = problems.answer.repeat_interleave(rollouts.samples, 0)
            answer = self._likelihood(problems, rollouts.thought, rollouts.samples, text)
            answer = answer / (text != problems.pad).sum(1).clamp_min(1)
        return Scores(logprobs, spread, logprobs[..., None], answer, value)


def _precise(states: Tensor) -> torch.dtype:
    """Of log-probabilities: single precision at least."""
    return torch.promote_types(torch.float32, states.dtype)


def _rows(thought: Tensor, part: Tensor, samples: int) -> Tensor:
    """The thoughts of some problems."""
    return thought.view(-1, samples, thought.shape[1])[part].flatten(0, 1)
