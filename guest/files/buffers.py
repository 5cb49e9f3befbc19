"""Buffers for the content of chunks, used again: the kernel must provide the pages of a new one, which under load costs
more than filling it."""

from __future__ import annotations

import threading

_KEPT = 8 * 1024 * 1024  # bytes in all

# Bytes: what is smaller comes from the heap; of what is larger, chunks are not, and what is read whole is rare.
_SMALLEST = 128 * 1024
_LARGEST = 5 * 1024 * 1024


class BufferPool:
    """Buffers of one size, that of the chunks asked for last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer of that size, of whatever content."""
        if size >= _SMALLEST:
            with self._lock:
                if self._free and len(self._free[-1]) == size:
                    return self._free.pop()
                self._free.clear()  # before there is more
        return bytearray(size)

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._free.clear()

    def give(self, buffer: bytearray) -> None:
        """Nobody uses the buffer any more."""
        if not _SMALLEST <= len(buffer) <= _LARGEST:
            return
        with self._lock:
            if self._free and len(self._free[-1]) != len(buffer):
                self._free.clear()
            if (len(self._free) + 1) * len(buffer) <= _KEPT:
                self._free.append(buffer)


BUFFERS = BufferPool()
"""What the daemon's files and jobs are read into."""
