"""The command line: words in, one action done, exit code out."""
