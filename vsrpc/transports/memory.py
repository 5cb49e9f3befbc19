"""A transport inside one process: two ends joined by two bounded buffers. For tests, and for embedding."""

from __future__ import annotations

import threading
from collections import deque
from typing import Sequence

from vsrpc.transports.base import Buffer, ConnectFailed, PeerStream, TransportClosed, TransportTimeout


class _Pipe:
    """One direction: bytes in order, at most `capacity` of them unread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._changed = threading.Condition()
        self._closed = False

    def read(self, buffer: memoryview, timeout: float | None) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._data or self._closed, timeout):
                raise TransportTimeout("memory: nothing received in time")
            count = min(len(buffer), len(self._data))
            buffer[:count] = self._data[:count]
            del self._data[:count]
            self._changed.notify_all()
            return count

    def write(self, data: memoryview, timeout: float | None) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or len(self._data) < self._capacity, timeout):
                raise TransportTimeout("memory: the peer does not read in time")
            if self._closed:
                raise TransportClosed("memory: the peer has gone")
            count = min(len(data), self._capacity - len(self._data))
            self._data += data[:count]
            self._changed.notify_all()
            return count

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MemoryTransport(PeerStream):
    """One end of `memory_pair`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    @property
    def peer(self) -> str:
        return "memory:"

    def recv_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        self._check_open()
        count = self._incoming.read(buffer, timeout)
        self._check_open()  # what ended the wait may have been this end's close()
        return count

    def send_some(self, buffers: Sequence[Buffer], timeout: float | None = None) -> int:
        self._check_open()
        return self._outgoing.write(memoryview(buffers[0]), timeout)

    def close(self) -> None:
        self._closed = True
        self._outgoing.close()
        self._incoming.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("memory: closed")


def memory_pair(capacity: int = 1 << 16) -> tuple[MemoryTransport, MemoryTransport]:
    """Two joined ends; each direction holds at most `capacity` unread bytes."""
    one, two = _Pipe(capacity), _Pipe(capacity)
    return MemoryTransport(one, two), MemoryTransport(two, one)


class MemoryListener:
    """A listener whose peers are made by `connect()` in the same process."""

    serves_one = False

    def __init__(self, capacity: int = 1 << 16) -> None:
        self._capacity = capacity
        self._waiting: deque[MemoryTransport] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def address(self) -> str:
        return "memory:"

    def connect(self, timeout: float | None = None) -> MemoryTransport:
        """A client's end; the server's end comes out of accept(). Raises ConnectFailed."""
        client, server = memory_pair(self._capacity)
        with self._changed:
            if self._closed:
                raise ConnectFailed("memory: nobody listens")
            self._waiting.append(server)
            self._changed.notify_all()
        return client

    def accept(self) -> MemoryTransport:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                raise TransportClosed("memory: closed")
            return self._waiting.popleft()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, deque()
        for transport in waiting:
            transport.close()
