"""The loop, and everything around one run: build, log, save, resume."""
