"""The guest's end of a simulated port, for any process: a SerialPort whose system calls are requests to the simulator.

The port is closed when the process that opened it has ended, however that was: the kernel then closes its sockets.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from typing import Sequence

from portsim import protocol
from portsim.options import WRITE_MAX
from vsrpc.deadline import Deadline
from vsrpc.transports.serial_port import KeptNumber


class SimulatedPort:
    """An open simulated port; implements vsrpc.transports.serial_port.SerialPort. See open_port()."""

    def __init__(self, path: str, reading: socket.socket, writing: socket.socket, edges: int) -> None:
        # A simulator that begins anew should have a directory of its own.
        self._memory = KeptNumber(f"{path}.lost-output")
        self._reading = _Calls(reading)
        self._writing = _Calls(writing)
        self._edges = edges
        self._readable = select.epoll()
        self._readable.register(edges, select.EPOLLIN | select.EPOLLET)
        self._wake = -1

    def fileno(self) -> int:
        """An eventfd: of use to an edge-triggered epoll only, since it stays readable."""
        return self._edges

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        sizes = _fitting(buffers, protocol.MAX_DATA)
        return self._reading.call(protocol.request(protocol.READ, sizes), into=buffers)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Like the kernel's writev(): it may take fewer buffers than given. Here they are handed over in groups."""
        count = 0
        rest = list(buffers)
        while True:
            sizes = _fitting(rest, protocol.MAX_DATA, WRITE_MAX)
            if not sizes:
                return count
            pieces = [memoryview(buffer)[:size] for buffer, size in zip(rest, sizes)]
            try:
                taken = self._writing.call(protocol.request(protocol.WRITE, sizes), pieces)
            except BlockingIOError:
                if count:
                    return count
                raise
            count += taken
            if taken < sum(len(buffer) for buffer in rest[: len(sizes)]):
                return count
            rest = rest[len(sizes) :]

    def wait_readable(self, milliseconds: float | None, wake: int) -> int:
        if wake != self._wake:
            self._readable.register(wake, select.EPOLLIN)
            self._wake = wake
        until = Deadline(None if milliseconds is None else milliseconds / 1000)
        while True:
            flags = self.poll() & (select.POLLIN | select.POLLHUP)
            woken = wake in dict(self._readable.poll(0 if flags else until.remaining()))
            if flags or woken or until.expired:
                return flags

    def wait_writable(self, milliseconds: float) -> int:
        wait = protocol.request(protocol.WAIT, [min(max(0, round(milliseconds * 1000)), 0xFFFFFFFF)])
        return self._writing.call(wait)

    def poll(self) -> int:
        """The flags that poll() shows now; not part of SerialPort, but a test may want to know."""
        return self._reading.call(protocol.request(protocol.POLL))

    def remember(self, lost_output: int) -> None:
        self._memory.set(lost_output)

    def recall(self) -> int:
        return self._memory.get()

    def close(self) -> None:
        self._reading.close()
        self._writing.close()
        self._readable.close()
        os.close(self._edges)
        self._memory.close()


def open_port(path: str) -> SimulatedPort:
    """Open the port of the simulator whose socket for guests is `path`.

    Raises OSError as serial_port.open_port does: ENOENT where there is no simulator, or no port plugged in, ENODEV
    while the guest is down, EBUSY where another process has it open.
    """
    reading = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        try:
            reading.connect(path)
        except ConnectionRefusedError:
            raise OSError(errno.ENOENT, "no simulator there", path) from None
        _prepare(reading)
        reading.send(protocol.request(protocol.OPEN))
        answer, fds, _, _ = socket.recv_fds(reading, protocol.ANSWER.size, 2, socket.MSG_CMSG_CLOEXEC)
        if not answer:
            raise OSError(errno.ENOENT, "the simulator is ending", path)
        (result,) = protocol.ANSWER.unpack(answer)
        if result < 0:
            raise OSError(-result, os.strerror(-result), path)
    except BaseException:
        reading.close()
        raise
    writing = socket.socket(fileno=fds[0])
    _prepare(writing)
    return SimulatedPort(path, reading, writing, fds[1])


def rebind_driver(path: str) -> None:
    """What serial_port.rebind_driver does, for the simulator whose socket for guests is `path`. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.connect(os.path.join(os.path.dirname(path), protocol.CONTROL))
        control.send(b'["rebind", {}]')
        control.recv(4096)


class _Calls:
    """System calls, one at a time, over one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._answer = bytearray(protocol.ANSWER.size)

    def call(self, request: bytes, data: Sequence[memoryview] = (), into: Sequence[memoryview] = ()) -> int:
        with self._lock:
            try:
                self._sock.sendmsg([request, *data])
                received = self._sock.recvmsg_into([self._answer, *into[: protocol.MAX_BUFFERS]])[0]
            except (BrokenPipeError, ConnectionResetError):
                received = 0
            if not received:
                raise OSError(errno.ENODEV, "the simulator has ended")
            (result,) = protocol.ANSWER.unpack(self._answer)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    def close(self) -> None:
        self._sock.close()


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, protocol.SOCKET_BUFFER)


def _fitting(buffers: Sequence[memoryview], limit: int, each: int = protocol.MAX_DATA) -> list[int]:
    """How much of how many buffers one request can be about; what is cut ends there."""
    sizes: list[int] = []
    for buffer in buffers[: protocol.MAX_BUFFERS]:
        size = min(len(buffer), each)
        if limit < size:
            break
        sizes.append(size)
        limit -= size
        if size < len(buffer):
            break
    return sizes
