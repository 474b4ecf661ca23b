"""A policy whose thoughts are text: a language model that writes rationales, then answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment, rows_at_once
from ponder.models.policies.base import Policy, Rules, ValueHead
from ponder.tasks.choice.answers import parse
from ponder.tasks.choice.questions import LETTERS
from ponder.tokenizers.vocabulary import TextVocabulary


class ChoicePolicy(Policy):
    """Thinker and answerer are one language model, which chooses among the options of a question.

    answer_mode says how: generated (a letter in the text), letter or cloze (the option whose text
    is likeliest after the thought; for cloze per byte of its text).
    """

    answers_in_text = True
    evaluation = "choice"
    vocabulary: TextVocabulary

    def __init__(self, net: Backbone, vocabulary: TextVocabulary, rules: Rules, answer: str,
                 critic: ValueHead | None = None, reference: Backbone | None = None,
                 compares: bool = False) -> None:
        super().__init__(net, None, vocabulary, rules, critic=critic, reference=reference,
                         compares=compares)
        self.answer_mode = answer

    @contextlib.contextmanager
    def answering(self, mode: str) -> Iterator[None]:
        """Questions are answered in another way for a while."""
        before, self.answer_mode = self.answer_mode, mode
        try:
            yield
        finally:
            self.answer_mode = before

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(log p(answer | question, thought) (B,) in nats, whether the answer is right (B,)).

        A generated answer is in the thought, and has no likelihood of its own: 0.
        """
        logprob, right, _ = self.judge_thoughts(problems, thought, samples).unbind(1)
        return logprob, right > 0

    def judge_thoughts(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, 3): what `answer` gives, and the option that is answered; -1 where none is."""
        assert problems.label is not None
        label = problems.label.repeat_interleave(samples)
        if self.answer_mode == "generated":
            choice = self.read_letters(problems, thought, samples)
            logprob = torch.zeros(len(thought), device=thought.device)
        else:
            total, score = self.options(problems, thought, samples)
            choice, logprob = score.argmax(1), total.gather(1, label[:, None])[:, 0]
        return torch.stack([logprob, (choice == label).to(logprob), choice.to(logprob)], 1)

    def read_letters(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B,): the option whose letter a text gives as its answer; -1 where it gives none. A text
        without an end of its own was cut at its length limit.
        """
        counts = problems.option_mask.sum(1).repeat_interleave(samples)
        words, room = self.vocabulary, thought.shape[1] - 1
        letters = [parse(words.text(tokens), LETTERS[:count], words.truncated(tokens, room)).letter
                   for tokens, count in zip(thought.tolist(), counts.tolist(), strict=True)]
        return torch.tensor([-1 if letter is None else LETTERS.index(letter)
                             for letter in letters], device=thought.device)

    @torch.no_grad()
    def options(self, problems: Problems, thought: Tensor, samples: int = 1,
                ) -> tuple[Tensor, Tensor]:
        """(log p (B, C) of each option's text after the thought, the same per byte of text for
        cloze); -inf where a question has no such option."""
        assert problems.options is not None
        count, length = problems.options.shape[1:]
        order = (problems.question != problems.pad).sum(1).argsort()  # alike lengths, few gaps
        width = problems.question.shape[1] + samples * (thought.shape[1] + count * length)
        parts = [order[part] for part in rows_at_once(len(problems), width, thought.device)]
        found = self._in_turn("judging", parts, len(thought), lambda part: self._options(
            problems[part], _rows(thought, part, samples), samples))
        total = _rows(found, order.argsort(), samples)
        total = total.masked_fill(~problems.option_mask.repeat_interleave(samples, 0), -torch.inf)
        if self.answer_mode != "cloze":
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
        """(N,): log p of texts (N, A) behind question, thought and bridge; N a multiple of B.

        Question, thought and bridge are read once for all texts behind them.
        """
        assert problems.answer_prefix is not None
        net, real = self.thinker, text != problems.pad
        bridge = problems.answer_prefix.repeat_interleave(samples, 0)
        row = torch.cat([thought, bridge], 1)
        mask = torch.cat([self._spoken(thought, problems.pad), bridge != problems.pad], 1)
        prefix: list[Segment] = []
        if not self.rules.sees_thought:
            mask[:, :thought.shape[1]] = False
        start = None
        if self.rules.sees_question:
            start, segment = net.read(problems.question, problems.mask, last=1)
            prefix.append(segment)
        before, segment = net.read(row, mask, prefix)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        if start is not None:  # where neither thought nor bridge says anything
            before = torch.cat([start.repeat_interleave(samples, 0), before], 1)
        else:
            last = (last - 1).clamp_min(0)
        states = before[torch.arange(len(row), device=row.device), last][:, None]
        states = states.repeat_interleave(len(text) // len(row), 0)
        width = max(int(real.sum(1).max()), 1)
        if width > 1:
            rest, _ = net.read(text[:, :width - 1], real[:, :width - 1], [*prefix, segment],
                               keep=False)
            states = torch.cat([states, rest], 1)
        return self._of_text(net, states, text[:, :width], problems.pad).sum(1)

    # --- learning -------------------------------------------------------------------------------

    def _gold_text(self, rollouts: Rollouts) -> Tensor | None:
        """(B, A): the gold answers; None where they are in the thought."""
        if self.answer_mode == "generated":
            return None
        return rollouts.problems.answer.repeat_interleave(rollouts.samples, 0)

    def _spoken(self, thought: Tensor, pad: int) -> Tensor:
        """(...,): whether a token of thoughts (...,) is seen by what follows: not its end."""
        return (thought != pad) & ~self.is_end(thought)

    def _states(self, rollouts: Rollouts, text: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """States (B, K, D) before each token of the thoughts, and (B, A, D) before each token of a
        text (B, A) behind thought and bridge; both from one pass where the question is seen.
        """
        problems, thought, samples = rollouts.problems, rollouts.thought, rollouts.samples
        net, count = self.thinker, max(thought.shape[1] - 1, 1)
        if text is None:
            return self._before_each(net, problems, thought, samples), None
        assert problems.answer_prefix is not None
        rest = torch.cat([problems.answer_prefix.repeat_interleave(samples, 0), text[:, :-1]], 1)
        row = torch.cat([thought[:, :count], rest], 1)
        mask = torch.cat([self._spoken(thought[:, :count], problems.pad), rest != problems.pad], 1)
        if not self.rules.sees_question:
            behind = net.read(row, mask, keep=False)[0][:, -text.shape[1]:]
            return self._before_each(net, problems, thought, samples), behind
        hidden = net.after(problems, row, samples, row.shape[1] + 1, mask=mask)
        return hidden[:, :thought.shape[1] - 1], hidden[:, -text.shape[1]:]

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients, from one pass over thought and answer.
        """
        assert answer_thought is None, "the configuration check lets no such run begin"
        text = self._gold_text(rollouts)
        states, behind = self._states(rollouts, text)
        logprobs, spread = self._chosen(self.thinker, rollouts, states, sampling)
        value = None
        if self.critic is not None:
            shared = self.critic.trunk is None and self.critic.reads == "token"
            value = self.critic(states) if shared else self.values(rollouts)
        answer = torch.zeros_like(logprobs[:, 0])
        if text is not None and behind is not None:
            answer = self._of_text(self.thinker, behind, text, rollouts.problems.pad).sum(1)
        return Scores(logprobs, spread, logprobs[..., None], answer, value)


def _rows(thought: Tensor, part: Tensor, samples: int) -> Tensor:
    """Those of the rows (B, ...) that belong to some problems."""
    return thought.unflatten(0, (-1, samples))[part].flatten(0, 1)
