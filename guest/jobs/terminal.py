"""Pseudo-terminals: a pair of descriptors, a size, and a program that has one as its controlling terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
from typing import Sequence

DEFAULT_ROWS, DEFAULT_COLUMNS = 24, 80
MAX_SIZE = 0xFFFF  # struct winsize has 16 bits (asm-generic/termios.h)


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """The leader, which we read and write, and the follower, which a job has. Both are to be closed."""
    leader, follower = pty.openpty()
    for fd in (leader, follower):
        os.set_inheritable(fd, False)
    set_size(leader, rows, columns)
    return leader, follower


def set_size(leader: int, rows: int, columns: int) -> None:
    """Change the size; the kernel tells the processes by SIGWINCH (tty_ioctl(4))."""
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def is_controlling(leader: int) -> bool:
    """Whether the terminal belongs to a session, to whose foreground the kernel then sends what keys and sizes mean."""
    group: int = struct.unpack("i", fcntl.ioctl(leader, termios.TIOCGPGRP, bytes(4)))[0]
    return group != 0


def key_signals(leader: int, typed: bytes) -> list[signal.Signals]:
    """The signals that these keys mean to a terminal in its present mode (ISIG of termios(3)), in their order."""
    _, _, _, local, _, _, characters = termios.tcgetattr(leader)
    if not local & termios.ISIG:
        return []
    meanings = {characters[termios.VINTR]: signal.SIGINT, characters[termios.VQUIT]: signal.SIGQUIT}
    meanings.pop(b"\0", None)  # _POSIX_VDISABLE: no key
    keys = (typed[at : at + 1] for at in range(len(typed)))
    return [meanings[key] for key in keys if key in meanings]


def with_controlling_terminal(setsid: str, program: str, argv: Sequence[str]) -> list[str]:
    """The arguments that make `program` the leader of a session whose terminal is its standard input, so that Ctrl-C
    reaches it: by setsid(1), since between fork and exec of a program with threads nothing may run."""
    return [setsid, "--ctty", "--", program, *argv[1:]]
