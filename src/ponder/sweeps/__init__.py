"""Sweeps: plan jobs, launch them, follow them and send lost ones again. Never imports torch."""
