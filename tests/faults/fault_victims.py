"""Host clients that are killed with SIGKILL: processes with nothing but a socket and a few steps.

A small process of its own makes them. Were they forked by whoever measures how soon the next client is served, that
would pay for it: each page it writes to afterwards must be copied first, which takes longer than many a recovery.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from typing import NamedTuple

_PATIENCE = 30.0  # seconds that a victim waits for the guest: longer than any healing takes
_READ = 1 << 18
_ACK = b"\x06"
_MAKE = b"f"  # a victim; what comes after it is for that


class Send(NamedTuple):
    """Send `data`, so many bytes at a time (0: all at once); with `patience`, what can be sent until nothing more can
    for so many seconds."""

    data: bytes
    step: int = 0
    patience: float | None = None


class Read(NamedTuple):
    """Read `count` bytes at full speed, and acknowledge each half window, of which `received` have been counted."""

    count: int
    received: int
    half: int


class Victims:
    """Makes processes that do what they are told, and are killed."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # Without site-packages it is smaller still.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._answers = self._control.makefile("rb")

    def kill(self, sock: socket.socket, *steps: Send | Read) -> int:
        """Have a process that owns `sock`, which is closed here, make the steps and then be killed.

        Returns what ended it: SIGKILL, or something else if it did not come to that.
        """
        self._control.sendall(_MAKE)
        socket.send_fds(self._control, [b"s"], [sock.fileno()])
        sock.close()
        pickle_of = pickle.dumps([tuple(each) for each in steps])
        self._control.sendall(len(pickle_of).to_bytes(4, "big") + pickle_of)
        return int.from_bytes(self._answers.read(4), "big")

    def close(self) -> None:
        """End the process that makes them; a victim that still waits ends by itself."""
        self._answers.close()
        self._control.close()
        self._process.kill()
        self._process.wait()


def _make(control: socket.socket) -> None:
    """Make victims; each gets its socket by itself, so that nobody else has it."""
    while control.recv(1) == _MAKE:
        process = os.fork()
        if process == 0:
            try:
                _live(control)
                os.kill(os.getpid(), signal.SIGKILL)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(1)
        control.sendall(os.waitpid(process, 0)[1].to_bytes(4, "big"))


def _live(control: socket.socket) -> None:
    _, fds, _, _ = socket.recv_fds(control, 1, 1)
    with control.makefile("rb") as orders:
        steps = pickle.loads(orders.read(int.from_bytes(orders.read(4), "big")))
    sock = socket.socket(fileno=fds[0])
    for step in steps:
        if isinstance(step[0], bytes):
            _send(sock, *step)
        else:
            _read(sock, *step)


def _send(sock: socket.socket, data: bytes, step: int, patience: float | None) -> None:
    sock.settimeout(_PATIENCE if patience is None else patience)
    try:
        for start in range(0, len(data), step or len(data) or 1):
            sock.sendall(data[start : start + (step or len(data))])
    except TimeoutError:
        if patience is None:
            raise


def _read(sock: socket.socket, count: int, received: int, half: int) -> None:
    sock.settimeout(_PATIENCE)
    buffer = bytearray(_READ)
    acknowledged = received // half
    while count > 0:
        some = sock.recv_into(buffer)
        if not some:
            raise EOFError("QEMU closed the connection")
        count -= some
        received += some
        due = received // half
        if due > acknowledged:
            sock.sendall(_ACK * (due - acknowledged))
            acknowledged = due


if __name__ == "__main__":
    _make(socket.socket(fileno=int(sys.argv[1])))
