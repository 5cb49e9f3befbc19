"""A client for QEMU's control socket (QMP, docs/interop/qmp-spec.rst of QEMU).

QEMU serves one client at a time, so a connection is opened per use, under a lock, and never kept.
"""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator

from . import paths
from .errors import VMError


class QMP:
    """One open connection; see `connect`."""

    def __init__(self, sock: socket.socket, lines: BinaryIO) -> None:
        self._sock = sock
        self._lines = lines
        self._events: list[str] = []

    def command(self, name: str, /, **arguments: Any) -> Any:
        """Run one command and return its result; keyword `device_id` means QMP's `device-id`, and so on."""
        request = {"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._read()
            if "error" in reply:
                raise VMError(f"QEMU refused {name} {arguments}: {reply['error'].get('desc')}")
            if "return" in reply:
                return reply["return"]

    def wait_event(self, name: str) -> None:
        """Return when the event has come since the connection was opened."""
        while name not in self._events:
            self._read()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise VMError(f"no answer on QEMU's control socket: {error}") from error
        if not line:
            raise VMError("QEMU closed its control socket; did it exit?")
        reply: dict[str, Any] = json.loads(line)
        if "event" in reply:
            self._events.append(reply["event"])
        return reply


@contextmanager
def connect(path: Path, timeout: float = 10.0) -> Iterator[QMP]:
    """Open the control socket for the time of the block. Every read in it waits at most `timeout` seconds."""
    with paths.locked(path.with_name("qmp.lock")), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise VMError(f"cannot reach QEMU on {path}: {error.strerror or error}") from error
        with sock.makefile("rb") as lines:
            qmp = QMP(sock, lines)
            qmp._read()  # the greeting
            qmp.command("qmp_capabilities")
            yield qmp
