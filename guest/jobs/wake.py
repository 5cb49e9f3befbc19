"""A pipe that wakes a thread."""

from __future__ import annotations

import math
import os
import select
import threading

from vsrpc.deadline import Deadline


class Wake:
    """Wakes a thread that polls `fileno()`; may be set from any thread, at any time, also after it was closed."""

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """`ends` of a pipe that processes share; the first may be -1 where another one reads. Both are then this
        object's. Raises OSError."""
        self._reader, self._writer = os.pipe() if ends is None else ends
        for fd in (self._reader, self._writer):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._reader

    def set(self) -> None:
        """Make it readable."""
        with self._lock:
            if not self._closed:
                try:
                    os.write(self._writer, b"!")
                except (BlockingIOError, BrokenPipeError):  # it is readable already; nobody will ever look
                    pass

    def clear(self) -> None:
        """Make it unreadable again."""
        with self._lock:
            if not self._closed:
                try:
                    os.read(self._reader, 4096)
                except BlockingIOError:
                    pass

    def wait(self, deadline: Deadline) -> None:
        """Wait until it is set, or the deadline, and make it unreadable again; for one thread at a time."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if poll.poll(milliseconds(deadline)):
            self.clear()

    def dup(self, *, reader: bool) -> list[int]:
        """New descriptors for a Wake of another process: the writer, or both. Raises OSError, ValueError after
        `close`."""
        with self._lock:
            if self._closed:
                raise ValueError("it is closed")
            fds: list[int] = []
            try:
                for fd in (self._reader, self._writer) if reader else (self._writer,):
                    fds.append(os.dup(fd))
            except BaseException:
                for fd in fds:
                    os.close(fd)
                raise
            return fds

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for fd in (self._reader, self._writer):
                    if fd >= 0:
                        os.close(fd)


def milliseconds(deadline: Deadline) -> int | None:
    """What is left until the deadline, for poll()."""
    remaining = deadline.remaining()
    return None if remaining is None else math.ceil(remaining * 1000)
