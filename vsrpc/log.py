"""Loggers that load `logging` only when there is something to tell: it takes as long as a whole call.

A program that has not loaded it has not asked for debug messages either.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class Log:
    """The logger of a module, by its name."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *values: object) -> None:
        """Tell people who look for what is wrong."""
        if "logging" in sys.modules:
            self._logger().debug(message, *values, stacklevel=2)

    def warning(self, message: str, *values: object) -> None:
        """Tell of what somebody should see to."""
        self._logger().warning(message, *values, stacklevel=2)

    def exception(self, message: str, *values: object) -> None:
        """Tell of the exception that is being handled."""
        # Not Logger.exception(), which before Python 3.11 is a place of its own.
        self._logger().error(message, *values, exc_info=True, stacklevel=2)

    def _logger(self) -> logging.Logger:
        import logging

        return logging.getLogger(self._name)
