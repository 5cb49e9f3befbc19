"""Leaves a job's full input to the job for a moment.

It goes on meanwhile, with what the pipe holds; else each of its reads, of perhaps 64 KiB, wakes us, which costs a slow
machine more than the bytes. Output does not rest: what a job answers is waited for.
"""

from __future__ import annotations

import fcntl

from vsrpc.deadline import NO_DEADLINE, Deadline

PIPE_SIZE = 1024 * 1024
"""Bytes that a job may be ahead of us: what a pipe may have without privileges (pipe(7))."""

INPUT_PIPE_SIZE = 2 * PIPE_SIZE
"""Bytes of input that a job may be behind, where we have the privilege (CAP_SYS_RESOURCE); else PIPE_SIZE."""

_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in the fcntl module since Python 3.10

_LEAST, _MOST = 0.001, 0.032  # seconds of a rest
_FEW, _MANY = 0.5, 0.75  # of the pipe's size after one: that it was too short, or too long


def enlarge(pipe: int, size: int = PIPE_SIZE) -> bool:
    """Let a pipe hold so many bytes; whether it does."""
    try:
        held: int = fcntl.fcntl(pipe, _F_SETPIPE_SZ, size)
    except OSError:  # it is not allowed, or the user's pipes use too much already
        return False
    return held >= size


class Rest:
    """When a pipe that was full is filled again."""

    def __init__(self, pipe: int = -1) -> None:
        """`pipe` is enlarged. Where that is refused, and without one, there is no rest: it would stand still."""
        self._size = next((size for size in (INPUT_PIPE_SIZE, PIPE_SIZE) if pipe >= 0 and enlarge(pipe, size)), 0)
        self._seconds = 0.0
        self._until = NO_DEADLINE

    def begin(self, moved: int) -> None:
        """Rest, after so many bytes were moved: for longer, if they were few after the last rest."""
        if not self._size:
            return
        if moved < _FEW * self._size:
            self._seconds = min(max(2 * self._seconds, _LEAST), _MOST)
        elif moved > _MANY * self._size:
            self._seconds = max(self._seconds / 2, _LEAST)
        self._until = Deadline(self._seconds)

    @property
    def left(self) -> float:
        """Seconds for which to leave it alone."""
        return self._until.remaining() or 0.0
