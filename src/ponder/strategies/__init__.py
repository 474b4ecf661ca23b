"""Strategies: how rewards become credit and credit becomes a loss. One file each."""
