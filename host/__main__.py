"""`python3 -m host` and the console script vsrpc-host: the command line as a process, with its signals."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

# Containers that are there before Python looks for cycles among them (its own default: 700). Modules alone are twenty
# thousand, of which it finds none.
_COLLECT_AFTER = 25_000


def main() -> int:
    """Run the command line of this process; the exit code."""
    gc.set_threshold(_COLLECT_AFTER)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        from host.cli.main import main as run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were still being loaded
        return 128 + signal.SIGINT
    finally:
        gc.freeze()  # what is left goes with the process; looking through it first takes a tenth of a short call


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # An exception, so that what is half written is removed on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
