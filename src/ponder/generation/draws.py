"""Texts drawn token by token; those that have ended leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ponder.core.math import Sampling, distribution, draw
from ponder.generation.language import Language, Text

Step = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def draws(language: Language, prompt: list[int], sampling: Sampling, samples: int, room: int,
          random: torch.Generator) -> Iterator[Step]:
    """Every step of `samples` texts of at most `room` tokens behind a prompt: (which texts (n,),
    their next tokens (n,), the log-probabilities (n,) of these under the language itself).

    temperature 0 takes the likeliest token. A text's random numbers are its own, so that company
    changes nothing but rounding.
    """
    noise = torch.rand(samples, room, generator=random)
    begun = language.begin(prompt)
    logprobs = begun.expand(samples, -1)
    which = torch.arange(samples, device=logprobs.device)
    rows = which.clamp_max(len(begun) - 1)  # one text that has begun is that of all
    ends = torch.tensor(language.ends, dtype=torch.long, device=logprobs.device)
    noise = noise.to(logprobs.device)
    for step in range(room):
        if sampling.temperature == 0:
            token = logprobs.argmax(-1)
        else:
            token = draw(distribution(logprobs, sampling), noise[which, step])
        yield which, token, logprobs.gather(1, token[:, None])[:, 0]
        going = (~torch.isin(token, ends)).nonzero()[:, 0]
        if len(going) == 0 or step == room - 1:
            return
        logprobs = language.append(rows[going], token[going])
        which = which[going]
        rows = torch.arange(len(which), device=which.device)


def collected(steps: Iterable[Step], samples: int, ends: tuple[int, ...]) -> list[Text]:
    """The texts that steps make."""
    tokens: list[list[int]] = [[] for _ in range(samples)]
    logprob = [0.0] * samples
    for which, token, value in steps:
        for row, one, more in zip(which.tolist(), token.tolist(), value.tolist(), strict=True):
            tokens[row].append(one)
            logprob[row] += more
    return [Text(text, total, bool(text) and text[-1] in ends)
            for text, total in zip(tokens, logprob, strict=True)]
