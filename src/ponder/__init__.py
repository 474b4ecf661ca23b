"""Ponder: thinking before answering in language models."""

__version__ = "0.1.0"
