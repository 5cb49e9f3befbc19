"""What every byte stream between the two ends offers, its errors, and what the transports share.

A transport is one peer's stream; a listener hands out transports. Both block; any thread may close them, which
wakes whoever waits. One thread receives and another sends at the same time; two never receive at once.
"""

from __future__ import annotations

import threading
from typing import Callable, Protocol, Sequence, Union

from vsrpc.deadline import Deadline

Buffer = Union[bytes, bytearray, memoryview]

# poll() takes a C int of milliseconds.
_MAX_POLL = 2**31 - 1


class TransportError(Exception):
    """Base of what a transport raises; its text names the peer and the cause."""


class ConnectFailed(TransportError):
    """No connection: the text says why and what to do."""


class TransportTimeout(TransportError):
    """Nothing could be received, or not everything sent, in the time given."""


class TransportClosed(TransportError):
    """The peer has gone, or this end was closed."""


class Transport(Protocol):
    """A byte stream to one peer.

    `peer_sees_end`: whether the peer learns of close(). A port's client does not: to it the guest falls silent.
    `at_boundary`: whether the stream begins with this peer's first byte. At a port whose client was there before this
    end, nobody knows what its next byte belongs to.
    `may_be_arriving`: set by who receives: whether what came last may be a new peer's, so that the port's word that
    nobody is there may only be late.
    """

    peer_sees_end: bool
    at_boundary: bool
    may_be_arriving: bool

    @property
    def peer(self) -> str:
        """The other end, for logs and messages."""

    @property
    def lost_output(self) -> int:
        """How much of the room for output earlier peers may have cost for good; 0 where that cannot be."""

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Receive at least one byte into `buffer`; the number of bytes, or 0 once the peer has gone.

        Raises TransportTimeout after `timeout` seconds without a byte, TransportClosed when this end is closed,
        before or meanwhile.
        """

    def send_some(self, buffers: Sequence[Buffer], timeout: float | None = None) -> int:
        """Send the first bytes of `buffers`, at least one; how many.

        Raises TransportTimeout when none could be sent in `timeout` seconds, TransportClosed when the peer has gone or
        this end is closed.
        """

    def lose_output(self) -> None:
        """Told that a peer has gone to which output was on its way."""

    def close(self) -> None:
        """End the stream and wake whoever waits on it; may be called again."""


class PeerStream:
    """What a transport is that has one peer only, who learns of its end."""

    peer_sees_end = True
    at_boundary = True
    may_be_arriving = False

    @property
    def lost_output(self) -> int:
        return 0

    def lose_output(self) -> None:
        pass


class Listener(Protocol):
    """Where peers come from."""

    @property
    def serves_one(self) -> bool:
        """Whether a peer comes only when the one before has left: whoever accepts it may as well serve it."""

    @property
    def address(self) -> str:
        """Where it listens, for logs and messages."""

    def accept(self) -> Transport:
        """Wait for the next peer. Raises TransportClosed after close(), OSError when listening is not possible."""

    def close(self) -> None:
        """Stop listening and wake accept(); transports handed out live on. May be called again."""


def send_all(transport: Transport, buffers: Sequence[Buffer], timeout: float | None = None) -> None:
    """Send all of `buffers`, in order.

    Raises TransportTimeout when that takes longer than `timeout` seconds (part may have gone: the stream is then of no
    more use), TransportClosed when the peer has gone or this end is closed.
    """
    deadline = Deadline(timeout)
    rest = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while rest:
        rest = advance(rest, transport.send_some(rest, deadline.remaining()))


def advance(buffers: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `buffers` after `sent` bytes of them went out."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


def poll_time(deadline: Deadline) -> float | None:
    """Milliseconds that one poll() may wait for a deadline; it may have to be called again."""
    remaining = deadline.remaining()
    return None if remaining is None else min(remaining * 1000, _MAX_POLL)


class Usage:
    """Who is inside a transport or listener, so that its descriptors are closed after the last has left.

    A descriptor closed under a thread that uses it could be another file's by the time the kernel looks at it.

        with usage.receiving: ...    (or `sending`) one thread at a time uses it; TransportClosed once it is closed
        usage.close()                `wake`s the users; `release` is called once, by it or by the last user

    close() waits for nobody: a signal handler may call it in a thread that is inside.
    """

    def __init__(self, name: str, wake: Callable[[], object], release: Callable[[], object]) -> None:
        self._name = name
        self._wake = wake
        self._release = release
        self._first = threading.Lock()  # of who closes it first
        self._woken = False  # all that were inside when it was closed
        self._released = False
        self.closed = False
        self.receiving = _Side(self)
        self.sending = _Side(self)

    def check(self) -> None:
        """Raises TransportClosed once it is closed: for users, after each time that they waited."""
        if self.closed:
            raise TransportClosed(f"{self._name}: closed")

    def close(self) -> None:
        if self._first.acquire(blocking=False):
            self.closed = True
            self._wake()
            self._woken = True
            self.settle()

    def settle(self) -> None:
        """It is closed: release it, if nobody is inside; else the last one who leaves will."""
        receiving, sending = self.receiving.lock, self.sending.lock
        while self._woken and not self._released and receiving.acquire(blocking=False):
            alone = sending.acquire(blocking=False)
            if alone:
                self._released = True
                sending.release()
            receiving.release()
            if alone:
                self._release()
            elif sending.locked():  # else whoever it was found the other lock taken, by us
                return


class _Side:
    """One of the two ways to use a transport."""

    __slots__ = ("_usage", "lock")

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.lock.acquire()
        if self._usage.closed:
            self.__exit__()
            self._usage.check()

    def __exit__(self, *exception: object) -> None:
        self.lock.release()
        if self._usage.closed:
            self._usage.settle()
