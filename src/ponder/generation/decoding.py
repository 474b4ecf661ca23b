r"""Decoding over any language model: sampling, beam search, and tokens as text while they come.

Beam search looks for the completions Y of at most `max_tokens` tokens with the largest

.. math:: s(Y) = \log p(Y | X) / |Y|^\alpha

where X is the prompt and |Y| counts the tokens after it, the end token included. Search and
length penalty are those of `generate` in transformers: same completions, same scores. It is not the
penalty of Wu et al. 2016 (arXiv:1609.08144, equation 14), ((5 + |Y|) / 6)^alpha, nor their stopping
rule.
Left out: sampled, constrained and grouped beams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ponder.core.math import Sampling, distribution, draw
from ponder.tokenizers.vocabulary import END, TORN, pieces

OPEN = "<think>"  # models that think in words do so between this tag and </think>
MAX_BYTES = 4  # of a character in UTF-8; each of its tokens has at least one of them
GIVE_UP = 12  # so many tokens without a whole character are shown as they are
_TAG = re.compile(r"(</?\w+>)")
_TAG_PREFIX = re.compile(r"<(/?\w{0,16})?$")


class LanguageModel(Protocol):
    """Gives the distribution of the next token of N texts that grow together.

    Log-probabilities are in nats, -inf for tokens that may not come. `ends` are the tokens that end
    a text.
    """

    ends: tuple[int, ...]

    def start(self, prompt: list[int]) -> Tensor:
        """Begin one text with a prompt: log-probabilities (1, V) of the next token. A model that
        thinks may begin several texts with the same prompt, (N, V), each with its own thought.
        """
        ...

    def extend(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Keep the texts with the indices rows (N,), in this order and as often as each occurs, and
        append a token (N,) to each: log-probabilities (N, V) of the next one.
        """
        ...


@dataclass(frozen=True)
class Completion:
    """What was generated after a prompt.

    tokens include the end token where one came (`ended`); logprob is the sum of the tokens'
    log-probabilities under the model itself, in nats; score is what a beam search ranked it by.
    """

    tokens: list[int]
    logprob: float
    ended: bool
    score: float | None = None


# --- sampling -----------------------------------------------------------------------------------

Step = tuple[Tensor, Tensor, Tensor]  # (indices of texts, their next tokens, log-probabilities)


@torch.no_grad()
def sample_steps(model: LanguageModel, prompt: list[int], sampling: Sampling, samples: int,
                 max_tokens: int, random: torch.Generator) -> Iterator[Step]:
    """Sample `samples` completions side by side and yield every step: (indices (n,) of the texts
    that are not finished, their next tokens (n,), the log-probabilities (n,) of these under the
    model itself, whatever the sampling).

    Temperature 0 takes the most likely token. Each text has its own random numbers, so the number
    of texts beside it changes nothing but rounding.
    """
    noise = torch.rand(samples, max_tokens, generator=random)
    first = model.start(prompt)
    logprobs = first.expand(samples, -1)
    which = torch.arange(samples, device=logprobs.device)
    rows = which.clamp_max(len(first) - 1)  # all texts continue the one row of the prompt
    ends = torch.tensor(model.ends, dtype=torch.long, device=logprobs.device)
    noise = noise.to(logprobs.device)
    for step in range(max_tokens):
        if sampling.temperature == 0:
            token = logprobs.argmax(-1)
        else:
            token = draw(distribution(logprobs, sampling), noise[which, step])
        yield which, token, logprobs.gather(1, token[:, None])[:, 0]
        unfinished = (~torch.isin(token, ends)).nonzero()[:, 0]
        if len(unfinished) == 0 or step == max_tokens - 1:
            return
        logprobs = model.extend(rows[unfinished], token[unfinished])
        which = which[unfinished]
        rows = torch.arange(len(which), device=which.device)


def completions_of(steps: Iterable[Step], samples: int, ends: tuple[int, ...]) -> list[Completion]:
    """The `samples` completions that the steps of `sample_steps` add up to."""
    tokens: list[list[int]] = [[] for _ in range(samples)]
    total = [0.0] * samples
    for which, token, logprob in steps:
        for row, one, value in zip(which.tolist(), token.tolist(), logprob.tolist(), strict=True):
            tokens[row].append(one)
            total[row] += value
    return [Completion(text, logprob, bool(text) and text[-1] in ends)
            for text, logprob in zip(tokens, total, strict=True)]


# --- beam search --------------------------------------------------------------------------------


@dataclass(frozen=True)
class BeamSearch:
    """Number of beams, exponent alpha of the length penalty, and when to stop.

    stopping is `early_stopping` of transformers: "first" (True) as soon as as many texts as beams
    have ended; "bound" (False) when, besides, the most likely unfinished text would score no more
    than the worst of these if it ended at its present length; "exact" ("never") when it would not
    at any length.
    """

    beams: int
    length_penalty: float = 1.0
    stopping: str = "bound"

    def score(self, logprob: float, length: int) -> float:
        return logprob / length ** self.length_penalty

    def is_done(self, ended: list[Completion], best: float, length: int, max_tokens: int) -> bool:
        """Whether no unfinished text can improve the result. ended is sorted, best first; best is
        the log-probability of the most likely unfinished text, which has `length` tokens.
        """
        if len(ended) < self.beams:
            return False
        if self.stopping == "first":
            return True
        longest = self.stopping == "exact" and self.length_penalty > 0
        bound = self.score(best, max_tokens if longest else length)
        return bound <= (ended[-1].score or 0.0)


@torch.no_grad()
def beam_search(model: LanguageModel, prompt: list[int], search: BeamSearch, max_tokens: int,
                ) -> list[Completion]:
    """Up to `search.beams` completions of a prompt, the best first.

    Every step considers the most likely continuations of all beams: (1 + number of end tokens) per
    beam, but at least 2. Of the first `beams` of these, those that end are results; the first
    `beams` of those that do not end are the next beams. At `max_tokens` tokens all end.
    """
    logprobs = model.start(prompt)
    total = logprobs.new_zeros(1)
    tokens = torch.empty(1, 0, dtype=torch.long, device=logprobs.device)
    ends = torch.tensor(model.ends, dtype=torch.long, device=logprobs.device)
    width = search.beams * max(2, 1 + len(model.ends))
    found: list[Completion] = []
    for length in range(1, max_tokens + 1):
        row, token, value = _most_likely(total[:, None] + logprobs, width)
        tokens = torch.cat([tokens[row], token[:, None]], 1)
        ended = torch.isin(token, ends)
        finished = ended | (length == max_tokens)
        for index in finished[:search.beams].nonzero()[:, 0].tolist():
            logprob = float(value[index])
            found.append(Completion(tokens[index].tolist(), logprob, bool(ended[index]),
                                    search.score(logprob, length)))
        found = best_first(found)[:search.beams]
        going = (~finished).nonzero()[:search.beams, 0]
        if len(going) == 0 or search.is_done(found, float(value[going[0]]), length, max_tokens):
            break
        tokens, total = tokens[going], value[going]
        logprobs = model.extend(row[going], token[going])
    return found


def best_first(completions: list[Completion]) -> list[Completion]:
    """Completions of a beam search by score, the largest first."""
    return sorted(completions, key=lambda one: -(one.score or 0.0))


def _most_likely(total: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(row, token, value), each (n,), of the n <= count largest of (N, V), the largest first,
    without those of probability 0.
    """
    value, index = total.flatten().topk(min(count, total.numel()))
    possible = value > -torch.inf
    value, index = value[possible], index[possible]
    return index // total.shape[1], index % total.shape[1], value


# --- from tokens to text ------------------------------------------------------------------------


class Part(NamedTuple):
    """A piece of decoded text. kind is ordinary, thought or special, as in `vocabulary.pieces`, or
    number: an annotation of a thought.
    """

    text: str
    kind: str


class StreamDecoder:
    """Decodes one text whose tokens are added one by one.

    decode: turns tokens into text.
    thinking: whether the text begins inside a thought.
    separate: whether a token is decoded by itself, and the text around it as if it were not there:
        a thought token among the bytes of a word.
    annotation: what is shown in parentheses after the n-th token, or "".
    """

    def __init__(self, decode: Callable[[list[int]], str], thinking: bool = False,
                 separate: Callable[[int], bool] = lambda token: False,
                 annotation: Callable[[int], str] = lambda number: "") -> None:
        self.decode, self.thinking = decode, thinking
        self.separate, self.annotation = separate, annotation
        self.count = 0
        self.tokens: list[int] = []
        # Tokens before `start` are finished; the text of those from `start` to `shown` is shown.
        self.start = self.shown = 0
        self.pending = ""  # text that may be the beginning of a tag

    def add(self, token: int) -> list[Part]:
        """The parts that no later token can change any more."""
        note = self.annotation(self.count)
        annotation = [Part(f"({note})", "number")] if note else []
        self.count += 1
        if self.separate(token):
            before, self.pending = self.pending, ""
            return [*self._parts(before), *self._parts(self.decode([token])), *annotation]
        self.tokens.append(token)
        self.pending += self._text(self._whole())
        prefix = _TAG_PREFIX.search(self.pending)
        certain = self.pending[:prefix.start()] if prefix else self.pending
        self.pending = self.pending[len(certain):]
        return [*self._parts(certain), *annotation]

    def end(self) -> list[Part]:
        """The parts that are left when no more tokens come."""
        rest, self.pending = self.pending + self._text(len(self.tokens)), ""
        return self._parts(rest)

    def all(self, tokens: Iterable[int]) -> list[Part]:
        """The parts of a whole text."""
        return [*(part for token in tokens for part in self.add(token)), *self.end()]

    def _text(self, end: int) -> str:
        """What the tokens from `shown` to `end` add to the text. The last shown ones are decoded
        with them, because a tokenizer's spaces depend on neighbouring tokens.
        """
        before = self.decode(self.tokens[self.start:self.shown])
        text = self.decode(self.tokens[self.start:end])
        if len(text) <= len(before):
            return ""
        self.start, self.shown = self.shown, end
        return text[len(before):]

    def _whole(self) -> int:
        """Index at which to cut the tokens so that no later token changes the text before it: after
        the last one, or before the incomplete character at their end.
        """
        shown, end = self.shown, len(self.tokens)
        text = self.decode(self.tokens[shown:])
        if not text.endswith(TORN) or end - shown >= GIVE_UP:
            return end
        if end - shown < MAX_BYTES:
            return shown
        cuts = (cut for cut in range(end - MAX_BYTES + 1, end)
                if self.decode(self.tokens[shown:cut]) + self.decode(self.tokens[cut:]) == text)
        return next(cuts, shown)

    def _parts(self, text: str) -> list[Part]:
        found = []
        for piece in filter(None, _TAG.split(text)):
            kind = pieces(piece)[0][1] if _TAG.fullmatch(piece) else "ordinary"
            if piece in (OPEN, END):
                self.thinking, kind = piece == OPEN, "special"
            elif self.thinking and kind == "ordinary":
                kind = "thought"
            found.append(Part(piece, kind))
        return found


def ordinary_text(parts: Iterable[Part]) -> str:
    """The text of some parts without thoughts and special tokens."""
    return "".join(part.text for part in parts if part.kind == "ordinary")


def thought_text(parts: Iterable[Part]) -> str:
    """The thoughts of some parts, with a space between one and the next."""
    found = [""]
    for part in parts:
        if part.text == END:
            found.append("")
        elif part.kind == "thought":
            found[-1] += part.text
    return " ".join(found if found[-1] else found[:-1])
