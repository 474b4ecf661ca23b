"""A checkpoint that speaks: action=generate goes on from a prompt, action=chat talks."""

from __future__ import annotations

import os
import sys

from ponder.config.spine import Config


def speak(config: Config) -> None:
    """Do what `config.action` says."""
    from ponder.generation.chat import chat
    from ponder.generation.generate import generate

    try:
        (chat if config.action == "chat" else generate)(config)
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
