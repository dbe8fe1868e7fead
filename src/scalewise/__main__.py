"""`python -m scalewise`: the command line, also from a source tree where nothing is installed."""

from __future__ import annotations

import sys

from scalewise.cli import main

if __name__ == "__main__":
    sys.exit(main())
