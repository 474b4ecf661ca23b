"""Sweeps: jobs planned, sent, looked at and sent again. Nothing here needs torch."""
