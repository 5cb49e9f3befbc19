"""The guest's end of a virtio-serial port, as a listener whose peers are the host's clients, one after another.

Facts about the port that this rests on (Linux drivers/char/virtio_console.c, QEMU hw/char/virtio-console.c):

- With no client at the host's socket, read() gives 0, write() gives EAGAIN, and poll() says HUP all the time: a
  level-triggered wait would spin. We wait edge-triggered, but once for what a client says next.
- A 0 read means "no client now", not "finished": the same descriptor serves the next client.
- Bytes can be readable while poll() still says HUP: read first, judge later.
- A second open fails with EBUSY. When the port is unplugged, reads and writes fail with ENODEV and the descriptor never
  revives: it is closed, and the port opened again by name when it is back.
- read() returns at most a page for each buffer, write() takes at most 32 KiB and one of 128 descriptors: so pages are
  read with one readv(), and long messages written as slices of 32 KiB with one writev().
- A client that is replaced at once may leave no trace at all; nothing here promises that two clients' bytes are told
  apart. Who speaks first must therefore begin with what the other end can recognise (a sync), and it is the client
  who speaks first: a peer is let in with its first byte.
- What a client sends while nobody has the port open waits for whoever opens it. So a client that is there when the port
  is opened may be in the middle of anything: its transport is not at a boundary, and is let in at once.
- A client that leaves while the port is full, or just when QEMU has output for it, costs one of the 128 descriptors for
  output (QEMU's discard_throttle_data detaches it, and nobody gives it back): after that many of them nothing can be
  written any more. The driver bound anew or a reboot brings them back; plugging the port in anew does so only under
  another number (`nr`), which has other queues. Nobody can count them, so those that may be lost are counted.

The port belongs to the listener, and only the thread in accept() opens and closes it, while no transport is out.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from typing import Callable

from vsrpc.deadline import Deadline
from vsrpc.transports.base import TransportClosed, poll_time
from vsrpc.transports.serial_port import DESCRIPTORS, MAX_READ_SLICES, READ_SLICE, SerialPort, open_port
from vsrpc.transports.serial_transport import ARRIVAL_GRACE, SerialTransport

_log = logging.getLogger(__name__)

# How often a port that is not there is looked for, in seconds: an idle guest must not notice it.
_REOPEN_INTERVAL = 0.5

# Descriptors that may be lost: how many make a line in the log; how many make the driver be bound anew when no client
# is there, and for how many seconds none has to be there for any. What is left then takes twice what flow control lets
# be on its way of a large reply.
_LOST_STEP = 16
_REBIND_AT = DESCRIPTORS * 7 // 8
_REBIND_IDLE = 10.0

# How often, and for how long, a port is looked for whose driver was just bound anew: somebody may wait for it. Seconds.
_SOON_INTERVAL = 0.005
_SOON = 5.0

_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EBUSY)

# Not EPOLLOUT: it would be an edge each time that the host has read something.
_EDGES = select.EPOLLIN | select.EPOLLHUP | select.EPOLLET


class SerialListener:
    """Opens the port at `path`, waits for it where it is absent, and hands out one transport for each client.

    accept() returns the next client only when the transport of the one before has been closed. What a client sends
    after its transport was closed is dropped until it leaves: nobody knows where its next message begins.

    `lost_output` is how many descriptors for output may be lost. Before they all are, the driver is bound anew by
    `rebind`, if that is given: that takes away all ports of its device for a moment, so it is done while no client is
    there.
    """

    serves_one = True

    def __init__(
        self,
        path: str,
        buffer_size: int = READ_SLICE * MAX_READ_SLICES,
        *,
        open_port: Callable[[str], SerialPort] = open_port,
        rebind: Callable[[str], None] | None = None,
    ) -> None:
        """`buffer_size`: bytes asked for in one read; what is more than 256 KiB gains nothing and is not used."""
        self.lost_output = 0
        self._path = path
        self._buffer_size = min(buffer_size, READ_SLICE * MAX_READ_SLICES)
        self._open_port = open_port
        self._rebind = rebind
        self._healed = False  # the driver was bound anew, and the port not opened since
        self._soon = Deadline(0)  # until then it will come back
        self._port: SerialPort | None = None
        self._opened = Deadline(0)  # until then, a client that shows up may have been there before
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._changed = threading.Condition()  # the four below
        self._closed = False
        self._accepting = False
        self._current: SerialTransport | None = None
        self._drop_rest = False
        self._dropped = Deadline(0)  # when the last of it came, and the grace
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
            transport = self._next_client()
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
        happened = self._epoll.poll(None if milliseconds is None else milliseconds / 1000)
        for fd, _ in happened:
            if fd == self._wake_read:
                os.read(fd, READ_SLICE)
        return bool(happened)

    @property
    def wake_fd(self) -> int:
        """Becomes readable by wake()."""
        return self._wake_read

    def wake(self) -> None:
        """Wake the one who waits for an edge: accept(), or the transport that is out."""
        os.write(self._wake_write, b"x")

    def lose_output(self) -> None:
        """A client left while output was on its way to it."""
        self.lost_output += 1
        if self._port is not None:
            self._port.remember(self.lost_output)
        if self.lost_output % _LOST_STEP == 0:
            _log.warning(
                "%s: clients that left in the middle of a reply may have cost it %d of its %d descriptors for output: "
                "bind its driver anew (device.allow_rebind), or reboot, before none is left",
                self._path,
                self.lost_output,
                DESCRIPTORS,
            )

    def finished(self, client_left: bool) -> None:
        """The transport that was out is closed, and nobody uses it any more."""
        with self._changed:
            self._drop_rest = not client_left
            self._dropped = Deadline(ARRIVAL_GRACE)
            self._current = None
            self._changed.notify_all()
            self._release_unused()

    # -- for the thread in accept()

    def _next_client(self) -> SerialTransport:
        """Wait for a client and for the first that it says; drops the rest of a client whose transport was closed."""
        first = bytearray(READ_SLICE)
        while True:
            self._check_closed()
            if self._port is None:
                self._open()
            if self._port is None:
                self.wait_edge(1000 * (_REOPEN_INTERVAL if self._soon.expired else _SOON_INTERVAL))
                continue
            try:
                count = self._port.read_into([memoryview(first)])
            except BlockingIOError:  # a client that says nothing
                if not self._opened.expired:
                    return self._transport(b"", at_boundary=False)
                self.wait_edge(None)
            except OSError as error:
                self._lose(self._port, error)
                self.wait_edge(_REOPEN_INTERVAL * 1000)
            else:
                if count and not self._drop_rest:
                    return self._transport(bytes(first[:count]), at_boundary=self._opened.expired)
                if count:
                    self._dropped = Deadline(ARRIVAL_GRACE)
                elif self._drop_rest and not self._dropped.expired:
                    self.wait_edge(poll_time(self._dropped))  # the news of its coming may be late
                else:  # no client
                    self._drop_rest = False
                    self._wait_for_client(self._port)

    def _transport(self, first: bytes, at_boundary: bool) -> SerialTransport:
        assert self._port is not None
        self._opened = Deadline(0)  # the next one comes after this one
        return SerialTransport(self, self._port, self._path, first, at_boundary, self._buffer_size)

    def _open(self) -> None:
        try:
            port = self._open_port(self._path)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            cause = "in use by another process" if error.errno == errno.EBUSY else "not there yet"
            if cause != self._absence:
                _log.warning("%s: %s; waiting for it", self._path, cause)
                self._absence = cause
            return
        self._epoll.register(port.fileno(), _EDGES)
        _log.info("%s: opened", self._path)
        self._absence = ""
        self._port = port
        self._opened = Deadline(ARRIVAL_GRACE)
        self._drop_rest = False
        if self._healed:  # the same port by its name
            port.remember(0)
            self._healed = False
        self.lost_output = port.recall()

    def _wait_for_client(self, port: SerialPort) -> None:
        """Wait for a change where no client is; a good time to heal the port."""
        if self._rebind is None or not self.lost_output:
            self.wait_edge(None)
        elif self.lost_output >= _REBIND_AT or not self.wait_edge(_REBIND_IDLE * 1000):
            self._bind_anew(port, self._rebind)

    def _bind_anew(self, port: SerialPort, rebind: Callable[[str], None]) -> None:
        """Get the lost descriptors back."""
        self._rebind = None  # should it fail, it will fail again
        _log.warning("%s: binding its driver anew, to get %d descriptors back", self._path, self.lost_output)
        self._port = None
        port.close()
        try:
            rebind(self._path)
        except OSError as error:
            _log.error("%s: its driver cannot be bound anew: %s", self._path, error.strerror)
        else:
            self._rebind = rebind
            self._healed = True
            self._soon = Deadline(_SOON)

    def _lose(self, port: SerialPort, error: OSError) -> None:
        """The port is unplugged (ENODEV) or broken: give the descriptor up, so that it is opened anew."""
        _log.warning("%s: %s; waiting for the port to come back", self._path, error.strerror)
        port.close()  # its descriptor leaves the epoll with it
        self._port = None

    def _check_closed(self) -> None:
        if self._closed:
            raise TransportClosed(f"{self._path}: closed")

    def _release_unused(self) -> None:
        if not self._closed or self._accepting or self._current is not None or self._wake_read < 0:
            return
        if self._port is not None:
            self._port.close()
            self._port = None
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._epoll.close()
        self._wake_read = -1
