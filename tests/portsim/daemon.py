"""The real guest daemon on a simulated port, in a process of its own that can be killed like the real one.

    PYTHONPATH=.:tests python -m portsim.daemon GUEST_SOCKET [--config FILE]

It prints a line when it is about to serve, logs as its configuration says, and ends by SIGTERM with exit code 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from guest import config, logging_setup
from guest.daemon import Daemon
from portsim.client import open_port, rebind_driver
from vsrpc.transports.serial import SerialListener


def main() -> int:
    parser = argparse.ArgumentParser(prog="portsim.daemon", description="Serve a simulated port.")
    parser.add_argument("socket", help="the simulator's socket for guests")
    parser.add_argument("--config", metavar="FILE", help="configuration (default: as vsrpc-guest)")
    arguments = parser.parse_args()
    path = config.find(arguments.config)
    settings = config.load(path)
    logging_setup.setup(settings.logging, False)
    # The interpreter writes there whichever thread gets the signal; a second one ends the daemon at once.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    daemon = Daemon(settings, path)
    rebind = rebind_driver if settings.device.allow_rebind else None
    listener = SerialListener(arguments.socket, settings.device.buffer_size, open_port=open_port, rebind=rebind)
    failed = []

    def serve() -> None:
        try:
            daemon.serve(listener)
        except BaseException:
            failed.append(True)
            raise
        finally:
            os.write(write_end, b"x")

    thread = threading.Thread(target=serve, name="vsrpc-serve")
    thread.start()
    print("serving", flush=True)
    os.read(read_end, 1)
    daemon.stop()
    thread.join()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
