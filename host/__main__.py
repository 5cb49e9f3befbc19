"""`python3 -m host` and the console script vsrpc-host: the command line as a process, with its signals."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> int:
    """Run the command line of this process; the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        from host.cli.main import main as run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were still being loaded
        return 128 + signal.SIGINT


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # An exception, so that what is half written is removed on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
