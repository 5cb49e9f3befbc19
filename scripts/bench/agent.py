"""qemu-ga as fast as it can be driven: one session for many calls, replies read in large pieces, no pause that it need
not have. scripts/vm/ga.py is built for reaching the guest, not for speed."""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
import socket
import time
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, TypeVar

from scripts.vm import VM
from scripts.vm.paths import locked

PATIENCE = 120.0
# Bytes in a call, of which the best is used. The agent reads at most 48 MB at a time.
WRITE_SIZES = (48 << 10, 256 << 10, 1 << 20, 4 << 20)
READ_SIZES = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 48_000_000)
WRITE_TRIAL, READ_TRIAL = 4 << 20, 16 << 20
# Seconds between two questions whether a command has ended: each costs the guest CPU that the command needs.
POLLS = (0.0, 0.002, 0.005)
TRIALS = 3  # of each, of which the fastest counts


T = TypeVar("T", int, float)


class Session:
    """The agent, for as long as the session is open."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def call(self, name: str, **arguments: Any) -> Any:
        """Run a command of the agent and return its result; keyword `buf_b64` means `buf-b64`, and so on."""
        fields = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": name, "arguments": fields}).encode() + b"\n")
        reply = json.loads(self._line())
        if "error" in reply:
            raise RuntimeError(f"qemu-ga refused {name}: {reply['error'].get('desc')}")
        return reply["return"]

    def sync(self, number: int) -> None:
        """Void what others have left."""
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._socket.sendall(b"\xff" + json.dumps(request).encode() + b"\n")
        while not self._line().endswith(b'\xff{"return": %d}\n' % number):
            pass

    def exec_true(self, pause: float) -> None:
        """Run `true` to its end, asking every `pause` seconds."""
        pid = self.call("guest-exec", path="/bin/true")["pid"]
        while not self.call("guest-exec-status", pid=pid)["exited"]:
            if pause:
                time.sleep(pause)

    def upload(self, local: Path, remote: str, chunk: int, limit: int) -> int:
        """Write the first `limit` bytes of a file; returns how many those were."""
        handle, done = self.call("guest-file-open", path=remote, mode="w"), 0
        with local.open("rb", buffering=0) as source:
            while done < limit:
                piece = source.read(min(chunk, limit - done))
                if not piece:
                    break
                self.call("guest-file-write", handle=handle, buf_b64=base64.b64encode(piece).decode())
                done += len(piece)
        self.call("guest-file-close", handle=handle)
        return done

    def download(self, remote: str, local: Path, chunk: int, limit: int) -> int:
        """Read the first `limit` bytes of a file; returns how many those were."""
        handle, done = self.call("guest-file-open", path=remote, mode="r"), 0
        with local.open("wb", buffering=0) as target:
            while done < limit:
                reply = self.call("guest-file-read", handle=handle, count=min(chunk, limit - done))
                target.write(base64.b64decode(reply["buf-b64"]))
                done += int(reply["count"])
                if reply["eof"]:
                    break
        self.call("guest-file-close", handle=handle)
        return done

    def _line(self) -> bytes:
        # An agent that is asked one thing at a time sends nothing beyond the line's end.
        parts: list[bytes] = []
        while not parts or not parts[-1].endswith(b"\n"):
            data = self._socket.recv(1 << 20)
            if not data:
                raise RuntimeError("QEMU closed the guest agent's socket")
            parts.append(data)
        return b"".join(parts)


class Agent:
    """The agent of one VM, and what serves it best."""

    _ids = itertools.count(int(time.time()) << 20)

    def __init__(self, vm: VM, directory: str, work: Path) -> None:
        """What is best is tried with a file in `directory` of the guest and one in `work`, once it is wanted."""
        self._path = vm.run / "ga.sock"
        self._vm = vm
        self._local, self._remote = work / "agent", f"{directory}/agent"

    @cached_property
    def write_chunk(self) -> int:
        """Bytes in a call that writes."""
        self._local.write_bytes(os.urandom(WRITE_TRIAL))
        with self.session() as session:
            return _best(WRITE_SIZES, lambda size: session.upload(self._local, self._remote, size, WRITE_TRIAL))

    @cached_property
    def read_chunk(self) -> int:
        """Bytes in a call that reads."""
        self._vm.ga.check(["/usr/bin/truncate", "-s", str(max(READ_SIZES)), self._remote])
        with self.session() as session:
            return _best(
                READ_SIZES, lambda size: session.download(self._remote, self._local, size, max(size, READ_TRIAL))
            )

    @cached_property
    def pause(self) -> float:
        """Seconds between two questions."""
        with self.session() as session:
            return _best(POLLS, session.exec_true)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The agent for ourselves: VM.ga waits meanwhile, so do not use that within."""
        with locked(self._path.with_name("ga.lock")), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self._path))
            session = Session(sock)
            session.sync(next(self._ids))
            yield session


def _best(settings: Sequence[T], action: Callable[[T], int | None]) -> T:
    """The setting whose action is fastest, for each of the bytes that it says it has moved."""
    costs: dict[T, float] = {}
    for _ in range(TRIALS):
        for setting in settings:
            started = time.perf_counter()
            size = action(setting) or 1
            costs[setting] = min(costs.get(setting, math.inf), (time.perf_counter() - started) / size)
    return min(settings, key=costs.__getitem__)
