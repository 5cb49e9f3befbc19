"""One client's time at a virtio-serial port. What is known of the port is said in serial.py."""

from __future__ import annotations

import logging
import select
import time
from typing import Protocol, Sequence

from vsrpc.deadline import Deadline
from vsrpc.transports.base import Buffer, TransportClosed, TransportTimeout, Usage, poll_time
from vsrpc.transports.serial_port import MAX_WRITE_SLICES, READ_SLICE, WRITE_SLICE, SerialPort

_log = logging.getLogger(__name__)

# For how long a client's bytes may be ahead of the news that it has come, in seconds: until then the port reads as "no
# client" and takes no output. The news come by a work queue of the guest's kernel, which a busy machine delays.
ARRIVAL_GRACE = 0.25

# Bytes of a body from which on it is large, and for how long its next ones may gather, in seconds: they must fit the
# port's queue.
_LARGE = 262144
_GATHER = 0.001

# Pages that are worth a read where more could be had.
_FEW = 15

# Before a write is tried again where poll() cannot tell when, in seconds.
_PAUSE = 0.002

# How long a writer may sleep before it looks whether it is still wanted, in seconds.
_WRITER_NAP = 0.05


class _Pages:
    """Buffers in slices of a page. Those of a buffer that fills up page by page are made once."""

    def __init__(self, size: int) -> None:
        """`size`: bytes that are received at a time."""
        self._size = size
        self._page = min(size, READ_SLICE)
        self._whole: object = None  # that the slices are of
        self._left = 0  # from the first slice on
        self._slices: list[memoryview] = []

    def of(self, buffer: memoryview, bulk: bool) -> list[memoryview]:
        """The first pages of a buffer; of what comes in small pieces, one."""
        if not bulk:
            if buffer.obj is not self._whole:
                self._whole, self._slices = None, []  # they would keep somebody's body
            return [buffer[: self._page]]
        used, rest = divmod(self._left - len(buffer), READ_SLICE)
        fresh = self._slices[used:] if used >= 0 and not rest and buffer.obj is self._whole else []
        if len(fresh) <= min(_FEW, (len(buffer) - 1) // READ_SLICE):
            size = min(len(buffer), self._size)
            fresh = [buffer[start : min(start + READ_SLICE, size)] for start in range(0, size, READ_SLICE)]
            self._whole, self._left, self._slices = buffer.obj, len(buffer), fresh
        return fresh


class PortOwner(Protocol):
    """Who opened the port, and hands out the transports."""

    lost_output: int

    @property
    def wake_fd(self) -> int:
        """Becomes readable by wake()."""

    def wait_edge(self, milliseconds: float | None) -> bool:
        """Wait until something changes at the port, or wake(); False after that time without either."""

    def wake(self) -> None:
        """Wake the one who waits for an edge."""

    def lose_output(self) -> None:
        """A client left while output may have been on its way to it."""

    def finished(self, client_left: bool) -> None:
        """The transport is closed, and nobody uses it any more."""


class SerialTransport:
    """One client's time at the port."""

    peer_sees_end = False

    def __init__(
        self,
        listener: PortOwner,
        port: SerialPort,
        peer: str,
        first: bytes,
        at_boundary: bool,
        buffer_size: int,
    ) -> None:
        self.at_boundary = at_boundary
        self.may_be_arriving = True
        self._listener = listener
        self._wake_fd = listener.wake_fd
        self._port = port
        self._peer = peer
        self._first = first  # what accept() had to read to know that somebody is there
        self._pages = _Pages(buffer_size)
        self._client_left = False
        self._bulk = True  # the last read was a page or more
        self._quiet = False  # the last read was less, so that it most likely left nothing
        self._arrival = time.monotonic() + ARRIVAL_GRACE
        # The port has told that a client is there. Whoever was before us may be leaving just now, with nothing more to
        # be read; until that is seen, whoever follows is taken for the same.
        self._arrived = not at_boundary and not port.wait_writable(0) & select.POLLHUP
        self._usage = Usage(peer, listener.wake, self._release)

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def lost_output(self) -> int:
        """Descriptors of the port that clients have cost it so far."""
        return self._listener.lost_output

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        deadline = Deadline(timeout)
        with self._usage.receiving:
            if self._first:
                count = min(len(buffer), len(self._first))
                buffer[:count] = self._first[:count]
                self._first = self._first[count:]
                return count
            if self._quiet:
                self._quiet = False
                # To read would find nothing, most likely, and this had to be done then in any case.
                flags = self._port.wait_readable(poll_time(deadline), self._wake_fd)
                if not flags & select.POLLHUP:
                    self._arrived = True
                if not flags:
                    self._usage.check()
            received = 0
            large = len(buffer) >= _LARGE
            while not self._client_left:
                views = self._pages.of(buffer[received:], self._bulk)
                try:
                    count = self._port.read_into(views)
                except BlockingIOError:
                    if received:
                        return received
                    self._arrived = True
                    if not self._listener.wait_edge(poll_time(deadline)) and deadline.expired:
                        raise TransportTimeout(f"{self._peer}: nothing received in time") from None
                    self._usage.check()
                except OSError as error:  # unplugged: accept() meets the same
                    if received:
                        return received
                    _log.debug("%s: %s", self._peer, error.strerror)
                    self._client_left = True
                else:
                    if count:
                        self._bulk = count >= READ_SLICE
                        self._quiet = not self._bulk
                        if self.may_be_arriving:
                            self._arrival = time.monotonic() + ARRIVAL_GRACE
                        received += count
                        # Where more is there already, and room for it, it is cheaper to take it at once; and of a
                        # large body it is cheaper to wait for more than to take it in small pieces.
                        if received == len(buffer):
                            return received
                        if count < len(views) * READ_SLICE:
                            if not large or received >= _LARGE:
                                return received
                            time.sleep(_GATHER)
                        continue
                    if received:
                        return received
                    grace = self._arrival - time.monotonic()
                    if grace <= 0 or (self._arrived and not self.may_be_arriving):
                        self._client_left = True
                    else:
                        self._listener.wait_edge(grace * 1000)
                        self._usage.check()
            return 0

    def send_some(self, buffers: Sequence[Buffer], timeout: float | None = None) -> int:
        pieces = _pieces(buffers)
        deadline: Deadline | None = None
        with self._usage.sending:
            while True:
                full = False
                try:
                    sent = self._port.write(pieces)
                    if sent:
                        return sent
                except BlockingIOError:
                    full = True
                except OSError as error:
                    raise TransportClosed(f"{self._peer}: {error.strerror}") from error
                deadline = deadline or Deadline(timeout)
                if full:
                    self._wait_writable(deadline)
                else:
                    self._pause(deadline)  # virtio_console.c, __send_to_port: the queue is full, and nobody was told

    def lose_output(self) -> None:
        self._listener.lose_output()

    def close(self) -> None:
        self._usage.close()

    def _wait_writable(self, deadline: Deadline) -> None:
        # poll() is level-triggered: its HUP means that there is no client, or that one is just arriving.
        arrival = Deadline(ARRIVAL_GRACE)
        while True:
            flags = self._port.wait_writable(poll_time(deadline.sooner(_WRITER_NAP)) or 0)
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

    def _release(self) -> None:
        self._pages = _Pages(0)  # the last ones were of somebody's body
        self._listener.finished(self._client_left)


def _pieces(buffers: Sequence[Buffer]) -> list[memoryview]:
    """The first of what is to be sent, in slices of which each takes a descriptor."""
    pieces: list[memoryview] = []
    for buffer in buffers:
        view = memoryview(buffer)
        size = len(view)
        if size <= WRITE_SLICE:
            pieces.append(view)
        else:
            ends = min(size, WRITE_SLICE * MAX_WRITE_SLICES)
            pieces += [view[start : start + WRITE_SLICE] for start in range(0, ends, WRITE_SLICE)]
        if len(pieces) >= MAX_WRITE_SLICES:
            break
    return pieces[:MAX_WRITE_SLICES]
