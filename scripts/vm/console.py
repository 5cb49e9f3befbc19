"""The terminal of `scripts/vm console`."""

from __future__ import annotations

import os
import select
import shutil
import socket
import sys
import termios
import tty
from pathlib import Path

LEAVE = b"\x1d"  # Ctrl-]


def attach(path: Path, log: Path) -> None:
    """Connect this terminal to the console socket until Ctrl-]; where there is no terminal, print the log."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        with log.open("rb") as recorded:
            shutil.copyfileobj(recorded, sys.stdout.buffer)
        return
    print("Connected; Ctrl-] leaves, Enter shows the prompt.")
    before = termios.tcgetattr(0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        try:
            tty.setraw(0)
            while True:
                ready = select.select([0, sock.fileno()], [], [])[0]
                if sock.fileno() in ready:
                    data = sock.recv(4096)
                    if not data:
                        break
                    os.write(1, data)
                if 0 in ready:
                    data = os.read(0, 4096)
                    if LEAVE in data:
                        break
                    sock.sendall(data)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            print()
