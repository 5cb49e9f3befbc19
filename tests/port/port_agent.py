"""Runs in the guest, or beside a simulator: processes that do to a port what they are told.

    python3 port_agent.py DEVICE       requests and answers over that virtio-serial port
    python3 port_agent.py              over standard input and output

Each request is a line, a JSON array [id, what, process, arguments…], and so is its answer: [id, result], or
[id, null, errno] where that failed. Bytes are Base64. The processes are children that can be killed. Standard library
only, and nothing of vsrpc: this is what vsrpc is to be measured against.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import select
import signal
import stat
import sys
import time
from typing import Any, BinaryIO, Callable

NAP = 0.001
FULL_FOR = 0.03  # seconds after which a port that takes nothing is full, not just slow


class DevicePort:
    """The real thing, with the methods of portsim.SimulatedPort."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self.fd

    def read_into(self, buffers: list[memoryview]) -> int:
        return os.readv(self.fd, buffers)

    def write(self, buffers: list[memoryview]) -> int:
        return os.writev(self.fd, buffers)

    def wait_writable(self, milliseconds: float) -> int:
        return self._poll(select.POLLOUT, milliseconds)

    def poll(self) -> int:
        return self._poll(select.POLLIN | select.POLLOUT, 0)

    def close(self) -> None:
        os.close(self.fd)

    def _poll(self, events: int, milliseconds: float) -> int:
        poll = select.poll()
        poll.register(self.fd, events)
        return dict(poll.poll(milliseconds)).get(self.fd, 0)


def open_port(path: str) -> Any:
    if stat.S_ISCHR(os.stat(path).st_mode):
        return DevicePort(path)
    import portsim

    return portsim.open_port(path)


class Process:
    """What a process can be asked to do; it has at most one port open, as `self.port`."""

    def open(self, path: str) -> None:
        self.port = open_port(path)

    def close(self) -> None:
        self.port.close()

    def read(self, sizes: list[int]) -> str:
        """One readv() into buffers of these sizes."""
        buffers = [memoryview(bytearray(size)) for size in sizes]
        count = self.port.read_into(buffers)
        return base64.b64encode(b"".join(buffers)[:count]).decode()

    def drain(self, count: int, quiet: float, patient: bool) -> list[Any]:
        """Read up to `count` bytes, until the client says nothing for `quiet` seconds, or there is none (unless
        `patient`): how many, how many reads, why it ended, the first and the last few bytes."""
        buffer = memoryview(bytearray(4096))
        data, reads, end = bytearray(), 0, time.monotonic() + quiet
        why = "count"
        while len(data) < count:
            try:
                got = self.port.read_into([buffer])
                why_not = "no client"
            except BlockingIOError:
                got, why_not = 0, "silence"
            if not got:
                if time.monotonic() > end or (why_not == "no client" and not patient):
                    why = why_not
                    break
                time.sleep(NAP)
                continue
            data += buffer[:got]
            reads += 1
            end = time.monotonic() + quiet
        return [len(data), reads, why, base64.b64encode(data[:64]).decode()]

    def first(self, seconds: float) -> list[Any]:
        """Poll and read by turns until there is data: the flags just before, and the data."""
        end = time.monotonic() + seconds
        while True:
            flags = self.port.poll()
            try:
                data = self.read([4096])
            except BlockingIOError:
                data = ""
            if data or time.monotonic() > end:
                return [flags, data]

    def write(self, data: str) -> int:
        return int(self.port.write([memoryview(base64.b64decode(data))]))

    def writev(self, sizes: list[int]) -> int:
        return int(self.port.write([memoryview(bytes(size)) for size in sizes]))

    def fill(self, size: int) -> list[int]:
        """Write pieces of that size until the port takes no more for a while: bytes and number of writes."""
        piece = [memoryview(bytes(size))]
        count = writes = 0
        while True:
            try:
                count += self.port.write(piece)
                writes += 1
            except BlockingIOError:
                if not self.port.wait_writable(FULL_FOR * 1000) & select.POLLOUT:
                    return [count, writes]

    def stream(self, size: int, seconds: float) -> int:
        """Write pieces of that size until there is no client: how many bytes were taken."""
        piece = [memoryview(bytes(size))]
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                count += self.port.write(piece)
            except BlockingIOError:
                if self.port.wait_writable(100) & select.POLLHUP:
                    break
        return count

    def poll(self) -> int:
        return int(self.port.poll())

    def until_flags(self, mask: int, wanted: int, seconds: float) -> int:
        """Wait until, of the flags in `mask`, poll() shows just the wanted ones; all that it showed last."""
        end = time.monotonic() + seconds
        while True:
            flags = self.port.poll()
            if flags & mask == wanted or time.monotonic() > end:
                return int(flags)
            time.sleep(NAP)

    def wait_writable(self, milliseconds: float) -> int:
        return int(self.port.wait_writable(milliseconds))

    def watch(self) -> None:
        """Wait for edges from now on, as vsrpc's listener does."""
        self.epoll = select.epoll()
        self.epoll.register(self.port.fileno(), select.EPOLLIN | select.EPOLLHUP | select.EPOLLET)
        self.epoll.poll(0)

    def edge(self, seconds: float) -> bool:
        """Whether there is an edge within that time."""
        return bool(self.epoll.poll(seconds))


def child(requests: BinaryIO, answers: BinaryIO) -> None:
    process = Process()
    for line in requests:
        what, *arguments = json.loads(line)
        try:
            answer = [getattr(process, what)(*arguments)]
        except OSError as error:
            answer = [None, error.errno or errno.EIO]
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


class Agent:
    """The parent of all processes."""

    def __init__(self) -> None:
        self.children: dict[int, tuple[BinaryIO, BinaryIO]] = {}

    def start(self, _: int) -> int:
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(down_write)
            os.close(up_read)
            for files in self.children.values():  # else nobody would see those end
                for file in files:
                    os.close(file.fileno())
            with open(down_read, "rb") as requests, open(up_write, "wb") as answers:
                child(requests, answers)
            os._exit(0)
        os.close(down_read)
        os.close(up_write)
        self.children[pid] = (os.fdopen(down_write, "wb"), os.fdopen(up_read, "rb"))
        return pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for file in self.children.pop(pid):
            file.close()

    def kill_all(self, _: int) -> None:
        for pid in list(self.children):
            self.kill(pid)

    def begin(self, pid: int, *request: Any) -> None:
        requests = self.children[pid][0]
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()

    def end(self, pid: int) -> Any:
        """The answer of what was begun: the result, or None and an errno."""
        return json.loads(self.children[pid][1].readline())

    def do(self, pid: int, *request: Any) -> Any:
        self.begin(pid, *request)
        return self.end(pid)

    def link(self, _: int, path: str) -> str:
        """Where a symbolic link leads, or "" where there is none."""
        try:
            return os.readlink(path)
        except FileNotFoundError:
            return ""

    def serve(self, line: bytes, answer: Callable[[bytes], None]) -> None:
        try:
            number, what, process, *arguments = json.loads(line)
        except ValueError:  # what an earlier client left half said
            return
        result = getattr(self, what)(process, *arguments)
        answer(json.dumps([number, result]).encode() + b"\n")


def serve_device(agent: Agent, path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    pending = b""
    while True:
        data = os.read(fd, 4096)
        if not data:  # no client
            pending = b""
            time.sleep(0.05)
            continue
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            agent.serve(line, lambda answer: write_all(fd, answer))


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> None:
    agent = Agent()
    if len(sys.argv) > 1:
        serve_device(agent, sys.argv[1])
    for line in sys.stdin.buffer:
        agent.serve(line, lambda answer: write_all(1, answer))
    agent.kill_all(0)


if __name__ == "__main__":
    main()
