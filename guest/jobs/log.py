"""What a job wrote to one of its outputs: the last bytes of it, by absolute offset, for any number of readers.

The bytes stand in memory that is not the interpreter's (memfd_create(2)), as a ring: byte N of the output is at N
modulo the capacity. One thread, the job's, fills it; any thread reads. Pages that were never written use no memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import termios
import threading
import time
from typing import Callable

from vsrpc.deadline import Deadline

PIPE_SIZE = 1024 * 1024
"""Bytes that a job may be ahead of us: what a pipe may have without privileges (pipe(7)). Fewer, larger moves."""

_PIECE = 64 * 1024  # bytes read from a terminal at a time
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in the fcntl module since Python 3.10

_ATTENTION = 60.0
"""Seconds after a Read for which a job that holds its output waits for the next: longer than a link takes to heal."""


class OutputLog:
    """The reading end of a job's output, and what came out of it. A `job.Output`.

    `hold`: wait for readers rather than drop what they have not read, as long as they come. `changed` is notified, and
    guards the counters.
    """

    def __init__(
        self,
        capacity: int,
        changed: threading.Condition,
        *,
        hold: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._changed = changed
        self._hold = hold
        self._clock = clock
        self._seen = clock()  # when somebody last read
        self._taken = 0  # up to where
        self._memory: _Memory | None = _Memory()
        self._can_splice = hasattr(os, "splice")  # Python 3.10
        self.start = 0
        """The first byte that is still there."""
        self.end = 0
        """Bytes written so far."""
        self.ended = False
        self.reader, self.writer = -1, -1

    def open_pipe(self) -> None:
        """Let the output be a pipe."""
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        try:
            fcntl.fcntl(self.reader, _F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # the user's pipes use too much already
            pass

    def release(self) -> None:
        """Wait for no reader any more: from now on what is new takes the place of what is oldest."""
        with self._changed:
            self._hold = False
            self._changed.notify_all()

    def use_terminal(self, leader: int, follower: int) -> None:
        """Let the output be a terminal, of which this object has copies of its own."""
        self.reader = os.dup(leader)
        self.writer = os.dup(follower)
        os.set_blocking(self.reader, False)
        self._can_splice = False  # terminals cannot

    # -- for readers

    def content(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `offset` on, and where they begin: later where older ones were dropped."""
        while True:
            with self._changed:
                start, end, memory = self.start, self.end, self._memory
            begin = min(max(offset, start), end)
            content = b"" if memory is None else self._pread(memory, begin, min(limit, end - begin))
            with self._changed:
                if self.start <= begin:  # not overwritten meanwhile
                    return begin, content

    def attend(self, offset: int) -> bool:
        """Somebody has all before `offset` and stays; whether that makes room for a job that waits for it."""
        with self._changed:
            waited = not self._room()
            self._seen = self._clock()
            self._taken = max(self._taken, min(offset, self.end))
            return waited and bool(self._room())

    # -- for the job's thread

    @property
    def has_room(self) -> bool:
        """Whether more can be taken now."""
        with self._changed:
            return self._room() > 0

    @property
    def patience(self) -> Deadline:
        """Until when a full log waits for readers."""
        with self._changed:
            return Deadline(None if self._room() > 0 else max(0.0, self._seen + _ATTENTION - self._clock()))

    def read(self, limit: int = PIPE_SIZE) -> None:
        """Move what is in the pipe here, about `limit` bytes at most; sets `ended` when no writer is left."""
        taken = 0
        while taken < limit and not self.ended and self.reader >= 0:
            with self._changed:
                room = min(self._room(), self._capacity - self.end % self._capacity, limit - taken)
            if room <= 0:
                return
            try:
                waiting = self.waiting()
                if not waiting:
                    self.add(os.read(self.reader, 1) or self._end())
                    continue
                # No more than is there, so that no more is given up than must be.
                self._make_way(min(room, waiting))
                count = self._move(min(room, waiting))
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.EIO:  # a terminal that nobody has open any more (tty_ldisc)
                    raise
                self._end()
                return
            taken += count
            self._grow(count)

    def add(self, piece: bytes) -> None:
        """Write bytes of our own, whether there is room or not."""
        for begin in range(0, len(piece), self._capacity):
            part = piece[begin : begin + self._capacity]
            self._make_way(len(part))
            self._pwrite(part)
            self._grow(len(part))

    def waiting(self) -> int:
        """Bytes in the pipe now."""
        return int.from_bytes(fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)), sys.byteorder)

    def close_writer(self) -> None:
        """Close our own copy of the writing end, so that the pipe can end."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close_reader(self) -> None:
        """Take no more."""
        self.close_writer()
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self) -> None:
        """Forget the bytes; whoever still reads gets none."""
        self.close_reader()
        self._memory = None

    # --

    def _room(self) -> int:
        if not self._hold or self._clock() - self._seen > _ATTENTION:
            return self._capacity
        return self._capacity - (self.end - max(self._taken, self.start))

    def _end(self) -> bytes:
        self.ended = True
        return b""

    def _make_way(self, count: int) -> None:
        """Give up what `count` further bytes will overwrite, before they do."""
        with self._changed:
            self.start = max(self.start, self.end + count - self._capacity)

    def _grow(self, count: int) -> None:
        with self._changed:
            self.end += count
            self._changed.notify_all()

    def _move(self, room: int) -> int:
        """Bytes moved from the pipe, at most `room`, which do not cross the ring's end."""
        if self._can_splice:
            try:
                return os.splice(  # type: ignore[attr-defined, no-any-return, unused-ignore]
                    self.reader, self._fd(), room, offset_dst=self.end % self._capacity
                )
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
                self._can_splice = False
        piece = os.read(self.reader, min(room, _PIECE))
        self._pwrite(piece)
        return len(piece)

    def _pwrite(self, piece: bytes) -> None:
        at = self.end % self._capacity
        first = min(len(piece), self._capacity - at)
        os.pwrite(self._fd(), piece[:first], at)
        if first < len(piece):
            os.pwrite(self._fd(), piece[first:], 0)

    def _fd(self) -> int:
        assert self._memory is not None, "the job has ended"
        return self._memory.fd

    def _pread(self, memory: _Memory, offset: int, count: int) -> bytes:
        at = offset % self._capacity
        first = min(count, self._capacity - at)
        content = os.pread(memory.fd, first, at)
        return content if first == count else content + os.pread(memory.fd, count - first, 0)


class _Memory:
    """An open file of memory, for as long as anybody uses it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("vsrpc-job", os.MFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)
