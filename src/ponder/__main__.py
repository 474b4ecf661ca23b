"""`python -m ponder` is the command `ponder`."""

from ponder.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
