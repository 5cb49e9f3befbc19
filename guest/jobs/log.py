"""What a job wrote to one of its outputs: moved from its pipe or terminal into the job's memory."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import termios

from guest.jobs.changes import Changes
from guest.jobs.memory import Memory, OutputRing
from guest.jobs.rest import PIPE_SIZE, enlarge

_PIECE = 64 * 1024  # bytes that are moved at a time where they must be copied
_TERMINAL_PIECE = 8 * 1024  # the same from a terminal, which gives some 4 KiB
_LITTLE = 512  # bytes from a terminal after which it is not asked at once whether there is more
_TERMINAL_SIZE = 256 * 1024  # bytes: more than the kernel keeps between the ends of one (TTYB_DEFAULT_MEM_LIMIT)


class OutputLog:
    """The reading end of a job's output, and what came out of it. A `job.Output`. `changed` is notified.

    Readers may lose what they have not read, unless the job's memory holds it for them (Memory.make). One thread, the
    job's, moves it; any may read.
    """

    def __init__(self, memory: Memory, ring: OutputRing, changed: Changes) -> None:
        self._memory = memory
        self._ring = ring
        self._changed = changed
        self._can_splice = hasattr(os, "splice")  # Python 3.10
        self._is_terminal = False
        self.ended = False
        self.reader, self.writer = -1, -1

    def open_pipe(self) -> None:
        """Let the output be a pipe."""
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        enlarge(self.reader)

    def use_terminal(self, leader: int, follower: int) -> None:
        """Let the output be a terminal, of which this object has copies of its own."""
        self.reader = os.dup(leader)
        self.writer = os.dup(follower)
        os.set_blocking(self.reader, False)
        self._is_terminal = True

    # -- for readers

    @property
    def start(self) -> int:
        """The first byte that is still there."""
        return self._ring.start

    @property
    def end(self) -> int:
        """Bytes written so far."""
        return self._ring.end

    def content(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `offset` on, and where they begin: OutputRing.content."""
        return self._ring.content(offset, limit)

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int]:
        """The same into a buffer: where they begin, and how many they are."""
        return self._ring.read_into(offset, buffer)

    # -- for the job's thread

    @property
    def has_room(self) -> bool:
        """Whether more can be taken now."""
        return self._ring.room > 0

    @property
    def pause(self) -> float:
        """Seconds for which a full log waits for readers."""
        return self._ring.patience

    def read(self, limit: int = PIPE_SIZE) -> None:
        """Move what is in the pipe here, about `limit` bytes at most; sets `ended` when no writer is left."""
        if self._is_terminal:
            # What fills a terminal as fast as it is emptied must not keep its job from the keys that are to end that.
            self._read_terminal(min(limit, _PIECE))
            return
        taken, there = 0, -1
        while there and taken < limit and not self.ended and self.reader >= 0:
            room = min(self._ring.room, limit - taken)
            if room <= 0:
                return
            try:
                if there < 0:
                    there = self.waiting()
                    if not there:
                        self.add(os.read(self.reader, 1) or self._end())
                        there = -1
                        continue
                # No more than is there, so that no more is given up than must be.
                place, room = self._ring.place(min(room, there))
                self._ring.make_way(room)
                with self._memory.file() as fd:
                    assert fd is not None, "the job has not ended"
                    count = self._move(fd, place, room)
            except BlockingIOError:
                return
            taken += count
            there -= count
            self._grow(count)

    def _read_terminal(self, limit: int) -> None:
        """The same of a terminal: it must be copied anyway, so that it shows what was there when it has been read."""
        while limit > 0 and not self.ended and self.reader >= 0:
            room = min(self._ring.room, limit, _TERMINAL_PIECE)
            if room <= 0:
                return
            try:
                # Also what is on its way still, in the kernel's queue of work (n_tty_read).
                piece = os.read(self.reader, room)
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.EIO:  # a terminal that nobody has open any more (tty_ldisc)
                    raise
                piece = b""
            self.add(piece or self._end())
            limit -= len(piece)
            if len(piece) < _LITTLE:
                return  # most likely all: a key's echo

    def add(self, piece: bytes) -> None:
        """Write bytes of our own, whether there is room or not."""
        rest = memoryview(piece)
        with self._memory.file() as fd:
            assert fd is not None, "the job has not ended"
            while len(rest):
                place, count = self._ring.place(len(rest))
                self._ring.make_way(count)
                os.pwrite(fd, rest[:count], place)
                self._grow(count)
                rest = rest[count:]

    @property
    def most_waiting(self) -> int:
        """Bytes that may be there although waiting() has told of fewer: none in a pipe."""
        return _TERMINAL_SIZE if self._is_terminal else 0

    def waiting(self) -> int:
        """Bytes in the pipe now; of a terminal only the first of them."""
        if self._is_terminal:
            # What was written may be on its way still, in the kernel's queue of work. FIONREAD of a terminal does not
            # wait for that; poll() does (n_tty_poll), but for what exceeds the reader's 4 KiB.
            poll = select.poll()
            poll.register(self.reader, select.POLLIN)
            poll.poll(0)
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

    # --

    def _end(self) -> bytes:
        self.ended = True
        return b""

    def _grow(self, count: int) -> None:
        self._ring.grow(count)
        with self._changed:
            self._changed.output_came()

    def _move(self, fd: int, place: int, count: int) -> int:
        """Bytes moved from the pipe, at most `count`, to where in the memory's file they belong."""
        if self._can_splice:
            try:
                return os.splice(  # type: ignore[attr-defined, no-any-return, unused-ignore]
                    self.reader, fd, count, offset_dst=place
                )
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
                self._can_splice = False
        piece = os.read(self.reader, min(count, _PIECE))
        os.pwrite(fd, piece, place)
        return len(piece)
