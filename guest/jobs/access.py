"""What may be done with a job by who reads its output and writes its input, in its own process or in another one."""

from __future__ import annotations

import threading
from typing import Callable, Protocol

from guest.jobs.memory import NAP, InputRing, Memory
from vsrpc.deadline import Deadline

_SHARE = 2  # of the room for input there must be one part for those who have more, before they are told of it


class OutputReader(Protocol):
    """One output, for readers (guest.jobs.memory.OutputRing)."""

    @property
    def start(self) -> int:
        """The first byte that is still there."""

    @property
    def end(self) -> int:
        """Bytes written so far."""

    def content(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `offset` on, and where they begin: later where older ones were dropped."""

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int]:
        """The same into a buffer: where they begin, and how many they are."""


class JobAccess:
    """A job's memory, and who is told of changes to it. Thread-safe."""

    stdout: OutputReader
    stderr: OutputReader

    def __init__(self, job_id: str, memory: Memory, changed: threading.Condition, wake: Callable[[], None]) -> None:
        """`changed` is notified of all that happens; `wake` makes the job look for what it may do."""
        self.id = job_id
        self.changed = changed
        self._memory = memory
        self._input: InputRing | None = memory.input
        self._wake = wake
        self._gaps = 0  # how many wait for bytes in front of their own

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        raise NotImplementedError

    @property
    def takes_input(self) -> bool:
        """Whether it was started with input."""
        return self._input is not None

    @property
    def input_offset(self) -> int:
        """Bytes of input taken so far."""
        return self._input.offset if self._input else 0

    @property
    def input_closed(self) -> bool:
        """Whether nobody reads the input any more."""
        return self._input is None or self._input.closed

    def attend(self, stdout: int, stderr: int) -> None:
        """A reader has the outputs up to there, and stays."""
        if self._memory.attend(stdout, stderr):
            self._wake()
            self.poke()

    def takes_now(self, offset: int, count: int) -> bool:
        """Whether so many bytes of input at that offset are taken without waiting."""
        return self._input is None or self._input.takes(offset, count)

    def write(
        self,
        offset: int,
        content: memoryview,
        eof: bool,
        deadline: Deadline,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Give it input; returns when all was taken, at the deadline, when nobody reads, or it is not `wanted`.

        Bytes that leave a gap wait for those before them. Raises ValueError for those that leave one at once, where
        there is no time, and for some after the end: see InputRing.take.
        """
        ring = self._input
        if ring is None:
            raise ValueError("the job was started without input")
        may_wait = not deadline.expired
        with self.changed:
            while True:
                gap = offset > ring.offset and may_wait
                if not gap:
                    before = ring.offset
                    all_taken = ring.take(offset, content, eof)
                    if self._gaps and ring.offset > before:
                        self.changed.notify_all()
                    self._feed()
                    if all_taken:
                        return
                if ring.closed or self.over or deadline.expired or not wanted():
                    return
                left = offset + len(content) - ring.offset
                enough = ring.size if gap else max(1, min(left, ring.size // _SHARE))
                self._memory.watch_input(enough)
                # There may have been a change just before. It is only looked for: to take and to feed now would be news
                # that the watch is over, and that nobody hears.
                if ring.closed or self.over or (offset <= ring.offset if gap else ring.room >= enough):
                    continue
                self._gaps += gap
                try:
                    self._pause(deadline.sooner(NAP))
                finally:
                    self._gaps -= gap

    def wait(self, deadline: Deadline, until: Callable[[], bool]) -> None:
        """Wait until `until()`, which is called with the lock held, or the deadline."""
        with self.changed:
            while True:
                self._memory.watch_output()
                if until() or deadline.expired:
                    return
                self._pause(deadline)

    def poke(self) -> None:
        """Let whoever waits look again at what it waits for."""
        with self.changed:
            self.changed.notify_all()

    def _pause(self, deadline: Deadline) -> None:
        """Wait for a change, at most until the deadline; with the lock held."""
        self.changed.wait(deadline.remaining())

    def _feed(self) -> None:
        """There may be input for the job."""
        self._wake()
