"""Leaves a pipe to the processes at its other end for a moment, where much goes through it.

They go on meanwhile, with what it holds; else each of their moves, of perhaps 64 KiB, wakes us, which costs a slow
machine more than the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl

from vsrpc.deadline import NO_DEADLINE, Deadline

PIPE_SIZE = 1024 * 1024
"""Bytes that a job may be ahead of us, or behind: what a pipe may have without privileges (pipe(7))."""

_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in the fcntl module since Python 3.10

_LEAST, _MOST = 0.001, 0.016  # seconds of a rest
_FEW, _MANY = PIPE_SIZE // 4, PIPE_SIZE // 2  # bytes after one: that it was too short, or too long


class Rest:
    """When a pipe is looked at again."""

    def __init__(self) -> None:
        self._is_large = False
        self._seconds = 0.0
        self._until = NO_DEADLINE

    def enlarge(self, pipe: int) -> None:
        """Let the pipe hold PIPE_SIZE. Where it may not there is no rest: it would stand still."""
        with contextlib.suppress(OSError):  # the user's pipes use too much already
            self._is_large = fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE_SIZE) >= PIPE_SIZE

    def begin(self, moved: int) -> None:
        """Rest, after so many bytes were moved: for longer, if they were few after the last rest."""
        if not self._is_large:
            return
        if moved < _FEW:
            self._seconds = min(max(2 * self._seconds, _LEAST), _MOST)
        elif moved > _MANY:
            self._seconds = max(self._seconds / 2, _LEAST)
        self._until = Deadline(self._seconds)

    def end(self) -> None:
        """It has no hurry any more: the next rest begins anew."""
        self._seconds, self._until = 0.0, NO_DEADLINE

    @property
    def left(self) -> float:
        """Seconds for which to leave it alone."""
        return self._until.remaining() or 0.0
