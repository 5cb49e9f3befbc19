"""Tells those who wait for a job's memory to change, also in another process."""

from __future__ import annotations

import threading

from guest.jobs.memory import Memory
from guest.jobs.wake import Wake


class Changes(threading.Condition):
    """A condition that is also told to another process, of what that watches (Memory)."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory
        self._others: Wake | None = None

    def dup(self) -> list[int]:
        """Both ends of the pipe by which others are told. Raises OSError."""
        with self:
            if self._others is None:
                self._others = Wake()
            return self._others.dup(reader=True)

    def notify_all(self) -> None:
        """Anything may have changed."""
        super().notify_all()
        watched = [self._memory.take_output_watch(), self._memory.take_input_watch(over=True)]
        self._tell(any(watched))

    def output_came(self) -> None:
        """There is more output."""
        super().notify_all()
        self._tell(self._memory.take_output_watch())

    def input_taken(self) -> None:
        """The job has taken input; nobody is told before there is the room that is waited for."""
        if self._memory.take_input_watch():
            super().notify_all()
            self._tell(True)

    def close(self) -> None:
        """Nobody else is told any more."""
        with self:
            if self._others is not None:
                self._others.close()

    def _tell(self, watched: bool) -> None:
        if self._others is not None and watched:
            self._others.set()
