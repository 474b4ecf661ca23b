"""A policy that writes its thought as text, and there its answer or then chooses an option."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment, rows_at_once
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.value_head import ValueHead
from ponder.tasks.choice.answers import letters_of
from ponder.tokenizers.vocabulary import TextVocabulary

Judge = Callable[[Problems, list[str], list[bool]], Tensor]


class ChoicePolicy(Policy):
    """Thinker and answerer are one language model, which chooses among the options of a question,
    or writes its answer.

    answer_mode: generated (the answer that the text gives), letter (the option whose letter is
    likeliest after the thought), or cloze (the option whose text is likeliest, its log p divided
    by `Problems.option_sizes`). reads: what finds and judges the answers in texts, as
    `tasks.choice.qa.Qa.judge` does.
    """

    answers_in_text = True
    vocabulary: TextVocabulary

    def __init__(self, net: Backbone, vocabulary: TextVocabulary, rules: Rules, answer: str,
                 critic: ValueHead | None = None, reference: Backbone | None = None,
                 compares: bool = False, reads: Judge = letters_of) -> None:
        super().__init__(net, None, vocabulary, rules, critic=critic, reference=reference,
                         compares=compares)
        self.answer_mode, self.reads = answer, reads

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(log p(answer | question, thought) (B,) in nats, whether the answer is right (B,)).

        A generated answer is part of the thought: its log p is 0.
        """
        logprob, right, _ = self.judge_thoughts(problems, thought, samples).unbind(1)
        return logprob, right >= 1

    def judge_thoughts(self, problems: Problems, thought: Tensor, samples: int,
                       mode: str | None = None) -> Tensor:
        """(B, 3): log p(answer), how right the answer is (1: right), and which one it is, as of
        `reads` (-1: none). mode: instead of `answer_mode`.

        Where there are other questions about a thought (`Problems.also`), the first two are means
        of all of them.
        """
        own = self._judged(problems, thought, samples, mode)
        others = [self._judged(one, thought, samples, mode) for one in problems.alternatives()]
        if others:
            own[:, :2] = torch.stack([own, *others])[..., :2].mean(0)
        return own

    def _judged(self, problems: Problems, thought: Tensor, samples: int,
                mode: str | None) -> Tensor:
        """`judge_thoughts` about the problems' own questions."""
        assert problems.label is not None
        if (mode or self.answer_mode) == "generated":
            found = self.read_answers(problems, thought, samples).to(thought.device)
            return torch.cat([torch.zeros_like(found[:, :1]), found], 1)
        label = problems.label.repeat_interleave(samples)
        total, score = self.options(problems, thought, samples, mode)
        choice, logprob = score.argmax(1), total.gather(1, label[:, None])[:, 0]
        return torch.stack([logprob, (choice == label).to(logprob), choice.to(logprob)], 1)

    def read_answers(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, 2): what `reads` says of the texts. One that nothing has ended was cut at its length
        limit.
        """
        words, room, rows = self.vocabulary, thought.shape[1] - 1, thought.tolist()
        return self.reads(problems, [words.text(row) for row in rows],
                          [words.truncated(row, room) for row in rows])

    @torch.no_grad()
    def options(self, problems: Problems, thought: Tensor, samples: int = 1,
                mode: str | None = None) -> tuple[Tensor, Tensor]:
        """(log p (B, C) of each option after the thought in nats, the score (B, C) that decides:
        for cloze the same over its size); -inf where a question has no such option. mode:
        instead of `answer_mode`.
        """
        assert problems.options is not None
        count, length = problems.options.shape[1:]
        order = (problems.question != problems.pad).sum(1).argsort()  # similar lengths together
        width = problems.question.shape[1] + samples * (thought.shape[1] + count * length)
        parts = [order[part] for part in rows_at_once(len(problems), width, thought.device)]
        found = self._in_turn("judging texts", parts, len(thought), lambda part: self._options(
            problems[part], _rows(thought, part, samples), samples))
        total = _rows(found, order.argsort(), samples)
        total = total.masked_fill(~problems.option_mask.repeat_interleave(samples, 0), -torch.inf)
        if (mode or self.answer_mode) != "cloze":
            return total, total
        assert problems.option_sizes is not None
        return total, total / problems.option_sizes.repeat_interleave(samples, 0)

    def _options(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """(B, C): log p of every option."""
        assert problems.options is not None
        options = problems.options.repeat_interleave(samples, 0)
        return self._likelihood(problems, thought, samples, options.flatten(0, 1)).view(
            options.shape[:2])

    def _likelihood(self, problems: Problems, thought: Tensor, samples: int, text: Tensor,
                    ) -> Tensor:
        """(N,): log p of texts (N, A) after question, thought and answer prefix, which are read
        once for all their texts; N is a multiple of B.
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
        """(B, A): the gold answers; None where an answer is part of the thought."""
        if self.answer_mode == "generated":
            return None
        return rollouts.problems.answer.repeat_interleave(rollouts.samples, 0)

    def _spoken(self, thought: Tensor, pad: int) -> Tensor:
        """(...,): whether what follows sees a token of thoughts (...,): no padding, no end."""
        return (thought != pad) & ~self.is_end(thought)

    def _states(self, rollouts: Rollouts, text: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """States (B, K, D) before each token of the thoughts, and (B, A, D) before each token of a
        text (B, A) after thought and answer prefix; in one pass where the answerer sees the
        question.
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
            found = net.read(row, mask, keep=False)[0][:, -text.shape[1]:]
            return self._before_each(net, problems, thought, samples), found
        hidden = net.after(problems, row, samples, row.shape[1] + 1, mask=mask)
        return hidden[:, :thought.shape[1] - 1], hidden[:, -text.shape[1]:]

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients, from one pass over thought and answer.
        """
        assert answer_thought is None, "the configuration check lets no such run begin"
        text = self._gold_text(rollouts)
        states, before_text = self._states(rollouts, text)
        logprobs, spread = self._chosen(self.thinker, rollouts, states, sampling)
        answer = logprobs.new_zeros(len(logprobs))
        if text is not None and before_text is not None:
            answer = self._of_text(self.thinker, before_text, text, rollouts.problems.pad).sum(1)
        return Scores(logprobs, spread, logprobs[..., None], answer,
                      self.values(rollouts, states))


def _rows(thought: Tensor, part: Tensor, samples: int) -> Tensor:
    """Those of the rows (B, ...) that belong to some problems."""
    return thought.unflatten(0, (-1, samples))[part].flatten(0, 1)
