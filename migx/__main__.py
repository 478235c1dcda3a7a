"""``python -m migx``: the command line."""

import sys

from migx.cli import main

if __name__ == "__main__":
    sys.exit(main())
