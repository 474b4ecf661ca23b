"""The door: `python run.py --help`."""

from ponder.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
