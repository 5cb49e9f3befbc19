"""Where the lines of the audit log go: a file of its own, or the daemon's log.

Each line is written at once by one write(2) at the file's end, so that it outlives the daemon (not a loss of power,
though: a disk's cache is not waited for, which would cost each call milliseconds).
"""

from __future__ import annotations

import logging
import os
import stat
import threading

from guest.config import AuditConfig, ConfigError
from guest.os_errors import printable

LOGGER = "audit"
"""Under which the lines stand in the daemon's log, whatever its level."""

_log = logging.getLogger(LOGGER)


class LogSink:
    """The daemon's log: the journal, say."""

    def __init__(self) -> None:
        _log.setLevel(logging.INFO)

    def write(self, line: str) -> bool:
        """Write a line; True, since the log cares for its own failures."""
        _log.info("%s", line)
        return True

    def close(self) -> None:
        """The log goes on."""


class FileSink:
    """A file that is only ever appended to, rotated by size, and made anew when somebody has moved it away.

    Raises ConfigError when it cannot be written at the beginning. Later a line that cannot be written goes to the
    daemon's log with an error, and the daemon goes on: a full disk must not take away the way into the guest.
    """

    def __init__(self, path: str, max_size: int, backup_count: int) -> None:
        self._path = path
        self._max_size = max_size
        self._backup_count = backup_count
        self._lock = threading.Lock()
        self._torn = False  # the last line was written in part
        self._fd = -1
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._open()
        except OSError as failure:
            raise ConfigError(f"audit.file: cannot write {printable(path)}: {failure.strerror}") from None

    def write(self, line: str) -> bool:
        """Write a line; False when only the daemon's log has it."""
        data = line.encode() + b"\n"
        try:
            with self._lock:
                self._write(data)
            return True
        except OSError as failure:
            _log.error("cannot write %s (%s); this line belongs there: %s", self._path, failure.strerror, line)
            return False

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _write(self, data: bytes) -> None:
        if not self._is_in_place():
            self._open()
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._max_size:
            self._rotate()
        if self._torn:
            data = b"\n" + data
        written = os.write(self._fd, data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(0, f"only {written} of {len(data)} bytes were written: the disk is full")

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(0, "not a regular file")
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._torn = fd, False

    def _is_in_place(self) -> bool:
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        try:
            for number in range(self._backup_count, 0, -1):
                older = f"{self._path}.{number - 1}" if number > 1 else self._path
                try:
                    os.rename(older, f"{self._path}.{number}")
                except FileNotFoundError:
                    pass
            if not self._backup_count:
                os.unlink(self._path)
            self._open()
        except OSError as failure:  # append-only (chattr +a), say: better too large than lost
            _log.error("cannot rotate %s: %s", self._path, failure.strerror)


def files(config: AuditConfig) -> list[str]:
    """All files that the log may have, old ones too."""
    if not config.enabled or config.file is None:
        return []
    return [config.file, *(f"{config.file}.{number}" for number in range(1, config.backup_count + 1))]


def sink(config: AuditConfig) -> LogSink | FileSink:
    """The one that the configuration names; raises ConfigError."""
    return LogSink() if config.file is None else FileSink(config.file, config.max_size, config.backup_count)
