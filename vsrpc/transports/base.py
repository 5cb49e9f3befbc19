"""What every byte stream between the two ends offers, and its errors.

A transport is one peer's stream; a listener hands out transports. Both block; any thread may close them, which
wakes whoever waits. One thread receives and another sends at the same time; two never receive at once.
"""

from __future__ import annotations

from typing import Protocol, Sequence, Union

Buffer = Union[bytes, bytearray, memoryview]


class TransportError(Exception):
    """Base of what a transport raises; its text names the peer and the cause."""


class ConnectFailed(TransportError):
    """No connection: the text says why and what to do."""


class TransportTimeout(TransportError):
    """Nothing could be received, or not everything sent, in the time given."""


class TransportClosed(TransportError):
    """The peer has gone, or this end was closed."""


class Transport(Protocol):
    """A byte stream to one peer."""

    @property
    def peer(self) -> str:
        """The other end, for logs and messages."""

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Receive at least one byte into `buffer`; the number of bytes, or 0 once the peer has gone.

        Raises TransportTimeout after `timeout` seconds without a byte, TransportClosed after close().
        """

    def send(self, buffers: Sequence[Buffer], timeout: float | None = None) -> None:
        """Send all of `buffers`, in order.

        Raises TransportTimeout when that takes longer than `timeout` seconds (part may have gone: the stream is
        then of no more use), TransportClosed when the peer has gone.
        """

    def close(self) -> None:
        """End the stream and wake whoever waits on it; may be called again."""


class Listener(Protocol):
    """Where peers come from."""

    @property
    def address(self) -> str:
        """Where it listens, for logs and messages."""

    def accept(self) -> Transport:
        """Wait for the next peer. Raises TransportClosed after close(), OSError when listening is not possible."""

    def close(self) -> None:
        """Stop listening and wake accept(); transports handed out live on. May be called again."""


def advance(buffers: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `buffers` after `sent` bytes of them went out."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []
