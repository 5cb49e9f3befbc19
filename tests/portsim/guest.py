"""The guest: its processes' system calls on the port, as requests that come over a socket (protocol.py)."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from functools import partial
from pathlib import Path
from typing import Sequence

from portsim import protocol
from portsim.driver import DriverPort, Piece, error
from portsim.loop import Loop

_EDGES = select.POLLIN | select.POLLHUP
_WRITABLE = select.POLLOUT | select.POLLHUP


class OpenFile:
    """One open file of the port, and the two connections by which a process uses it."""

    def __init__(self, driver: DriverPort, first: socket.socket, second: socket.socket) -> None:
        driver.open()
        self.driver = driver
        self.connections = (first, second)
        self.edges = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.deadline: float | None = None  # of who waits for POLLOUT, on the second connection

    def serve(self, connection: socket.socket, buffer: memoryview) -> bool:
        """Serve one request; False where there is none now. Raises EOFError when the process has ended."""
        message = _receive(connection, buffer)
        if not message:
            return False
        code, numbers, data = protocol.parse(message)
        if code == protocol.WAIT:
            now = time.monotonic()
            self.deadline = now + numbers[0] / 1e6
            self.end_wait(now)
            return True
        output: Sequence[Piece] = ()
        try:
            if code == protocol.READ:
                output = self.driver.read(numbers)
                result = sum(map(len, output))
            elif code == protocol.WRITE:
                result = self.driver.write(_split(data, numbers))
            else:
                result = self.driver.poll()
        except OSError as failure:
            result = -(failure.errno or errno.EIO)
        _answer(connection, result, output)
        return True

    def wake(self) -> None:
        """Something changed at the port."""
        if self.driver.poll() & _EDGES:
            os.eventfd_write(self.edges, 1)

    def end_wait(self, now: float) -> None:
        """Answer who waits for POLLOUT, if it is there or the time is over."""
        if self.deadline is None:
            return
        flags = self.driver.poll() & _WRITABLE
        if flags or now >= self.deadline:
            self.deadline = None
            _answer(self.connections[1], flags)

    def close(self) -> None:
        if not self.driver.unplugged:
            self.driver.release()
        for connection in self.connections:
            connection.close()
        os.close(self.edges)


class Guest:
    """All processes of the guest, and what they find where the port's device node should be."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self.up = True
        self.driver: DriverPort | None = None  # None: unplugged, or the guest is down
        self.opens = 0
        self._loop = loop
        self._buffer = memoryview(bytearray(protocol.MAX_MESSAGE))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._visitors: set[socket.socket] = set()  # connections that have not said yet that they want to open the port
        self._files: set[OpenFile] = set()
        self._woken: set[DriverPort] = set()
        self._paused = False
        self._watch_all()

    def pause(self) -> None:
        """No process of the guest runs: none gets an answer."""
        self._paused = True
        for sock in self._sockets():
            self._loop.forget(sock.fileno())

    def resume(self) -> None:
        self._paused = False
        self._watch_all()

    def wake(self, driver: DriverPort) -> None:
        """Wake those who wait for that port, at the end of this round."""
        self._woken.add(driver)

    def settle(self, now: float) -> None:
        """At the end of a round."""
        if self._paused:
            return
        if self.driver:
            self.driver.hear(now)
        for file in self._files:
            if file.driver in self._woken:
                file.wake()
            if file.deadline is not None:
                file.end_wait(now)
        self._woken.clear()

    def deadlines(self) -> list[float]:
        """When there is something to do although no descriptor is ready."""
        if self._paused:
            return []
        news = self.driver.next_news() if self.driver else None
        return [each for each in (news, *(file.deadline for file in self._files)) if each is not None]

    def close(self) -> None:
        for file in self._files:
            file.close()
        for sock in (*self._visitors, self._listener):
            sock.close()

    def _sockets(self) -> list[socket.socket]:
        return [self._listener, *self._visitors, *(sock for file in self._files for sock in file.connections)]

    def _watch_all(self) -> None:
        self._loop.watch(self._listener.fileno(), select.EPOLLIN, self._on_visit)
        for visitor in self._visitors:
            self._loop.watch(visitor.fileno(), select.EPOLLIN, partial(self._on_visitor, visitor))
        for file in self._files:
            self._watch(file)

    def _watch(self, file: OpenFile) -> None:
        for connection in file.connections:
            self._loop.watch(connection.fileno(), select.EPOLLIN, partial(self._on_request, file, connection))

    def _on_visit(self, _: int) -> None:
        try:
            visitor, _address = self._listener.accept()
        except BlockingIOError:
            return
        visitor.setblocking(False)
        self._visitors.add(visitor)
        self._loop.watch(visitor.fileno(), select.EPOLLIN, partial(self._on_visitor, visitor))

    def _on_visitor(self, visitor: socket.socket, _: int) -> None:
        """The first request: open()."""
        try:
            if not _receive(visitor, self._buffer):
                return
        except EOFError:
            self._dismiss(visitor)
            visitor.close()
            return
        self._dismiss(visitor)
        try:
            self._open(visitor)
        except OSError as failure:
            _answer(visitor, -(failure.errno or errno.EIO))
            visitor.close()

    def _dismiss(self, visitor: socket.socket) -> None:
        self._loop.forget(visitor.fileno())
        self._visitors.remove(visitor)

    def _open(self, visitor: socket.socket) -> None:
        driver = self.driver
        if driver is None:
            raise error(errno.ENOENT if self.up else errno.ENODEV)
        if driver.opened:  # by a process that may have died just now
            for file in list(self._files):
                self._serve_all(file)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                file = OpenFile(driver, visitor, ours)
            except OSError:
                ours.close()
                raise
            for sock in file.connections:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, protocol.SOCKET_BUFFER)
            self.opens += 1
            self._files.add(file)
            self._watch(file)
            try:
                socket.send_fds(visitor, [protocol.ANSWER.pack(0)], [theirs.fileno(), file.edges])
            except OSError:  # it has ended already, which its connection tells
                pass

    def _on_request(self, file: OpenFile, connection: socket.socket, _: int) -> None:
        try:
            file.serve(connection, self._buffer)
        except EOFError:
            self._serve_all(file)

    def _serve_all(self, file: OpenFile) -> None:
        """Serve what a process that may have ended had asked for, and close its file if it has."""
        ended = False
        for connection in file.connections:
            try:
                while file.serve(connection, self._buffer):
                    pass
            except EOFError:
                ended = True
        if ended:
            for connection in file.connections:
                self._loop.forget(connection.fileno())
            self._files.remove(file)
            file.close()


def _receive(connection: socket.socket, buffer: memoryview) -> memoryview | None:
    """The next message, None where there is none yet. Raises EOFError where there will be none."""
    try:
        size = connection.recv_into(buffer)
    except BlockingIOError:
        return None
    except OSError:
        size = 0
    if not size:
        raise EOFError
    return buffer[:size]


def _answer(connection: socket.socket, result: int, data: Sequence[Piece] = ()) -> None:
    try:
        connection.sendmsg([protocol.ANSWER.pack(result), *data])
    except OSError:  # the process has ended; its data is lost with it
        pass


def _split(data: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    pieces = []
    start = 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return pieces
