"""action=chat: lines in, replies out, as they are written."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import torch

from ponder.config.errors import UserError
from ponder.config.spine import Config
from ponder.generation.build import build_speaker
from ponder.generation.generate import slid, streamed, written
from ponder.generation.page import Page
from ponder.generation.speakers import Speaker, Token
from ponder.generation.talk import Talk
from ponder.training.signals import Signals

HELP = """\
/thoughts   show or hide thoughts
/reset      forget what was said
/help       this
Ctrl-C stops the writing, Ctrl-D ends."""


class Chat:
    """One conversation in the terminal."""

    def __init__(self, speaker: Speaker, config: Config) -> None:
        self.speaker, self.config = speaker, config.generate
        self.page = Page(config.generate.thoughts)
        self.shown = "plain" if config.generate.thoughts == "plain" else "colour"
        self.talk = Talk(speaker, config.generate.tokens)
        self.random = torch.Generator().manual_seed(config.seed)

    def welcome(self) -> None:
        """What kind of model listens; to people only."""
        kind = "a chat template" if self.speaker.turns else (
            "no chat template: it goes on with the text that your lines and its own make"
            if self.speaker.talks else "a thinker of questions, each by itself")
        self.page.note(f"{kind}. /help says more.")

    def take(self, line: str) -> None:
        """Do what a line says."""
        command = line.strip()
        if command == "/thoughts":
            hidden = self.page.thoughts != "hidden"
            self.page.thoughts = "hidden" if hidden else self.shown
            self.page.note(f"thoughts are {'hidden' if hidden else 'shown'}")
        elif command == "/reset":
            self.talk.reset()
            self.page.note("all is forgotten")
        elif command == "/help":
            self.page.note(HELP)
        elif command.startswith("/"):
            self.page.note(f"{command}: no such command; legal: /thoughts, /reset, /help")
        elif command:
            try:
                self.reply(line)
            except UserError as error:
                self.page.note(f"error: {error}")

    def reply(self, line: str) -> None:
        """Write until the reply is whole, or somebody stops it."""
        with Signals() as signals:
            prompt = self.talk.hear(written(line))
            if self.talk.forgot:
                self.page.note("note: the talk has grown too long; its beginning is out of sight")
            tokens = self.speaker.stream(prompt, self.config, self.random)
            text = streamed(self.page, self.speaker, prompt, _until(tokens, signals))
            if signals.caught not in (None, signal.SIGINT):
                signals.redeliver()
        self.talk.said(text.tokens)
        if signals.caught == signal.SIGINT:
            self.page.note("note: stopped")
        elif self.speaker.slid:
            self.page.note(slid(self.speaker))


def _until(tokens: Iterator[Token], signals: Signals) -> Iterator[Token]:
    """Tokens until a signal has come."""
    for token in tokens:
        yield token
        if signals.caught is not None:
            return


def lines(ask: bool) -> Iterator[str]:
    """What is typed, or comes from a pipe, until it ends."""
    while True:
        try:
            yield input("> ") if ask else _piped()
        except EOFError:
            if ask:
                print()
            return
        except KeyboardInterrupt:
            if not ask:
                raise
            print("\nCtrl-D ends", file=sys.stderr)


def _piped() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def chat(config: Config) -> None:
    """Talk with `model.name` until there are no more lines."""
    conversation, ask = Chat(build_speaker(config), config), sys.stdin.isatty()
    if ask:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (lines can be edited, and those before come back)
        conversation.welcome()
    for line in lines(ask):
        conversation.take(line)
