"""A client for the QEMU guest agent: the way into the guest that does not depend on vsrpc.

Protocol: docs/interop/qemu-ga.rst and qga/qapi-schema.json of QEMU. Like every virtio-serial port it has one client at
a time and no boundary between clients, so each use takes a lock, connects and synchronises anew.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

from . import paths
from .errors import VMError

WRITE_PIECE = 256 << 10  # bytes; the agent parses each request whole
READ_PIECE = 1 << 20
# Each poll costs the guest a few ms of CPU under emulation.
POLL_FIRST, POLL_MAX = 0.02, 0.25
SYNC_PATIENCE = 2.0  # seconds until the sync is sent once more: a reboot loses what was queued


class Completed(NamedTuple):
    """A finished command of the guest; a command killed by signal N has the code 128 + N."""

    rc: int
    stdout: bytes
    stderr: bytes


class GuestAgent:
    """The agent behind one socket. Every method may be called at any time, from any thread."""

    _ids = itertools.count(1)

    def __init__(self, path: Path) -> None:
        self._path = path

    def ping(self, timeout: float = 10.0) -> None:
        """Return when the agent answers."""
        with self._session(timeout):
            pass

    def exec(self, argv: Sequence[str], input: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run a command in the guest as root, with no shell, and wait for it.

        Raises:
            VMError: it cannot be started, or runs longer than `timeout` seconds (it is then killed).
        """
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input is not None:
            arguments["input-data"] = base64.b64encode(input).decode()
        deadline, pause = time.monotonic() + timeout, POLL_FIRST
        with self._session(timeout) as session:
            pid = session.call("guest-exec", arguments)["pid"]
            while True:
                status = session.call("guest-exec-status", {"pid": pid})
                if status["exited"]:
                    break
                if time.monotonic() > deadline:
                    session.call("guest-exec", {"path": "/bin/kill", "arg": ["-9", str(pid)]})
                    raise VMError(f"{list(argv)} did not end within {timeout:g} s in the guest and was killed")
                time.sleep(pause)
                pause = min(pause * 1.5, POLL_MAX)
        rc = status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0)
        return Completed(rc, _bytes(status.get("out-data")), _bytes(status.get("err-data")))

    def check(self, argv: Sequence[str], input: bytes | None = None, timeout: float = 60.0) -> bytes:
        """The stdout of a command that must succeed."""
        done = self.exec(argv, input, timeout)
        if done.rc:
            output = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise VMError(f"{list(argv)} failed in the guest with code {done.rc}:\n{output}")
        return done.stdout

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Create or replace a file of the guest."""
        with self._session() as session:
            handle = session.call("guest-file-open", {"path": path, "mode": "w"})
            for start in range(0, len(data), WRITE_PIECE):
                piece = base64.b64encode(data[start : start + WRITE_PIECE]).decode()
                session.call("guest-file-write", {"handle": handle, "buf-b64": piece})
            session.call("guest-file-close", {"handle": handle})
        self.check(["/bin/chmod", f"{mode:o}", path])

    def read_file(self, path: str) -> bytes:
        """The content of a file of the guest."""
        data = bytearray()
        with self._session() as session:
            handle = session.call("guest-file-open", {"path": path, "mode": "r"})
            while True:
                piece = session.call("guest-file-read", {"handle": handle, "count": READ_PIECE})
                data += _bytes(piece["buf-b64"])
                if piece["eof"]:
                    break
            session.call("guest-file-close", {"handle": handle})
        return bytes(data)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the guest's file systems still, and clean on disk, for the time of the block."""
        with self._session(60) as session:
            session.call("guest-fsfreeze-freeze")
            try:
                yield
            finally:
                session.call("guest-fsfreeze-thaw")

    @contextmanager
    def _session(self, timeout: float = 60.0) -> Iterator[_Session]:
        with paths.locked(self._path.with_name("ga.lock")), socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self._path))
            except OSError as error:
                raise VMError(f"cannot reach the guest agent on {self._path}: {error.strerror or error}") from error
            session = _Session(sock)
            session.sync(self._ids, timeout)
            sock.settimeout(max(timeout, 10))
            yield session


class _Session:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def sync(self, ids: Iterator[int], timeout: float) -> None:
        """Reach a state where the next line answers the next request, whatever was under way before."""
        deadline = time.monotonic() + timeout
        while True:
            number = int(time.time()) << 20 | next(ids)
            # 0xFF is no JSON: it makes the agent drop a half-sent request of an earlier client.
            self._send(b"\xff", "guest-sync-delimited", {"id": number})
            self._sock.settimeout(max(0.01, min(SYNC_PATIENCE, deadline - time.monotonic())))
            try:
                # What comes before our own number was meant for somebody else.
                while not self._line().endswith(b'\xff{"return": %d}' % number):
                    pass
                return
            except socket.timeout:
                if time.monotonic() >= deadline:
                    raise VMError(f"the guest agent did not answer within {timeout:g} s") from None

    def call(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        self._send(b"", name, arguments or {})
        try:
            reply = json.loads(self._line())
        except socket.timeout:
            raise VMError(f"the guest agent did not answer {name}") from None
        if "error" in reply:
            raise VMError(f"the guest agent refused {name} {arguments}: {reply['error'].get('desc')}")
        return reply["return"]

    def _send(self, prefix: bytes, name: str, arguments: dict[str, Any]) -> None:
        request = {"execute": name, "arguments": arguments}
        self._sock.sendall(prefix + json.dumps(request).encode() + b"\n")

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._sock.recv(1 << 16)
            if not data:
                raise VMError("QEMU closed the guest agent's socket; did it exit?")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _bytes(encoded: str | None) -> bytes:
    return base64.b64decode(encoded) if encoded else b""
