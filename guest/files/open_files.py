"""Files that are read one chunk after another: they stay open, and are not judged anew for each chunk.

To open a file by the path policy takes a dozen system calls, between which a busy daemon's threads take turns. A file
that stays open was judged at most a second ago, and its path still leads to it.
"""

from __future__ import annotations

import os
import threading
from typing import Callable

from guest.os_errors import as_rpc_error
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


class OpenFiles:
    """The files that are open. Thread-safe.

    Whoever takes a file gives it back. `open_read` opens and judges one, and raises what it wants.
    """

    def __init__(self, open_read: Callable[[str], Opened]) -> None:
        self._open_read = open_read
        self._lock = threading.Lock()
        self._files: dict[str, OpenFile] = {}  # those that are kept, the oldest first
        # Those that were read to their end, the oldest first, and until when they are not kept.
        self._ended: dict[str, Deadline] = {}

    def take(self, path: str) -> tuple[OpenFile, os.stat_result]:
        """The file to which a path leads, and what it is now."""
        self.sweep()
        file = self._files.get(path)
        if file is not None:
            now = _status(path)
            if now is not None and os.path.samestat(now, file.status):
                with self._lock:
                    if file.kept:
                        file.readers += 1
                        return file, now
        opened = self._open_read(path)
        try:
            file = OpenFile(opened)
        except OSError as failure:
            os.close(opened.fd)
            raise as_rpc_error(failure, path) from failure
        return file, file.status

    def give(self, path: str, file: OpenFile, *, again: bool) -> None:
        """The file is not read any more; `again`: but it will be, by that path, so that it may stay open."""
        self.sweep()
        unused: list[OpenFile] = []
        with self._lock:
            file.readers -= 1
            if not again:
                # Whoever still reads an earlier part of it comes late.
                self._ended.pop(path, None)
                self._ended[path] = Deadline(_JUDGED)
                self._drop(path, unused)
            elif not file.kept and path not in self._ended and not file.judged.expired:
                self._drop(path, unused)
                if len(self._files) == _MOST:
                    self._drop(next(iter(self._files)), unused)
                self._files[path] = file
                file.kept = True
            if not file.kept and not file.readers and file not in unused:
                unused.append(file)
        _close(unused)

    def sweep(self) -> None:
        """Close those whose judgement is no longer good. Costs next to nothing where there are none."""
        if not self._files and not self._ended:
            return
        unused: list[OpenFile] = []
        with self._lock:
            for path in [path for path, file in self._files.items() if file.judged.expired]:
                self._drop(path, unused)
            while self._ended:  # there may be very many, of which no call should look at all
                path = next(iter(self._ended))
                if not self._ended[path].expired:
                    break
                del self._ended[path]
        _close(unused)

    def clear(self) -> None:
        """Keep none open."""
        unused: list[OpenFile] = []
        with self._lock:
            for path in list(self._files):
                self._drop(path, unused)
            self._ended.clear()
        _close(unused)

    def _drop(self, path: str, unused: list[OpenFile]) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            file.kept = False
            if not file.readers:
                unused.append(file)


def _close(files: list[OpenFile]) -> None:
    """Not under the lock: it may take long, on a file system of a network."""
    for file in files:
        os.close(file.fd)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # opening it says more
        return None
