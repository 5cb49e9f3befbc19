"""The guest's end of a virtio-serial port, as a listener whose peers are the host's clients, one after another.

Facts about the port that this rests on (Linux drivers/char/virtio_console.c, QEMU hw/char/virtio-console.c):

- With no client at the host's socket, read() gives 0, write() gives EAGAIN, and poll() says HUP all the time: a
  level-triggered wait would spin. We wait edge-triggered.
- A 0 read means "no client now", not "finished": the same descriptor serves the next client.
- Bytes can be readable while poll() still says HUP: read first, judge later.
- A second open fails with EBUSY. When the port is unplugged, reads and writes fail with ENODEV and the descriptor never
  revives: it is closed, and the port opened again by name when it is back.
- read() returns at most a page for each buffer, write() takes at most 32 KiB and one of 128 descriptors: so pages are
  read with one readv(), and long messages written as slices of 32 KiB with one writev().
- A client that is replaced at once may leave no trace at all; nothing here promises that two clients' bytes are told
  apart. Who speaks first must therefore begin with a message that the other end can recognise (the hello).
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
from typing import Iterator, Sequence

from vsrpc.deadline import Deadline
from vsrpc.transports.base import Buffer, TransportClosed, TransportTimeout, advance

_log = logging.getLogger(__name__)

# virtio_console.c: one buffer of the receive queue is a page; more than 64 a call gain nothing more.
_READ_SLICE = 4096
_MAX_READ_SLICES = 64

# virtio_console.c: port_fops_write takes at most 32 KiB a write, in one descriptor of 128.
_WRITE_SLICE = 32768
_MAX_WRITE_SLICES = 32

# How often a port that is not there is looked for, in seconds: an idle guest must not notice it.
_REOPEN_INTERVAL = 0.5

# For how long HUP beside a full queue may be the moment before a client's arrival is known, in seconds.
_ARRIVAL_GRACE = 0.1

_UNPLUGGED = (errno.ENODEV, errno.EIO, errno.EBADF)
_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EBUSY)

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLHUP | select.EPOLLET


class SerialListener:
    """Opens the port at `path`, waits for it where it is absent, and hands out one transport for each client.

    accept() returns the next client only when the transport of the one before has been closed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._closed = False
        self._changed = threading.Condition()
        self._current: SerialTransport | None = None
        self._drop_rest = False  # the last transport was closed before its client left
        self._absent_logged = False

    @property
    def address(self) -> str:
        return self._path

    def accept(self) -> SerialTransport:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._current is None)
        try:
            if self._drop_rest:
                self._discard()
                self._drop_rest = False
            while True:
                self._check_closed()
                if self._fd < 0 and not self._open():
                    self._wait(_REOPEN_INTERVAL)
                    continue
                first = bytearray(_READ_SLICE)
                try:
                    count = os.readv(self._fd, [first])
                except BlockingIOError:
                    return self._hand_out(b"")
                except OSError as error:
                    self.unplugged(error)
                    continue
                if count:
                    return self._hand_out(bytes(first[:count]))
                self._wait(None)
        except TransportClosed:
            self._release()
            raise

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self.wake()
            self._changed.notify_all()

    # -- for SerialTransport

    @property
    def fd(self) -> int:
        """The open port; -1 while it is absent."""
        return self._fd

    def wait_edge(self, timeout: float | None) -> bool:
        """Wait until something changes at the port, or wake(); False after `timeout` seconds without either."""
        self._check_closed()
        return bool(self._wait(timeout))

    def unplugged(self, error: OSError) -> None:
        """The port is gone (ENODEV) or broken: give the descriptor up, so that it is opened anew."""
        if self._fd >= 0:
            _log.warning("%s: %s; waiting for the port to come back", self._path, error.strerror)
            os.close(self._fd)  # leaves the epoll with it
            self._fd = -1

    def finished(self, client_left: bool) -> None:
        """The transport was closed; the rest of what its client sends, if it is still there, is nobody's."""
        with self._changed:
            self._drop_rest = not client_left
            self._current = None
            self._changed.notify_all()

    def wake(self) -> None:
        """Wake whoever waits for an edge."""
        os.write(self._wake_write, b"x")

    # -- inside

    def _hand_out(self, first: bytes) -> SerialTransport:
        transport = SerialTransport(self, self._path, first)
        with self._changed:
            self._current = transport
        return transport

    def _open(self) -> bool:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            if not self._absent_logged:
                cause = "in use by another process" if error.errno == errno.EBUSY else "not there yet"
                _log.warning("%s: %s; waiting for it", self._path, cause)
                self._absent_logged = True
            return False
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENOTTY, "not a character device, so not a virtio-serial port", self._path)
        _log.info("%s: opened", self._path)
        self._absent_logged = False
        self._fd = fd
        self._epoll.register(fd, _EDGES)
        return True

    def _wait(self, timeout: float | None) -> list[int]:
        """The descriptors at which something happened."""
        happened = [fd for fd, _ in self._epoll.poll(-1 if timeout is None else timeout)]
        if self._wake_read in happened:
            os.read(self._wake_read, _READ_SLICE)
        self._check_closed()
        return happened

    def _discard(self) -> None:
        """Read and drop until the client has left, a new one has come, or the port is closed."""
        views = _slices(memoryview(bytearray(1 << 16)))
        edge = False
        while self._fd >= 0:
            try:
                if not os.readv(self._fd, views):
                    return
                edge = False
            except BlockingIOError:
                # An edge of data has data behind it; one without is a client that came, or left.
                if edge:
                    return
                edge = self._fd in self._wait(None)
            except OSError as error:
                self.unplugged(error)

    def _check_closed(self) -> None:
        if self._closed:
            raise TransportClosed(f"{self._path}: closed")

    def _release(self) -> None:
        with self._changed:
            if self._wake_read < 0:
                return
            for fd in (self._fd, self._wake_read, self._wake_write):
                if fd >= 0:
                    os.close(fd)
            self._epoll.close()
            self._fd = self._wake_read = self._wake_write = -1


class SerialTransport:
    """One client's time at the port."""

    def __init__(self, listener: SerialListener, peer: str, first: bytes) -> None:
        self._listener = listener
        self._peer = peer
        self._first = first  # bytes that accept() had to read to know that somebody is there
        self._closed = False
        self._client_left = False
        self._lock = threading.Lock()
        self._receiving = threading.Lock()

    @property
    def peer(self) -> str:
        return self._peer

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        with self._receiving:
            self._check_open()
            if self._first:
                count = min(len(buffer), len(self._first))
                buffer[:count] = self._first[:count]
                self._first = self._first[count:]
                return count
            count = self._receive(_slices(buffer), Deadline(timeout))
            self._client_left = not count
            return count

    def _receive(self, views: list[memoryview], deadline: Deadline) -> int:
        while True:
            self._check_open()
            try:
                return os.readv(self._listener.fd, views)
            except BlockingIOError:
                if not self._listener.wait_edge(deadline.remaining()):
                    raise TransportTimeout(f"{self._peer}: nothing received in time") from None
            except OSError as error:
                if error.errno not in _UNPLUGGED:
                    raise
                self._listener.unplugged(error)
                return 0

    def send(self, buffers: Sequence[Buffer], timeout: float | None = None) -> None:
        deadline = Deadline(timeout)
        rest = [piece for buffer in buffers for piece in _pieces(memoryview(buffer))]
        while rest:
            self._check_open()
            try:
                rest = advance(rest, os.writev(self._listener.fd, rest[:_MAX_WRITE_SLICES]))
            except BlockingIOError:
                self._wait_writable(deadline)
            except OSError as error:
                raise TransportClosed(f"{self._peer}: {error.strerror}") from error

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._listener.wake()
        # The next client is let in only when nobody can take bytes for this one any more.
        with self._receiving:
            self._listener.finished(self._client_left)

    def _wait_writable(self, deadline: Deadline) -> None:
        # poll() is level-triggered: its HUP means that there is no client, or that one is just arriving.
        arrival = Deadline(_ARRIVAL_GRACE)
        poll = select.poll()
        poll.register(self._listener.fd, select.POLLOUT)
        while True:
            remaining = deadline.remaining()
            events = poll.poll(None if remaining is None else remaining * 1000)
            self._check_open()
            if not events:
                raise TransportTimeout(f"{self._peer}: the host does not read in time")
            if events[0][1] & select.POLLOUT:
                return
            if self._client_left or arrival.expired:
                raise TransportClosed(f"{self._peer}: the client has gone")
            threading.Event().wait(0.002)

    def _check_open(self) -> None:
        if self._closed or self._listener.fd < 0:
            raise TransportClosed(f"{self._peer}: closed")


def _slices(buffer: memoryview) -> list[memoryview]:
    end = min(len(buffer), _READ_SLICE * _MAX_READ_SLICES)
    return [buffer[start : min(start + _READ_SLICE, end)] for start in range(0, end, _READ_SLICE)]


def _pieces(buffer: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(buffer), _WRITE_SLICE):
        yield buffer[start : start + _WRITE_SLICE]
