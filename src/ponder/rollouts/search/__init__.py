"""Thoughts that are found by search instead of only sampled."""
