"""Where the daemon's log goes, and what a line looks like."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
from io import TextIOWrapper
from typing import Iterator, Sequence

from guest.config import ConfigError, LoggingConfig
from guest.os_errors import printable

_HELD_SIZE = 1 << 20  # characters

_FORMAT = "%(levelname)s %(name)s: %(message)s"


def setup(config: LoggingConfig, debug: bool) -> None:
    """Send the log to the configured file, else to standard error; `debug` logs all, and also to standard error.

    Raises ConfigError when the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if config.file is not None:
        handlers.append(_file_handler(config.file, config))
    if config.file is None or debug:
        stream = logging.StreamHandler(sys.stderr)
        # The journal has the time of each line already.
        stream.setFormatter(_Formatter(_FORMAT if "JOURNAL_STREAM" in os.environ else f"%(asctime)s {_FORMAT}"))
        handlers.append(stream)
    logging.basicConfig(level="DEBUG" if debug else config.level, handlers=[Holdback(handlers)], force=True)


def hold(held: bool) -> None:
    """Keep lines in memory, as the log may not be written (file systems are frozen); or write them now."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Holdback):
            handler.hold(held)


class Holdback(logging.Handler):
    """Hands lines on to other handlers; or keeps them until it may, within bounds, and tells how many it could not."""

    def __init__(self, targets: Sequence[logging.Handler], most: int = _HELD_SIZE) -> None:
        super().__init__()
        self._targets = targets
        self._most = most
        self._held: list[logging.LogRecord] | None = None
        self._size = 0
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on, or keep it."""
        if self._held is None:
            for target in self._targets:
                target.handle(record)
            return
        record.msg, record.args = record.getMessage(), None  # what it says now, and not what it holds on to
        self._size += len(record.msg)
        if self._size > self._most:
            self._dropped += 1
        else:
            self._held.append(record)

    def hold(self, held: bool) -> None:
        """Whether lines are kept. With True, nothing is being written when this returns."""
        with _locked(self):
            if held:
                self._held = [] if self._held is None else self._held
                return
            records, dropped = self._held or [], self._dropped
            self._held, self._size, self._dropped = None, 0, 0
            for record in records:
                self.emit(record)
            if dropped:
                text = "%d lines are missing here: too many came while file systems were frozen"
                self.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (dropped,), None))

    def close(self) -> None:
        """Close all."""
        for target in self._targets:
            target.close()
        super().close()


@contextlib.contextmanager
def _locked(handler: logging.Handler) -> Iterator[None]:
    handler.acquire()
    try:
        yield
    finally:
        handler.release()


def _file_handler(path: str, config: LoggingConfig) -> logging.Handler:
    try:
        handler = _PrivateFileHandler(path, maxBytes=config.max_size, backupCount=config.backup_count, encoding="utf-8")
    except OSError as failure:
        raise ConfigError(f"logging.file: cannot write {path}: {failure.strerror}") from None
    handler.setFormatter(_Formatter(f"%(asctime)s {_FORMAT}"))
    return handler


class _PrivateFileHandler(logging.handlers.RotatingFileHandler):
    """A rotating file that other users of the guest cannot read: it names the files and commands of callers."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)


class _Formatter(logging.Formatter):
    """One event is one line: what a caller sent cannot forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)
