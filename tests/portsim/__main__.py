"""`PYTHONPATH=tests python -m portsim DIRECTORY`: a simulator of its own; prints the host's and the guest's socket."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from portsim.machine import GUEST, HOST, Machine
from portsim.options import Options


def main() -> int:
    parser = argparse.ArgumentParser(prog="portsim", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the sockets are made")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="fields of portsim.Options")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    machine = Machine(arguments.directory, Options(**arguments.options))
    print(arguments.directory / HOST, arguments.directory / GUEST, flush=True)
    if arguments.exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    machine.run()
    return 0


def _exit_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
