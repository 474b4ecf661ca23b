"""action=generate and action=chat: prompts in, completions out, in the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.style import Style

from ponder.config.errors import UserError, writing
from ponder.config.spine import Config
from ponder.generation.checkpoint_model import build_generator
from ponder.generation.decoding import Completion, Part, ordinary_text, thought_text
from ponder.generation.generators import Generator, Token, Turn
from ponder.tasks.base import write_table
from ponder.tokenizers.vocabulary import COLOURS, TORN
from ponder.training.signals import Signals

FAINT = "dim"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would steer a terminal
HELP = """\
/thoughts   show or hide thoughts
/reset      forget the conversation so far
/help       this list
Ctrl-C stops a reply, Ctrl-D ends the program."""


def run(config: Config) -> None:
    """Run `action=generate` or `action=chat`."""
    try:
        (chat if config.action == "chat" else generate)(config)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Renderer:
    """Writes prompts and decoded parts to standard output as they come. thoughts: how thoughts are
    shown, in colour, plain or hidden.
    """

    def __init__(self, thoughts: str) -> None:
        self.thoughts = thoughts
        console = Console()
        self.terminal = console.is_terminal
        self.coloured = console.is_terminal and not console.no_color
        self.line_start = True

    def write(self, text: str, style: str | None = None) -> None:
        if not text:
            return
        self.line_start = text.endswith("\n")
        shown = _CONTROL.sub(TORN, text) if self.terminal else text
        if style is not None and self.coloured:
            shown = Style.parse(style).render(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()

    def prompt(self, text: str) -> None:
        self.write(text, COLOURS["ordinary"])

    def parts(self, parts: Iterable[Part]) -> None:
        for text, kind in parts:
            if kind == "ordinary":
                self.write(text)
            elif self.thoughts != "hidden":
                self.write(text, COLOURS.get(kind, FAINT) if self.thoughts == "colour" else None)

    def line(self, text: str) -> None:
        """A line of its own about what was generated."""
        self.end_line()
        self.write(f"{text}\n", FAINT)

    def end_line(self) -> None:
        if not self.line_start:
            self.write("\n")

    def note(self, text: str) -> None:
        """A line to the user on standard error, which is no output."""
        self.end_line()
        print(text, file=sys.stderr, flush=True)


# --- action=generate ----------------------------------------------------------------------------


def generate(config: Config) -> None:
    """Show completions of `prompt`, a single one as it is generated, and write them to `out`.

    Raises `UserError` for a prompt that the model cannot read.
    """
    generator, renderer = build_generator(config), Renderer(config.generate.thoughts)
    text = config.prompt
    assert text is not None, "the configuration check lets no such run begin"
    prompt = generator.prompt(checked_text(text))
    started = time.monotonic()
    if config.generate.beams or config.generate.samples > 1:
        found = _several(generator, prompt, config)
        seconds = time.monotonic() - started
        for number, completion in enumerate(found, 1):
            renderer.line(f"{number} of {len(found)}: {_figures(generator, completion)}")
            _show_prompt(renderer, generator, text)
            renderer.parts(generator.decoder(prompt).all(completion.tokens))
        renderer.end_line()
    else:
        _show_prompt(renderer, generator, text)
        random = torch.Generator().manual_seed(config.seed)
        found = [show(renderer, generator, prompt,
                      generator.stream(prompt, config.generate, random))]
        seconds = time.monotonic() - started
    count = sum(len(completion.tokens) for completion in found)
    single = len(found) == 1 and not config.generate.beams
    figures = f"{_figures(generator, found[0])}; " if single else ""
    renderer.line(f"{figures}{seconds:.2f} s, {count / max(seconds, 1e-9):.0f} tokens a second")
    if generator.truncated:
        renderer.note(truncation_note(generator))
    if config.out:
        with writing(f"out={config.out}"):
            write_table(Path(config.out), [_row(generator, text, prompt, one) for one in found])
        renderer.note(f"{len(found)} text{'s' * (len(found) != 1)} written to {config.out}")


def _several(generator: Generator, prompt: list[int], config: Config) -> list[Completion]:
    """Samples, or the best results of a beam search."""
    if config.generate.beams:
        return generator.search(prompt, config.generate)[:config.generate.samples]
    random = torch.Generator().manual_seed(config.seed)
    return generator.sample(prompt, config.generate, random)


def show(renderer: Renderer, generator: Generator, prompt: list[int],
         tokens: Iterable[Token]) -> Completion:
    """Show tokens as they are generated; the completion that they make."""
    decoder, shown, total = generator.decoder(prompt), [], 0.0
    try:
        for token, logprob in tokens:
            shown.append(token)
            total += logprob
            renderer.parts(decoder.add(token))
    finally:
        renderer.parts(decoder.end())
        renderer.end_line()
    ended = not generator.ends or bool(shown and shown[-1] in generator.ends)
    return Completion(shown, total, ended)


def _show_prompt(renderer: Renderer, generator: Generator, text: str) -> None:
    renderer.prompt(text)
    if generator.has_chat_template:
        renderer.end_line()


def checked_text(text: str) -> str:
    """The typed text. Raises `UserError` where its bytes are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt: found {text[:40]!r}, bytes that are no text; legal: text in "
                        "UTF-8") from None
    return text


def _figures(generator: Generator, completion: Completion) -> str:
    """The numbers of a completion in one line."""
    score = f"score {completion.score:.4f}, " if completion.score is not None else ""
    scored = len(generator.scored_tokens(completion.tokens))
    others = len(completion.tokens) - scored
    thought = f" and {others} of thought" if others else ""
    return f"{score}log p {completion.logprob:.4f}, {scored} tokens{thought}"


def truncation_note(generator: Generator) -> str:
    """A line about a text that is longer than the model's positions."""
    return (f"note: longer than the {generator.limit} {generator.limited_by}; after them it sees "
            f"the last {max(1, generator.limit // 2)} to {generator.limit} tokens, read again as "
            "if the text began there")


def _row(generator: Generator, text: str, prompt: list[int], completion: Completion,
         ) -> dict[str, Any]:
    """A completion as a row of a table; thoughts of vectors come with their first numbers."""
    parts = generator.decoder(prompt).all(completion.tokens)
    numbers = [part.text.strip("()") for part in parts if part.kind == "number"]
    return {"prompt": text, "thought": thought_text(parts),
            **({"numbers": " | ".join(numbers)} if numbers else {}),
            "text": ordinary_text(parts), "logprob": completion.logprob,
            "score": completion.score,
            "tokens": len(generator.scored_tokens(completion.tokens)),
            "ended": completion.ended}


# --- action=chat --------------------------------------------------------------------------------


def chat(config: Config) -> None:
    """Talk with `model.name` until there are no more lines."""
    terminal, interactive = Chat(build_generator(config), config), sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (edit lines, recall earlier ones)
        terminal.welcome()
    for line in read_lines(interactive):
        terminal.take(line)


class Chat:
    """One conversation in the terminal."""

    def __init__(self, generator: Generator, config: Config) -> None:
        self.generator, self.config = generator, config.generate
        self.name = config.model.name
        self.renderer = Renderer(config.generate.thoughts)
        self.shown = "plain" if config.generate.thoughts == "plain" else "colour"
        self.conversation = Conversation(generator, config.generate.tokens)
        self.random = torch.Generator().manual_seed(config.seed)

    def welcome(self) -> None:
        """Say how the model treats lines, before the first one is typed."""
        generator = self.generator
        if generator.has_chat_template:
            kind = "it answers in turns, by its chat template"
        elif generator.has_memory:
            kind = ("it has no chat template, and continues the text that your lines and its own "
                    "make")
        else:
            kind = "it answers one question at a time, and remembers none"
        self.renderer.note(f"Chat with {self.name}: {kind}. Type /help for commands.")

    def take(self, line: str) -> None:
        """Obey a line that is a command; reply to any other."""
        command = line.strip()
        if command == "/thoughts":
            hidden = self.renderer.thoughts != "hidden"
            self.renderer.thoughts = "hidden" if hidden else self.shown
            self.renderer.note(f"thoughts are {'hidden' if hidden else 'shown'}")
        elif command == "/reset":
            self.conversation.reset()
            self.renderer.note("the conversation is forgotten")
        elif command == "/help":
            self.renderer.note(HELP)
        elif command.startswith("/"):
            self.renderer.note(f"{command}: no such command; legal: /thoughts, /reset, /help")
        elif command:
            try:
                self.reply(line)
            except UserError as error:
                self.renderer.note(f"error: {error}")

    def reply(self, line: str) -> None:
        """Generate until the reply is complete, or Ctrl-C stops it."""
        with Signals() as signals:
            prompt = self.conversation.ask(checked_text(line))
            if self.conversation.truncated:
                self.renderer.note("note: the conversation is too long; the model no longer sees "
                                   "its beginning")
            tokens = self.generator.stream(prompt, self.config, self.random)
            reply = show(self.renderer, self.generator, prompt, _until_signal(tokens, signals))
            if signals.caught not in (None, signal.SIGINT):
                signals.redeliver()
        self.conversation.add_reply(reply.tokens)
        if signals.caught == signal.SIGINT:
            self.renderer.note("note: stopped")
        elif self.generator.truncated:
            self.renderer.note(truncation_note(self.generator))


class Conversation:
    """Turns the lines of a user into prompts; replies of at most `max_tokens` tokens are added.

    A model with a chat template gets turns. Any other continues one text, in which each line ends
    with a line break. A question generator gets one question at a time. A conversation that is too
    long is cut to half of what fits, so that it is not cut, and read again, at every turn;
    `truncated`: whether the last prompt was.
    """

    def __init__(self, generator: Generator, max_tokens: int) -> None:
        self.generator = generator
        self.room = generator.limit - min(max_tokens, generator.limit // 2)
        self.turns: list[Turn] = []
        self.tokens: list[int] = []
        self.truncated = False

    def reset(self) -> None:
        self.turns, self.tokens = [], []

    def ask(self, line: str) -> list[int]:
        """The prompt that a line makes. Raises `UserError`, and then remembers nothing of it."""
        generator, self.truncated = self.generator, False
        if generator.has_chat_template:
            return self._dialogue([*self.turns, ("user", line)])
        if not generator.has_memory:
            return generator.prompt(line)
        ended = not self.tokens or generator.decode(self.tokens[-4:]).endswith("\n")
        tokens = [*self.tokens, *generator.encode(f"{line}\n" if ended else f"\n{line}\n")]
        if len(tokens) > self.room:
            tokens, self.truncated = tokens[-max(1, self.room // 2):], True
        self.tokens = tokens
        return tokens

    def _dialogue(self, turns: list[Turn]) -> list[int]:
        tokens = self.generator.dialogue(turns)
        goal = self.room if len(tokens) <= self.room else self.room // 2
        while len(tokens) > goal and len(turns) > 2:
            turns, self.truncated = turns[2:], True
            tokens = self.generator.dialogue(turns)
        limit = self.generator.limit
        if len(tokens) > limit:
            raise UserError(f"prompt: found {len(tokens)} tokens; legal: at most {limit}, the "
                            "positions of the model")
        self.turns = turns
        return tokens

    def add_reply(self, reply: list[int]) -> None:
        """Remember a reply to the last line, complete or not."""
        if self.generator.has_chat_template:
            self.turns = [*self.turns, ("assistant", self.generator.decode(reply))]
        else:
            self.tokens = [*self.tokens, *self.generator.scored_tokens(reply)]


def _until_signal(tokens: Iterator[Token], signals: Signals) -> Iterator[Token]:
    """Tokens up to the first one that comes after a signal."""
    for token in tokens:
        yield token
        if signals.caught is not None:
            return


def read_lines(interactive: bool) -> Iterator[str]:
    """Lines that are typed, or that come from a pipe, until it ends."""
    if not interactive:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
    while interactive:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D ends", file=sys.stderr)
