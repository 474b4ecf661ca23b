"""Vocabularies, and how text becomes tokens."""
