"""Where the daemon's log goes, and what a line looks like."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from io import TextIOWrapper

from guest.config import ConfigError, LoggingConfig
from guest.os_errors import printable

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
    logging.basicConfig(level="DEBUG" if debug else config.level, handlers=handlers, force=True)


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
