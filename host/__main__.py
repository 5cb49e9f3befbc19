"""`python3 -m host` and the console script vsrpc-host."""

from __future__ import annotations

import sys

from host.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
