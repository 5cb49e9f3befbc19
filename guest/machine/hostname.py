"""The guest's host name: the kernel's, and the one of later boots (hostname(5))."""

from __future__ import annotations

import contextlib
import os
import socket

FILE = "/etc/hostname"


def set_hostname(name: str, path: str = FILE) -> str:
    """Set both; the name before. Raises OSError, with neither set."""
    previous = socket.gethostname()
    temporary = f"{path}.vsrpc"
    try:
        with open(temporary, "w", encoding="ascii") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())
        socket.sethostname(name)
        try:
            os.rename(temporary, path)
        except BaseException:
            socket.sethostname(previous)
            raise
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return previous
