"""Buffers for the content of chunks, used again: the kernel must provide the pages of a new one, which under load costs
more than filling it."""

from __future__ import annotations

import threading

_KEPT = 4

_LARGEST = 5 * 1024 * 1024  # bytes: of a chunk; what is read whole is rare


class BufferPool:
    """Buffers of one size, that of the chunks asked for last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer of that size, of whatever content."""
        with self._lock:
            if self._free and len(self._free[-1]) == size:
                return self._free.pop()
        return bytearray(size)

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._free.clear()

    def give(self, buffer: bytearray) -> None:
        """Nobody uses the buffer any more."""
        with self._lock:
            if self._free and len(self._free[-1]) != len(buffer):
                self._free.clear()
            if len(self._free) < _KEPT and len(buffer) <= _LARGEST:
                self._free.append(buffer)


BUFFERS = BufferPool()
"""What the daemon's files and jobs are read into."""
