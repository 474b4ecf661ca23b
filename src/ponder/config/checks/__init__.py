"""What parts of a configuration ask of the others."""
