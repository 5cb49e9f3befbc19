"""Thaws file systems when the daemon that froze them does not: `thaw_guard.py LEASE NOTE DESCRIPTOR...`.

A program of its own, which the daemon starts before it freezes, so that neither its death nor anything that hangs in it
leaves a guest frozen. It says on standard output that it is ready, and ends when it is told so on standard input: by a
byte, that all is thawed; by the end alone, or after LEASE seconds, it thaws. It writes to no disk, and loads nothing
that it has not loaded when it says that it is ready.
"""

import fcntl
import os
import select
import signal
import sys
from typing import Sequence

FITHAW = 0xC0045878
"""linux/fs.h"""


def main(argv: Sequence[str]) -> None:
    """Wait, and thaw what is open as the descriptors, in that order."""
    lease, note, descriptors = float(argv[0]), argv[1], [int(each) for each in argv[2:]]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the daemon, which systemd ends together with us
    os.write(1, b"r")
    os.close(1)
    if select.select([0], [], [], lease)[0] and os.read(0, 1):
        return
    for descriptor in descriptors:
        try:
            fcntl.ioctl(descriptor, FITHAW, 0)
        except OSError:  # it is not frozen any more
            pass
    try:
        os.unlink(note)
    except OSError:  # the daemon has done so
        pass


if __name__ == "__main__":
    main(sys.argv[1:])
