"""Other processes at a port: one that has the turn there, one that takes no turns, and a user who may do nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import Iterator

NOBODY = 65534

_HOLDER = """
import os, signal, sys
from vsrpc.deadline import Deadline
from vsrpc.port_lock import PortLock
lock = PortLock(sys.argv[1])
lock.acquire(Deadline(60))
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


class Holder:
    """A process that has the turn at a port, with a child that keeps it if its parent dies alone."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _HOLDER, path], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._child = int(self._process.stdout.readline())

    def kill_parent(self) -> None:
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        self.kill_parent()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)


@contextmanager
def holder(path: str) -> Iterator[Holder]:
    """A process that has the turn at the port of that socket."""
    held = Holder(path)
    try:
        yield held
    finally:
        held.kill()
        assert held._process.stdout is not None
        held._process.stdout.close()


@contextmanager
def stranger(path: str) -> Iterator[int]:
    """Another process that is connected to the socket, and takes no turns: its pid."""
    program = (
        "import signal, socket, sys\n"
        "peer = socket.socket(socket.AF_UNIX)\n"
        "peer.connect(sys.argv[1])\n"
        "print('connected', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"connected\n"
            yield process.pid
        finally:
            process.kill()


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may do nothing; root may do everything, so that only it must become another one."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
