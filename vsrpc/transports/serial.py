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
  apart. Who speaks first must therefore begin with a message that the other end can recognise (the hello), and it is
  the client who speaks first: a peer is let in with its first byte.

The descriptor belongs to the listener, and only the thread in accept() opens and closes it, while no transport is out.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
import time
from typing import Iterator, Sequence

from vsrpc.deadline import Deadline
from vsrpc.transports.base import Buffer, TransportClosed, TransportTimeout, Usage, advance, poll_time

_log = logging.getLogger(__name__)

# virtio_console.c: one buffer of the receive queue is a page; more than 64 a call gain nothing more.
_READ_SLICE = 4096
_MAX_READ_SLICES = 64

# virtio_console.c: port_fops_write takes at most 32 KiB a write, in one descriptor of 128.
_WRITE_SLICE = 32768
_MAX_WRITE_SLICES = 32

# How often a port that is not there is looked for, in seconds: an idle guest must not notice it.
_REOPEN_INTERVAL = 0.5

# For how long a client's bytes may be ahead of the news that it has come, in seconds: until then the port reads as "no
# client" and takes no output. The news come by a work queue of the guest's kernel, which a busy machine delays.
_ARRIVAL_GRACE = 0.25

# Before a write is tried again where poll() cannot tell when, in seconds.
_PAUSE = 0.002

_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EBUSY)

# Not EPOLLOUT: it would be an edge each time that the host has read something.
_EDGES = select.EPOLLIN | select.EPOLLHUP | select.EPOLLET


class SerialListener:
    """Opens the port at `path`, waits for it where it is absent, and hands out one transport for each client.

    accept() returns the next client only when the transport of the one before has been closed. What a client sends
    after its transport was closed is dropped until it leaves: nobody knows where its next message begins.
    """

    def __init__(self, path: str, buffer_size: int = _READ_SLICE * 16) -> None:
        """`buffer_size`: bytes asked for in one read; what is more than 256 KiB gains nothing and is not used."""
        self._path = path
        self._buffer_size = min(buffer_size, _READ_SLICE * _MAX_READ_SLICES)
        self._fd = -1
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._changed = threading.Condition()  # the four below
        self._closed = False
        self._accepting = False
        self._current: SerialTransport | None = None
        self._drop_rest = False
        self._absence = ""  # what was logged last

    @property
    def address(self) -> str:
        return self._path

    def accept(self) -> SerialTransport:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._current is None)
            self._check_closed()
            self._accepting = True
        try:
            first = self._first_bytes()
            transport = SerialTransport(self, self._fd, self._path, first, self._buffer_size)
            with self._changed:
                self._current = transport
            return transport
        finally:
            with self._changed:
                self._accepting = False
                self._release_unused()

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self.wake()
            self._changed.notify_all()
            self._release_unused()

    # -- for SerialTransport

    def wait_edge(self, milliseconds: float | None) -> bool:
        """Wait until something changes at the port, or wake(); False after that time without either."""
        happened = [fd for fd, _ in self._epoll.poll(None if milliseconds is None else milliseconds / 1000)]
        if self._wake_read in happened:
            os.read(self._wake_read, _READ_SLICE)
        return bool(happened)

    def wake(self) -> None:
        """Wake the one who waits for an edge: accept(), or the transport that is out."""
        os.write(self._wake_write, b"x")

    def finished(self, client_left: bool) -> None:
        """The transport that was out is closed, and nobody uses it any more."""
        with self._changed:
            self._drop_rest = not client_left
            self._current = None
            self._changed.notify_all()
            self._release_unused()

    # -- for the thread in accept()

    def _first_bytes(self) -> bytes:
        """Wait for a client and for the first that it says; drops the rest of a client whose transport was closed."""
        first = bytearray(_READ_SLICE)
        while True:
            self._check_closed()
            if self._fd < 0 and not self._open():
                self.wait_edge(_REOPEN_INTERVAL * 1000)
                continue
            try:
                count = os.readv(self._fd, [first])
            except BlockingIOError:  # a client that says nothing
                self.wait_edge(None)
            except OSError as error:
                self._lose(error)
                self.wait_edge(_REOPEN_INTERVAL * 1000)
            else:
                if not count:  # no client
                    self._drop_rest = False
                    self.wait_edge(None)
                elif not self._drop_rest:
                    return bytes(first[:count])

    def _open(self) -> bool:
        try:
            if not stat.S_ISCHR(os.stat(self._path).st_mode):
                raise OSError(errno.ENOTTY, "not a character device, so not a virtio-serial port", self._path)
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            cause = "in use by another process" if error.errno == errno.EBUSY else "not there yet"
            if cause != self._absence:
                _log.warning("%s: %s; waiting for it", self._path, cause)
                self._absence = cause
            return False
        try:
            self._epoll.register(fd, _EDGES)
        except PermissionError:  # epoll_ctl(2): EPERM, a file that cannot be waited for
            os.close(fd)
            raise OSError(errno.ENOTTY, "not a virtio-serial port: it cannot be waited for", self._path) from None
        _log.info("%s: opened", self._path)
        self._absence = ""
        self._fd = fd
        self._drop_rest = False
        return True

    def _lose(self, error: OSError) -> None:
        """The port is unplugged (ENODEV) or broken: give the descriptor up, so that it is opened anew."""
        _log.warning("%s: %s; waiting for the port to come back", self._path, error.strerror)
        os.close(self._fd)  # leaves the epoll with it
        self._fd = -1

    def _check_closed(self) -> None:
        if self._closed:
            raise TransportClosed(f"{self._path}: closed")

    def _release_unused(self) -> None:
        if not self._closed or self._accepting or self._current is not None or self._wake_read < 0:
            return
        for fd in (self._fd, self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._epoll.close()
        self._fd = self._wake_read = -1


class SerialTransport:
    """One client's time at the port."""

    peer_sees_end = False

    def __init__(self, listener: SerialListener, fd: int, peer: str, first: bytes, buffer_size: int) -> None:
        self._listener = listener
        self._fd = fd
        self._peer = peer
        self._first = first  # what accept() had to read to know that somebody is there
        self._buffer_size = buffer_size
        self._client_left = False
        self._arrival = Deadline(_ARRIVAL_GRACE)
        self._arrived = False  # the port has told that a client is there
        self._stop_read, self._stop_write = os.pipe()
        self._usage = Usage(peer, self._wake, self._release)

    @property
    def peer(self) -> str:
        return self._peer

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        deadline = Deadline(timeout)
        with self._usage:
            if self._first:
                count = min(len(buffer), len(self._first))
                buffer[:count] = self._first[:count]
                self._first = self._first[count:]
                return count
            views = _slices(buffer[: self._buffer_size])
            while not self._client_left:
                try:
                    count = os.readv(self._fd, views)
                except BlockingIOError:
                    self._arrived = True
                    if not self._listener.wait_edge(poll_time(deadline)) and deadline.expired:
                        raise TransportTimeout(f"{self._peer}: nothing received in time") from None
                    self._usage.check()
                except OSError as error:  # unplugged: accept() meets the same
                    _log.debug("%s: %s", self._peer, error.strerror)
                    self._client_left = True
                else:
                    if count:
                        return count
                    if self._arrived or self._arrival.expired:
                        self._client_left = True
                    else:
                        self._listener.wait_edge(poll_time(self._arrival))
                        self._usage.check()
            return 0

    def send(self, buffers: Sequence[Buffer], timeout: float | None = None) -> None:
        deadline = Deadline(timeout)
        rest = [piece for buffer in buffers for piece in _pieces(memoryview(buffer))]
        with self._usage:
            while rest:
                try:
                    sent = os.writev(self._fd, rest[:_MAX_WRITE_SLICES])
                except BlockingIOError:
                    self._wait_writable(deadline)
                except OSError as error:
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error
                else:
                    rest = advance(rest, sent)
                    if not sent:  # virtio_console.c, __send_to_port: the queue is full, and nobody was told
                        self._pause(deadline)

    def close(self) -> None:
        self._usage.close()

    def _wait_writable(self, deadline: Deadline) -> None:
        # poll() is level-triggered: its HUP means that there is no client, or that one is just arriving.
        arrival = Deadline(_ARRIVAL_GRACE)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            flags = dict(poll.poll(poll_time(deadline))).get(self._fd, 0)
            self._usage.check()
            if flags & select.POLLOUT:
                return
            if flags & select.POLLHUP and (self._client_left or arrival.expired):
                raise TransportClosed(f"{self._peer}: the client has gone")
            self._pause(deadline)

    def _pause(self, deadline: Deadline) -> None:
        if deadline.expired:
            raise TransportTimeout(f"{self._peer}: the host does not read in time")
        time.sleep(_PAUSE)

    def _wake(self) -> None:
        os.close(self._stop_write)  # POLLHUP at the other end, for good
        self._listener.wake()

    def _release(self) -> None:
        os.close(self._stop_read)
        self._listener.finished(self._client_left)


def _slices(buffer: memoryview) -> list[memoryview]:
    return [buffer[start : start + _READ_SLICE] for start in range(0, len(buffer), _READ_SLICE)]


def _pieces(buffer: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(buffer), _WRITE_SLICE):
        yield buffer[start : start + _WRITE_SLICE]
