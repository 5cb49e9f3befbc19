"""The input of a job that its caller writes: moved from the job's memory into its pipe or terminal."""

from __future__ import annotations

import os
from typing import Callable

from guest.jobs.changes import Changes
from guest.jobs.memory import InputRing, Memory
from guest.jobs.rest import Rest

_END_OF_FILE = b"\x04"  # what ends the input of a terminal in its usual mode: VEOF of termios(3)


class InputFeed:
    """A pipe into the job, or the leader of its terminal; a `job.Input`. `changed` is notified, and guards it all."""

    def __init__(
        self,
        memory: Memory,
        changed: Changes,
        terminal: int = -1,
        on_typed: Callable[[memoryview], None] = lambda typed: None,
    ) -> None:
        """`memory` is one that takes input. `terminal`: the leader's descriptor, which is then this object's; the
        follower is `reader`, set by others. `on_typed` is told what was written, with the lock held."""
        assert memory.input is not None
        self.ring: InputRing = memory.input
        self._changed = changed
        self._on_typed = on_typed
        self._terminal = terminal >= 0
        self._ended = False
        self._since_rest = 0  # bytes that the pipe has taken
        if self._terminal:
            self.reader, self._writer = -1, terminal
            self._rest = Rest()
        else:
            self.reader, self._writer = os.pipe()
            self._rest = Rest(self._writer)
        os.set_blocking(self._writer, False)

    @property
    def echoes(self) -> bool:
        """Whether it is a terminal's."""
        return self._terminal

    def pending(self) -> tuple[int, float]:
        """The descriptor to write into, -1 while there is nothing to write; and the seconds for which a full pipe is
        left to its reader."""
        with self._changed:
            return self._writer if self._has_more else -1, self._rest.left

    def feed(self) -> None:
        """Write what the pipe takes; close it behind the end."""
        with self._changed:
            while self._writer >= 0:
                ends = self._ends()  # before what comes in front of it is looked for: another process may give both now
                piece = self.ring.next()
                wanted = len(piece)
                if not wanted and not ends:
                    return
                try:
                    count = self._write(piece)
                except BlockingIOError:
                    self._is_full()
                    return
                except OSError:  # EPIPE: the reader is gone. EIO: the terminal's is
                    self._shut()
                    return
                self._on_typed(piece[:count])
                del piece  # from now on others may write there
                self._since_rest += count
                self.ring.fed(count)
                self._changed.input_taken()
                if count < wanted:
                    self._is_full()
                    return

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

    def _is_full(self) -> None:
        if not self._rest.left:
            self._rest.begin(self._since_rest)
            self._since_rest = 0

    @property
    def _has_more(self) -> bool:
        return self._writer >= 0 and (self.ring.behind > 0 or self._ends())

    def _ends(self) -> bool:
        return self.ring.eof and not self._ended

    def _write(self, piece: memoryview) -> int:
        """Bytes of the piece written, or the end where it is empty."""
        if len(piece):
            return os.write(self._writer, piece)
        if self._terminal:
            os.write(self._writer, _END_OF_FILE)
            self._ended = True
        else:
            self._shut()
        return 0

    def _shut(self) -> None:
        self.ring.close()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self._changed.input_taken()
