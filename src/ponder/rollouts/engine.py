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

from ponder.core.math import Sampling, at_least_float32, distribution, draw, is_one_of
from ponder.core.types import Problems
from ponder.models.backbone import Segment, tokens_at_once
from ponder.models.huggingface.attention import Buffer
from ponder.models.huggingface.model import Model
from ponder.tokenizers.vocabulary import TextVocabulary

LEAVE = 8  # rows leave when one in so many has ended


@dataclass
class Flight:
    """N rows being decoded.

    row (N,) is the row of the result; question and sample (N,) say which question in flight it
    belongs to and which of its samples it is; hidden (N, D) is its last state; going (N,) is False
    for a row that has ended and not left yet.
    """

    questions: Segment
    buffer: Buffer
    row: Tensor
    question: Tensor
    sample: Tensor
    hidden: Tensor
    going: Tensor

    def join(self, other: Flight) -> Flight:
        """Concatenate two batches of rows."""
        first = len(self.questions.mask)
        questions = Segment.joined([self.questions, other.questions])
        return Flight(questions, self.buffer.join(other.buffer), torch.cat([self.row, other.row]),
                      torch.cat([self.question, other.question + first]),
                      torch.cat([self.sample, other.sample]),
                      torch.cat([self.hidden, other.hidden]), torch.cat([self.going, other.going]))

    def leave(self) -> tuple[Flight, Tensor]:
        """(the rows that go on, with their questions; their indices (n,))."""
        rows = self.going.nonzero()[:, 0]
        kept, question = self.question[rows].unique(return_inverse=True)
        return Flight(self.questions.select(kept), self.buffer.select(rows), self.row[rows],
                      question, self.sample[rows], self.hidden[rows], self.going[rows]), rows


@dataclass
class Writer:
    """Samples `samples` continuations of every problem, up to `room` tokens each, about `at_once`
    rows side by side; `heard` is called with how many tokens were sampled and rows have ended.

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
        nothing ended has `words.end` behind its last token. noise (B, room) lies in [0, 1).
        """
        rows, device = len(problems) * self.samples, problems.question.device
        tokens = torch.full((rows, self.room + 1), problems.pad, device=device)
        logprobs = torch.zeros(rows, self.room, device=device, dtype=torch.promote_types(
            torch.float32, self.net.dtype))
        lengths = (problems.question != problems.pad).sum(1)
        waiting = lengths.argsort(descending=True, stable=True)
        flight: Flight | None = None
        while flight is not None or len(waiting):
            flying = 0 if flight is None else len(flight.row)
            count = min(max((self.at_once - flying) // self.samples, int(flying == 0)),
                        len(waiting))
            if count:
                new = self._admit(problems, waiting[:count])
                flight, waiting = new if flight is None else flight.join(new), waiting[count:]
            assert flight is not None
            flight = self._step(flight, tokens, logprobs, noise)
        return tokens, logprobs

    def _admit(self, problems: Problems, which: Tensor) -> Flight:
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
        return Flight(Segment.joined(segments), buffer, rows, number, sample.repeat(len(which)),
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

    def _step(self, flight: Flight, tokens: Tensor, logprobs: Tensor, noise: Tensor,
              ) -> Flight | None:
        """One token more for every row; None when all have ended."""
        at = flight.buffer.at
        token, logprob = self._choose(flight.hidden, noise[flight.row, at])
        going = flight.going.nonzero()[:, 0]
        row, column = flight.row[going], at[going]
        tokens[row, column], logprobs[row, column] = token[going], logprob[going]
        ended = is_one_of(token, self.words.ends)
        full = going[(column + 1 == self.room) & ~ended[going]]
        tokens[flight.row[full], self.room] = self.words.end
        flight.going = flight.going & ~ended & (at + 1 < self.room)
        if self.words.stops:
            self._stop(flight, token, tokens)
        left = int(flight.going.sum())
        self.heard(len(going), len(going) - left)
        if left == 0:
            return None
        if (len(at) - left) * LEAVE >= len(at):
            flight, rows = flight.leave()
            token = token[rows]
        whole = len(flight.row) == len(flight.questions.mask) * self.samples
        places = None if whole else flight.question * self.samples + flight.sample
        at = flight.buffer.at
        flight.hidden = self.net.write(token, flight.buffer, [flight.questions],
                                       int(at.max()) + 1, places, self.samples)
        flight.buffer.at = torch.where(flight.going, flight.buffer.at, at)
        return flight

    def _stop(self, flight: Flight, token: Tensor, tokens: Tensor) -> None:
        """End the rows whose text has a stop string now, with `token` (N,) as its last one."""
        may = self.words.stop_tokens.to(token.device)[token] & flight.going
        for i in may.nonzero()[:, 0].tolist():
            flight.going[i] = not self.words.stopped(tokens[flight.row[i]].tolist())

    def _choose(self, hidden: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens (N,) and their log-probabilities (N,); noise (N,) decides."""
        logits = at_least_float32(self.net.logits(hidden))
        greedy = self.sampling.temperature == 0
        full = logits.log_softmax(-1) if greedy else distribution(logits, self.sampling)
        token = full.argmax(-1) if greedy else draw(full, noise)
        return token, full.gather(-1, token[:, None])[:, 0]
