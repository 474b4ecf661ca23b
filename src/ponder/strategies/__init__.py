"""Strategies: credit and loss, one file each; the trainer knows none of their names."""
