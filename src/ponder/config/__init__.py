"""The keys of the configuration and their checks; nothing here imports torch."""
