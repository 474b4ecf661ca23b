"""A checkpoint that speaks: action=generate goes on from a prompt, action=chat talks."""

from __future__ import annotations

from ponder.config import Config


def speak(config: Config) -> None:
    """Do what `config.action` says."""
    from ponder.speaking.chat import chat
    from ponder.speaking.generate import generate

    (chat if config.action == "chat" else generate)(config)
