"""Held-out questions, and the necessity table."""
