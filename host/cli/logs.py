"""Where the log of one run of the command line goes. Imported only when something but the default is asked for."""

from __future__ import annotations

import logging
import logging.handlers

from host.cli.output import printable
from host.config import Settings
from host.errors import UsageError

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Shows what a terminal would obey: parts of a line may be the guest's."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def set_up_logging(settings: Settings, path: str, debug: bool) -> None:
    """Log to the file of the settings, which are those of `path`, or to stderr; with `debug` all to stderr as well."""
    handlers: list[logging.Handler] = []
    if settings.log_file is not None:
        try:
            file = logging.handlers.RotatingFileHandler(
                settings.log_file, maxBytes=settings.log_max_size, backupCount=settings.log_backup_count
            )
        except OSError as error:
            raise UsageError(
                f"{path}: logging.file: cannot write {settings.log_file}: {error.strerror}; name another file there"
            ) from None
        file.setLevel(settings.log_level)
        handlers.append(file)
    if debug or not handlers:
        stderr = logging.StreamHandler()
        stderr.setLevel("DEBUG" if debug else settings.log_level)
        handlers.append(stderr)
    for handler in handlers:
        handler.setFormatter(_Formatter(_FORMAT))
    logging.basicConfig(level=min(handler.level for handler in handlers), handlers=handlers)
