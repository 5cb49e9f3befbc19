"""The input of a job that its caller writes: offset by offset, never more than a bound ahead of the job."""

from __future__ import annotations

import os
import threading
from typing import Callable

MAX_AHEAD = 1024 * 1024
"""Bytes that may wait for the job to read them."""

_END_OF_FILE = b"\x04"  # what ends the input of a terminal in its usual mode: VEOF of termios(3)


class InputFeed:
    """A pipe into the job, or the leader of its terminal; a `job.Input`. `changed` is notified, and guards it all."""

    def __init__(
        self, changed: threading.Condition, terminal: int = -1, on_typed: Callable[[bytes], None] = lambda typed: None
    ) -> None:
        """`terminal`: the leader's descriptor, which is then this object's; the follower is `reader`, set by others.
        `on_typed` is told what was written, with the lock held."""
        self._changed = changed
        self._on_typed = on_typed
        self._pending = bytearray()
        self._terminal = terminal >= 0
        self._eof = False
        self.offset = 0
        """Bytes taken from callers so far."""
        self.closed = False
        """Whether nobody will read any more."""
        if self._terminal:
            self.reader, self._writer = -1, terminal
        else:
            self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    # -- for callers

    def take(self, offset: int, content: bytes, eof: bool) -> bool:
        """Take what there is room for of bytes that belong at `offset`; bytes that were taken before are passed over.

        Returns whether all of it was taken, or nobody reads. Raises ValueError for bytes that leave a gap, or come
        after the end. With the lock held.
        """
        if offset > self.offset:
            raise ValueError(f"offset {offset} is beyond the {self.offset} bytes that were written so far")
        fresh = memoryview(content)[self.offset - offset :]
        if self._eof and len(fresh):
            raise ValueError(f"the input has ended after {self.offset} bytes")
        if self.closed:
            return True
        piece = fresh[: max(0, MAX_AHEAD - len(self._pending))]
        self._pending += piece
        self.offset += len(piece)
        if eof and len(piece) == len(fresh) and not self._eof:
            self._eof = True
            if self._terminal:
                self._pending += _END_OF_FILE
        return len(piece) == len(fresh)

    @property
    def behind(self) -> bool:
        """Whether there is something that the pipe has not taken. With the lock held."""
        return bool(self._pending)

    # -- for the job's thread

    def pending(self) -> int:
        """The descriptor to write into; -1 while there is nothing to write."""
        with self._changed:
            return self._writer if self._pending or self._ends() else -1

    def feed(self) -> None:
        """Write what the pipe takes; close it behind the end."""
        with self._changed:
            while self._pending:
                try:
                    count = os.write(self._writer, self._pending)
                except BlockingIOError:
                    return
                except OSError:  # EPIPE: the reader is gone. EIO: the terminal's is
                    self._shut()
                    return
                self._on_typed(bytes(self._pending[:count]))
                del self._pending[:count]
                self._changed.notify_all()
            if self._ends():
                self._shut()

    def release_reader(self) -> None:
        """Close our own copy of the reading end, so that it shows when the job has closed its."""
        with self._changed:
            if self.reader >= 0:
                os.close(self.reader)
                self.reader = -1

    def close(self) -> None:
        """Nobody reads any more."""
        self.release_reader()
        with self._changed:
            self._shut()

    def _ends(self) -> bool:
        return self._eof and not self._terminal and self._writer >= 0

    def _shut(self) -> None:
        self.closed = True
        self._pending.clear()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self._changed.notify_all()
