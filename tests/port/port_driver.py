"""What the tests of the port use: a port with guest processes at one end, and plain sockets at the other.

The same on a simulator and on the real VM; what differs is in port_places.py.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import socket
import struct
import termios
import time
from abc import ABC, abstractmethod
from typing import Any, BinaryIO, Callable, NamedTuple

IN, OUT, HUP = select.POLLIN, select.POLLOUT, select.POLLHUP

FULL = 135  # writes of 32 KiB: 128 descriptors, and 7 in the socket of a client that does not read

PATIENCE = 30.0  # seconds, for what must come
QUIET = 0.3  # seconds after which nothing more is expected


class Drained(NamedTuple):
    """See Process.drain in port_agent.py."""

    length: int
    reads: int
    why: str
    head: bytes


class Agent:
    """port_agent.py by the two ends of its connection."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._count = time.time_ns()  # answers to an earlier client have smaller numbers

    def call(self, what: str, process: int = 0, *arguments: Any) -> Any:
        self._count += 1
        self._requests.write(json.dumps([self._count, what, process, *arguments]).encode() + b"\n")
        self._requests.flush()
        while True:
            line = self._answers.readline()
            assert line, "the agent has ended"
            try:
                number, result = json.loads(line)
            except ValueError:
                continue
            if number == self._count:
                return result


class Process:
    """A process of the guest; its calls raise the OSError that it got."""

    def __init__(self, agent: Agent, path: str) -> None:
        self._agent = agent
        self._path = path
        self._pid = agent.call("start")

    def open(self) -> Process:
        self._do("open", self._path)
        return self

    def close(self) -> None:
        self._do("close")

    def kill(self) -> None:
        self._agent.call("kill", self._pid)

    def read(self, *sizes: int) -> bytes:
        """One read(), or readv() of several buffers."""
        return base64.b64decode(self._do("read", sizes or [4096]))

    def drain(self, count: int = 1 << 30, quiet: float = QUIET, patient: bool = False) -> Drained:
        length, reads, why, head = self._do("drain", count, quiet, patient)
        return Drained(length, reads, why, base64.b64decode(head))

    def expect(self, count: int) -> bytes:
        """So many bytes, which must come, whether the port shows a client or not; the first 64 of them."""
        drained = self.drain(count, PATIENCE, patient=True)
        assert drained.length == count
        return drained.head

    def write(self, data: bytes) -> int:
        count: int = self._do("write", base64.b64encode(data).decode())
        return count

    def write_to_next(self, data: bytes) -> None:
        """Write what the next client is to get, whose bytes may come before the news that the one before has left."""

        def written() -> bool:
            try:
                return self.write(data) == len(data)
            except BlockingIOError:
                return False

        until(written, "the port takes output")

    def writev(self, *sizes: int) -> int:
        count: int = self._do("writev", sizes)
        return count

    def fill(self, size: int) -> tuple[int, int]:
        count, writes = self._do("fill", size)
        return count, writes

    def poll(self) -> int:
        flags: int = self._do("poll")
        return flags

    def until(self, flags: int) -> None:
        """Wait until poll() shows these flags and no other."""
        seen = self._do("until_flags", IN | OUT | HUP, flags, PATIENCE)
        assert seen == flags, f"poll() shows {seen}, not {flags}"

    def until_client(self) -> int:
        """Wait until poll() shows no HUP; the flags that it shows."""
        flags: int = self._do("until_flags", HUP, 0, PATIENCE)
        assert not flags & HUP, "the client's coming was never told"
        return flags

    def wait_writable(self, milliseconds: float) -> int:
        flags: int = self._do("wait_writable", milliseconds)
        return flags

    def watch(self) -> None:
        self._do("watch")

    def edge(self, seconds: float = PATIENCE) -> bool:
        happened: bool = self._do("edge", seconds)
        return happened

    def begin(self, what: str, *arguments: Any) -> None:
        """Begin what may take long; end() brings its result."""
        self._agent.call("begin", self._pid, what, *arguments)

    def end(self) -> Any:
        return self._result(self._agent.call("end", self._pid))

    def _do(self, what: str, *arguments: Any) -> Any:
        return self._result(self._agent.call("do", self._pid, what, *arguments))

    @staticmethod
    def _result(answer: list[Any]) -> Any:
        if len(answer) == 2:
            raise OSError(answer[1], os.strerror(answer[1]))
        return answer[0]


class PortUnderTest(ABC):
    """The port of one test. Guest processes and clients that it made end with it."""

    device: str  # what a guest process opens
    socket_path: str

    def __init__(self) -> None:
        self._clients: list[socket.socket] = []

    def process(self) -> Process:
        """A guest process that has the port open."""
        return self.new_process().open()

    def new_process(self) -> Process:
        return Process(self.agent, self.device)

    def client(self) -> socket.socket:
        """A host client, connected; QEMU may still serve another."""
        client = socket.socket(socket.AF_UNIX)
        self._clients.append(client)
        client.settimeout(PATIENCE)
        until(lambda: _connects(client, self.socket_path), "the listen queue has room")
        return client

    def try_client(self) -> bool:
        """Whether another client can connect now."""
        client = socket.socket(socket.AF_UNIX)
        self._clients.append(client)
        client.setblocking(False)
        return _connects(client, self.socket_path)

    def until_served(self, wanted: bool) -> None:
        """Wait until QEMU serves a client, or none."""
        until(lambda: self.served == wanted, f"a client is served: {wanted}")

    def end(self) -> None:
        self.agent.call("kill_all")
        for client in self._clients:
            client.close()

    def renew(self) -> None:
        """Have all descriptors of the port at hand, whatever clients that left before cost."""
        self.unplug()
        self.replug(new_number=True)

    @property
    @abstractmethod
    def agent(self) -> Agent: ...

    @property
    @abstractmethod
    def served(self) -> bool:
        """Whether QEMU serves a client."""

    @abstractmethod
    def unplug(self) -> None: ...

    @abstractmethod
    def replug(self, new_number: bool = False) -> None:
        """Under the same number, or one that it has not had yet."""

    @abstractmethod
    def pause(self) -> None: ...

    @abstractmethod
    def resume(self) -> None: ...

    @abstractmethod
    def reset(self) -> None:
        """Processes are gone with the old boot."""


# -- clients of the host


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)


def until_taken(client: socket.socket) -> None:
    """Wait until QEMU has read all that the client sent (SIOCOUTQ counts what it has not)."""
    until(lambda: not _unsent(client), "QEMU reads all")


def send_until_full(client: socket.socket, size: int) -> int:
    """Send pieces of that size until the socket stays full: how many bytes it took."""
    client.setblocking(False)
    piece, count = bytes(size), 0
    while True:
        try:
            count += client.send(piece)
        except BlockingIOError:
            if not select.select([], [client], [], QUIET)[1]:
                client.settimeout(PATIENCE)
                return count


def receive(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = client.recv(min(1 << 20, count - len(data)))
        assert piece, f"the port closed after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def receive_all(client: socket.socket) -> int:
    """Receive until nothing more comes: how many bytes."""
    count = 0
    while hears(client, QUIET):
        piece = client.recv(1 << 20)
        if not piece:
            break
        count += len(piece)
    return count


def hears(client: socket.socket, seconds: float = 0.0) -> bool:
    """Whether the client gets anything, or its end, within that time."""
    return bool(select.select([client], [], [], seconds)[0])


def _unsent(client: socket.socket) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))[0]
    return count


def _connects(client: socket.socket, path: str) -> bool:
    try:
        client.connect(path)
    except BlockingIOError:
        return False
    return True
