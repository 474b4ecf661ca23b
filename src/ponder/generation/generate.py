"""action=generate: one prompt, and how a checkpoint goes on from it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ponder.config.errors import UserError
from ponder.config.spine import Config
from ponder.generation.build import build_speaker
from ponder.generation.language import Text
from ponder.generation.page import Page
from ponder.generation.speakers import Speaker, Token
from ponder.generation.spelled import spelt, thoughts
from ponder.tasks.base import write_table


def generate(config: Config) -> None:
    """Show the texts behind `prompt`, a single one as it is written, and write them to `out`."""
    speaker, page, asked = build_speaker(config), Page(config.generate.thoughts), config.prompt
    assert asked is not None, "the configuration check lets no such run begin"
    prompt = speaker.prompt(written(asked))
    begun = time.monotonic()
    if config.generate.beams or config.generate.samples > 1:
        texts = several(speaker, prompt, config)
        seconds = time.monotonic() - begun
        for number, text in enumerate(texts, 1):
            page.line(f"{number} of {len(texts)}: {figures(speaker, text)}")
            show_prompt(page, speaker, asked)
            page.parts(spelt(speaker.spelling(prompt), text.tokens))
        page.close()
    else:
        show_prompt(page, speaker, asked)
        random = torch.Generator().manual_seed(config.seed)
        texts = [streamed(page, speaker, prompt, speaker.stream(prompt, config.generate, random))]
        seconds = time.monotonic() - begun
    count = sum(len(text.tokens) for text in texts)
    alone = len(texts) == 1 and not config.generate.beams
    single = f"{figures(speaker, texts[0])}; " if alone else ""
    page.line(f"{single}{seconds:.2f} s, {count / max(seconds, 1e-9):.0f} tokens a second")
    if speaker.slid:
        page.note(slid(speaker))
    if config.out:
        save(Path(config.out), [row(speaker, asked, prompt, text) for text in texts])
        page.note(f"{len(texts)} text{'s' * (len(texts) != 1)} written to {config.out}")


def several(speaker: Speaker, prompt: list[int], config: Config) -> list[Text]:
    """Samples, or the best of a beam search."""
    if config.generate.beams:
        return speaker.search(prompt, config.generate)[:config.generate.samples]
    random = torch.Generator().manual_seed(config.seed)
    return speaker.sample(prompt, config.generate, random)


def streamed(page: Page, speaker: Speaker, prompt: list[int], tokens: Iterable[Token]) -> Text:
    """Show a text as it is written."""
    spelling, said, logprob = speaker.spelling(prompt), [], 0.0
    try:
        for token, value in tokens:
            said.append(token)
            logprob += value
            page.parts(spelling.add(token))
    finally:
        page.parts(spelling.end())
        page.close()
    return Text(said, logprob, not speaker.ends or bool(said and said[-1] in speaker.ends))


def show_prompt(page: Page, speaker: Speaker, asked: str) -> None:
    page.prompt(asked)
    if speaker.turns:
        page.close()


def written(text: str) -> str:
    """A typed text. Raises `UserError` where its bytes are none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt: found {text[:40]!r}, bytes that are no text; legal: text in "
                        "UTF-8") from None
    return text


def figures(speaker: Speaker, text: Text) -> str:
    """The numbers of a text in one line."""
    score = f"score {text.score:.4f}, " if text.score is not None else ""
    counted = len(speaker.counted(text.tokens))
    rest = len(text.tokens) - counted
    beside = f" and {rest} of thought" if rest else ""
    return f"{score}log p {text.logprob:.4f}, {counted} tokens{beside}"


def slid(speaker: Speaker) -> str:
    return (f"note: longer than the {speaker.limit} {speaker.positions}; behind them it sees "
            f"the last {max(1, speaker.limit // 2)} to {speaker.limit} tokens, read again as if "
            "the text began there")


def row(speaker: Speaker, asked: str, prompt: list[int], text: Text) -> dict[str, Any]:
    """A text as a row of a table; where thoughts are vectors, with their first numbers."""
    parts = spelt(speaker.spelling(prompt), text.tokens)
    numbers = [part.text.strip("()") for part in parts if part.kind == "number"]
    return {"prompt": asked, "thought": thoughts(parts),
            **({"numbers": " | ".join(numbers)} if numbers else {}),
            "text": "".join(part.text for part in parts if part.kind == "ordinary"),
            "logprob": text.logprob, "score": text.score,
            "tokens": len(speaker.counted(text.tokens)), "ended": text.ended}


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        write_table(path, rows)
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror}); legal: a file in a "
                        "directory that can be") from None
