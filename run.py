"""The command `ponder`, run from a checkout: `python run.py --help`."""

from ponder.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
