"""Our own decoding engine (continuous batching): each question is read once for its samples, and
rows that end make room for new ones.

A row's tokens are determined by random numbers of its own, so that neither the order of rows nor
which rows are decoded together changes them (but for rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ponder.core.math import Sampling, draw_tokens, is_one_of, precise
from ponder.core.types import Problems
from ponder.models.backbone import Segment, tokens_at_once
from ponder.models.huggingface.attention import Buffer
from ponder.models.huggingface.model import Model
from ponder.tokenizers.vocabulary import TextVocabulary

FINISHED_SHARE = 8  # finished rows are dropped when one in so many has ended


@dataclass
class ActiveRows:
    """N rows being decoded.

    row (N,) is the row of the result; question and sample (N,) say which active question it
    belongs to and which of its samples it is; hidden (N, D) is its last state; going (N,) is False
    for a row that has finished and is still there.
    """

    questions: Segment
    buffer: Buffer
    row: Tensor
    question: Tensor
    sample: Tensor
    hidden: Tensor
    going: Tensor

    def join(self, other: ActiveRows) -> ActiveRows:
        """Concatenate two batches of rows, of which the other has not written yet."""
        first = len(self.questions.mask)
        questions = Segment.joined([self.questions, other.questions])
        return ActiveRows(questions, self.buffer.add_rows(len(other.row)),
                          torch.cat([self.row, other.row]),
                          torch.cat([self.question, other.question + first]),
                          torch.cat([self.sample, other.sample]),
                          torch.cat([self.hidden, other.hidden]),
                          torch.cat([self.going, other.going]))

    def without_finished(self) -> tuple[ActiveRows, Tensor]:
        """(the rows that go on, with their questions; their indices (n,))."""
        rows = self.going.nonzero()[:, 0]
        kept, question = self.question[rows].unique(return_inverse=True)
        return ActiveRows(self.questions.select(kept), self.buffer.select(rows), self.row[rows],
                          question, self.sample[rows], self.hidden[rows], self.going[rows]), rows


@dataclass
class Writer:
    """Samples `samples` continuations of every problem, up to `room` tokens each, about `at_once`
    rows side by side; `heard` is called after each step with the numbers of tokens sampled and of
    rows that have ended.

    A row ends with any of the tokens `words.ends`, or where its text has one of `words.stops`.
    """

    net: Model
    words: TextVocabulary
    samples: int
    room: int
    sampling: Sampling
    at_once: int = 256
    heard: Callable[[int, int], None] = lambda tokens, rows: None

    @torch.no_grad()
    def write(self, problems: Problems, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens (B, room + 1), log-probabilities (B, room)) of B = P * samples rows.

        A row holds what was written up to and including what ended it, then padding; a row that
        nothing ended has `words.end` after its last token. noise (B, room) lies in [0, 1).
        """
        rows, device = len(problems) * self.samples, problems.question.device
        tokens = torch.full((rows, self.room + 1), problems.pad, device=device)
        logprobs = torch.zeros(rows, self.room, device=device, dtype=precise(self.net.dtype))
        lengths = (problems.question != problems.pad).sum(1)
        waiting = lengths.argsort(descending=True, stable=True)
        active: ActiveRows | None = None
        while active is not None or len(waiting):
            now = 0 if active is None else len(active.row)
            count = min(max((self.at_once - now) // self.samples, int(now == 0)), len(waiting))
            if count:
                new = self._start(problems, waiting[:count])
                active, waiting = new if active is None else active.join(new), waiting[count:]
            assert active is not None
            active = self._step(active, tokens, logprobs, noise)
        return tokens, logprobs

    def _start(self, problems: Problems, which: Tensor) -> ActiveRows:
        """Read some questions (p,) and begin their rows."""
        segments, states = [], []
        for part in self._parts(problems, which):
            question = problems.question[part]
            hidden, segment = self.net.read(question, question != problems.pad)
            segments.append(segment)
            states.append(hidden[:, -1])
        sample = torch.arange(self.samples, device=which.device)
        rows = (which[:, None] * self.samples + sample).flatten()
        number = torch.arange(len(which), device=which.device).repeat_interleave(self.samples)
        buffer = Buffer(self.room, torch.zeros_like(rows))
        return ActiveRows(Segment.joined(segments), buffer, rows, number, sample.repeat(len(which)),
                          torch.cat(states).repeat_interleave(self.samples, 0),
                          torch.ones_like(rows, dtype=torch.bool))

    @staticmethod
    def _parts(problems: Problems, which: Tensor) -> Iterator[Tensor]:
        """Questions (p,), longest first, as many at a time as are read at once."""
        room = tokens_at_once(which.device)
        while len(which):
            longest = int((problems.question[which[0]] != problems.pad).sum())
            count = max(room // max(longest, 1), 1)
            yield which[:count]
            which = which[count:]

    def _step(self, active: ActiveRows, tokens: Tensor, logprobs: Tensor, noise: Tensor,
              ) -> ActiveRows | None:
        """One token more for every row; None when all have ended."""
        at = active.buffer.at
        token, logprob = draw_tokens(self.net.logits(active.hidden), self.sampling,
                                     noise[active.row, at])
        going = active.going.nonzero()[:, 0]
        row, column = active.row[going], at[going]
        tokens[row, column], logprobs[row, column] = token[going], logprob[going]
        ended = is_one_of(token, self.words.ends)
        full = going[(column + 1 == self.room) & ~ended[going]]
        tokens[active.row[full], self.room] = self.words.end
        active.going = active.going & ~ended & (at + 1 < self.room)
        if self.words.stops:
            self._stop(active, token, tokens)
        left = int(active.going.sum())
        self.heard(len(going), len(going) - left)
        if left == 0:
            return None
        if (len(at) - left) * FINISHED_SHARE >= len(at):
            active, rows = active.without_finished()
            token = token[rows]
        whole = len(active.row) == len(active.questions.mask) * self.samples
        places = None if whole else active.question * self.samples + active.sample
        at = active.buffer.at
        active.hidden = self.net.write(token, active.buffer, active.questions,
                                       int(at.max()) + 1, places, self.samples)
        active.buffer.at = torch.where(active.going, active.buffer.at, at)
        return active

    def _stop(self, active: ActiveRows, token: Tensor, tokens: Tensor) -> None:
        """End the rows whose text has a stop string now, with `token` (N,) as its last one."""
        may = self.words.stop_tokens.to(token.device)[token] & active.going
        for i in may.nonzero()[:, 0].tolist():
            active.going[i] = not self.words.stopped(tokens[active.row[i]].tolist())
