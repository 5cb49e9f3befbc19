"""Files that are read one chunk after another: they stay open, and are not judged anew for each chunk.

To open a file by the path policy takes a dozen system calls, between which a busy daemon's threads take turns. A file
that stays open was judged at most a second ago, and its path still leads to it.
"""

from __future__ import annotations

import os
import threading
from typing import Callable

from guest.policy.paths import Opened
from vsrpc.deadline import Deadline

_JUDGED = 1.0  # seconds for which a judgement is good
_MOST = 8  # files that stay open


class OpenFile:
    """A file that is open for reading, and the rule that allowed it."""

    def __init__(self, opened: Opened) -> None:
        self.fd, self.rule = opened
        self.status = os.fstat(self.fd)
        """What it was when it was opened."""
        self.judged = Deadline(_JUDGED)
        self.readers = 1
        self.kept = False
        self.wanted = True  # its end was not read yet

    def close_unused(self) -> None:
        """Close it, unless it is kept, somebody reads, or it is closed."""
        if not self.kept and not self.readers and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class OpenFiles:
    """The files that are open. Thread-safe.

    Whoever takes a file gives it back. `open_read` opens and judges one, and raises what it wants.
    """

    def __init__(self, open_read: Callable[[str], Opened]) -> None:
        self._open_read = open_read
        self._lock = threading.Lock()
        self._files: dict[str, OpenFile] = {}  # those that are kept, the oldest first

    def take(self, path: str) -> tuple[OpenFile, os.stat_result]:
        """The file to which a path leads, and what it is now."""
        file = self._files.get(path)
        if file is not None:
            now = _status(path)
            with self._lock:
                if file.kept:
                    if now is not None and os.path.samestat(now, file.status) and not file.judged.expired:
                        file.readers += 1
                        return file, now
                    self._drop(path)
        file = OpenFile(self._open_read(path))
        return file, file.status

    def give(self, path: str, file: OpenFile, *, again: bool) -> None:
        """The file is not read any more; `again`: but it will be, by that path, so that it may stay open."""
        with self._lock:
            file.readers -= 1
            if not again:
                self._drop(path)
                file.wanted = False
            elif file.wanted and path not in self._files and not file.judged.expired:
                if len(self._files) == _MOST:
                    self._drop(next(iter(self._files)))
                self._files[path] = file
                file.kept = True
            file.close_unused()

    def clear(self) -> None:
        """Keep none open."""
        with self._lock:
            for path in list(self._files):
                self._drop(path)

    def _drop(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            file.kept = False
            file.close_unused()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # opening it says more
        return None
