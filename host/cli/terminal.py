"""The terminal that the command line runs in: its size, raw mode, and the escapes that are for us."""

from __future__ import annotations

import os
import sys
import termios
import tty
from types import TracebackType


class Left(Exception):
    """Whoever followed a job did not want to any more; it goes on."""


DETACH, HELP = b".", b"?"

_TEXT = "\r\n~.  leave; the job goes on in the guest\r\n~~  send ~\r\n~?  this\r\n"


def size() -> tuple[int, int]:
    """Rows and columns of the terminal; 0 where that is not known."""
    try:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        return 0, 0
    return rows, columns


class RawMode:
    """While it lasts, every key goes to us as it is and nothing is echoed; has no effect where stdin is no terminal."""

    def __enter__(self) -> RawMode:
        self._fd = sys.stdin.fileno()
        self._saved = termios.tcgetattr(self._fd) if os.isatty(self._fd) else None
        if self._saved is not None:
            tty.setraw(self._fd, termios.TCSADRAIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)


class Escapes:
    """Takes out of what is typed what is for us: `~` at the beginning of a line, and the key after it, as in ssh(1)."""

    def __init__(self) -> None:
        self._at_start = True
        self._tilde = False

    def filter(self, typed: bytes) -> bytes:
        """What of it is for the guest. Raises Left for `~.`."""
        passed = bytearray()
        for number in typed:
            key = bytes([number])
            if self._tilde:
                self._tilde = False
                if key == DETACH:
                    raise Left
                if key == HELP:
                    sys.stderr.write(_TEXT)
                    sys.stderr.flush()
                    continue
                passed += key if key == b"~" else b"~" + key
            elif key == b"~" and self._at_start:
                self._tilde = True
                continue
            else:
                passed += key
            self._at_start = key in (b"\r", b"\n")
        return bytes(passed)
